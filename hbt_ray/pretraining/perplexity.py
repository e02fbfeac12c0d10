"""Evaluation on held-out text, language by language: perplexity of masked tokens, or the contrastive loss."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hbt_ray.config import PretrainRunConfig
from hbt_ray.data.manifest import StoreManifest
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError
from hbt_ray.pretraining.batch import TokenBlockBatch
from hbt_ray.pretraining.collate import collate_blocks, simcse_pairs
from hbt_ray.pretraining.masking import IGNORE_INDEX, MaskRules
from hbt_ray.pretraining.text_streams import TextStream, find_stream, read_window
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.utils.atomic_write import atomic_write_text
from hbt_ray.utils.counter_rng import Salt, stable_hash64

if TYPE_CHECKING:  # torch takes seconds to import, and Ray Train's controller does not need it
    from hbt_ray.training.base_trainer import BaseTrainer

PERPLEXITY, HELD_OUT_LOSS = "perplexity", "held_out_loss"  # prefixes of the metrics' names


def held_out_streams(config: PretrainRunConfig, manifest: StoreManifest) -> dict[str, TextStream]:
    """Find each language's held-out texts. Streams have one language, also where training joins two.

    Raises:
        ConfigError: a language has fewer than two held-out texts.
    """
    languages = config.languages or manifest.languages
    streams = {language: find_stream(manifest, (language,), "validation", 0) for language in languages}
    for language, stream in streams.items():
        if stream.texts < 2:
            raise _too_little_text(language)
    return streams


def held_out_perplexity(
    trainer: BaseTrainer[TokenBlockBatch], config: PretrainRunConfig, store: TokenStore, rules: MaskRules
) -> dict[str, float]:
    """Compute the perplexity of masked tokens in each language's first `held_out_blocks` held-out blocks.

    It is e to the mean cross-entropy, without dropout. Blocks and masks are the same at each call.

    Returns:
        `perplexity/<language>` -> perplexity.

    Raises:
        ConfigError: a language's held-out blocks have no masked token.
    """
    metrics = {}
    for language, stream in held_out_streams(config, store.manifest).items():
        batch = _held_out_blocks(store, stream, config, rules)
        if not (batch.targets != IGNORE_INDEX).any():
            raise _too_little_text(language)
        metrics[f"{PERPLEXITY}/{language}"] = _exp(trainer.validation_loss([batch]))
    return metrics


def _exp(loss: float) -> float:
    """Return e to a loss; inf if that is too large for a float, as after a training that diverged."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def held_out_loss(trainer: BaseTrainer[PairBatch], config: PretrainRunConfig, store: TokenStore) -> dict[str, float]:
    """Compute the contrastive loss of each language's first `held_out_blocks` held-out texts, without dropout.

    Returns:
        `held_out_loss/<language>` -> loss.
    """
    metrics = {}
    for language, stream in held_out_streams(config, store.manifest).items():
        texts = np.arange(min(stream.texts, config.pretrain.held_out_blocks))
        batch = simcse_pairs(store, stream, texts)
        metrics[f"{HELD_OUT_LOSS}/{language}"] = trainer.validation_loss([batch])
    return metrics


def _held_out_blocks(
    store: TokenStore, stream: TextStream, config: PretrainRunConfig, rules: MaskRules
) -> TokenBlockBatch:
    """Return the first blocks of a stream; one shorter block if it has fewer tokens than a block."""
    tokens = min(config.pretrain.block_tokens, stream.tokens)
    count = min(stream.tokens // tokens, config.pretrain.held_out_blocks)
    blocks = [read_window(store, stream, number * tokens, tokens) for number in range(count)]
    keys = [stable_hash64(Salt.HELD_OUT_MASK, stream.name, number) for number in range(count)]
    return collate_blocks(blocks, rules, keys)


def _too_little_text(language: str) -> ConfigError:
    return ConfigError(
        f"too little text in {language!r} is held out to measure on; raise prepare.validation_share, "
        "or leave it out of languages"
    )


def write_before_and_after(
    folder: Path, before: Mapping[str, float], after: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Write `perplexity.json`, or `held_out_loss.json`, and return it: language -> "before" and "after" training.

    JSON has no number for a value that is not finite, as after a training that diverged; it is null there.

    Args:
        folder: of the run.
        before: metrics of the initial model.
        after: metrics of the final one.
    """
    by_language = {
        name.rpartition("/")[2]: {"before": before[name], "after": after[name]}
        for name in before
        if name.startswith((f"{PERPLEXITY}/", f"{HELD_OUT_LOSS}/"))
    }
    prefix = next(iter(before)).partition("/")[0]
    finite = {
        language: {when: value if math.isfinite(value) else None for when, value in values.items()}
        for language, values in by_language.items()
    }
    atomic_write_text(folder / f"{prefix}.json", json.dumps(finite, indent=1, allow_nan=False) + "\n")
    return by_language
