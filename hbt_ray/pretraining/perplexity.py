"""How well held-out text is told, language by language."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hbt_ray.config import PretrainRunConfig
from hbt_ray.data.manifest import StoreManifest
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError
from hbt_ray.pretraining.batch import TokenBlockBatch
from hbt_ray.pretraining.collate import collate_blocks, twins
from hbt_ray.pretraining.masking import IGNORE_INDEX, MaskRules
from hbt_ray.pretraining.text_streams import TextStream, find_stream, read_window
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.training.base_trainer import BaseTrainer
from hbt_ray.utils.counter_rng import Salt, stable_hash64

PERPLEXITY, LOSS = "perplexity", "held_out_loss"  # what is measured; the latter for the contrastive objective


def held_out_streams(config: PretrainRunConfig, manifest: StoreManifest) -> dict[str, TextStream]:
    """Each language's held-out texts, also where pretraining joins two. Raises ConfigError when one has none."""
    languages = config.languages or manifest.languages
    streams = {language: find_stream(manifest, (language,), "validation", 0) for language in languages}
    for language, stream in streams.items():
        if stream.texts < 2:
            raise _too_little(language)
    return streams


def evaluate_held_out(
    trainer: BaseTrainer[Any], config: PretrainRunConfig, store: TokenStore, rules: MaskRules | None
) -> dict[str, float]:
    """What a model makes of the held-out text of each language, without dropout: the same text and masks every time.

    Returns:
        `perplexity/<language>`: e to the mean cross-entropy of masked tokens in text of that language alone, over the
        first `held_out_blocks`; or, of the contrastive objective, which masks nothing, `held_out_loss/<language>` of as
        many texts.
    """
    found = {}
    for language, stream in held_out_streams(config, store.manifest).items():
        if rules is None:
            texts = np.arange(min(stream.texts, config.pretrain.held_out_blocks))
            batch: PairBatch | TokenBlockBatch = twins(store, stream, texts)
            found[f"{LOSS}/{language}"] = trainer.validation_loss([batch])
        else:
            batch = _blocks(store, stream, config, rules)
            if not (batch.targets != IGNORE_INDEX).any():
                raise _too_little(language)
            found[f"{PERPLEXITY}/{language}"] = math.exp(trainer.validation_loss([batch]))
    return found


def _blocks(store: TokenStore, stream: TextStream, config: PretrainRunConfig, rules: MaskRules) -> TokenBlockBatch:
    """The first blocks of a stream; a shorter one where it has less than one."""
    tokens = min(config.pretrain.block_tokens, stream.tokens)
    count = min(stream.tokens // tokens, config.pretrain.held_out_blocks)
    read = [read_window(store, stream, number * tokens, tokens) for number in range(count)]
    return collate_blocks(
        read, rules, [stable_hash64(Salt.HELD_OUT_MASK, stream.name, number) for number in range(count)]
    )


def _too_little(language: str) -> ConfigError:
    return ConfigError(
        f"too little text in {language!r} is held out to measure on; raise prepare.validation_share, "
        "or leave it out of languages"
    )


def before_and_after(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """By language, what was measured at the beginning and at the end."""
    return {
        name.rpartition("/")[2]: {"before": before[name], "after": after[name]}
        for name in before
        if name.startswith((f"{PERPLEXITY}/", f"{LOSS}/"))
    }


def write_before_and_after(
    folder: Path, before: Mapping[str, float], after: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Writes `perplexity.json`, or `held_out_loss.json`: language -> before and after."""
    found = before_and_after(before, after)
    name = next(iter(before)).partition("/")[0]
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found
