"""A run whose store has few of the tokens of an encoder of XLM-R's class."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from hbt_ray.config import RunConfig, build_config
from hbt_ray.data.manifest import write_manifest
from hbt_ray.data.token_store import TokenItem, write_shard
from hbt_ray.data.tokenizer import PairTokenizer
from hbt_ray.training.checkpoint import CheckpointManager, export_encoder
from hbt_ray.utils.digests import file_checksums
from hbt_ray.utils.storage import StoragePath
from tests.helpers import model_folders, tiny_corpus

STORE_LANGUAGES = ("de", "en")  # of the tokenizer's three
WORDS = ("amber", "brook", "cedar", "dune", "ember", "fjord", "grove", "heath", "islet", "juniper", "knoll", "larch")


def write_inputs(folder: Path) -> Path:
    """Write an encoder, `encoder`, and a store with texts of its first words, `store`."""
    texts = [f"{x} {word} {WORDS[n % 12 - 1]} {n}" for x in tiny_corpus.LANGUAGES for n, word in enumerate(WORDS * 5)]
    texts += [chr(0x4E00 + n) for n in range(200)]  # are in no text of the store
    model_folders.write_xlm_roberta(folder / "encoder", texts)
    pairs = PairTokenizer(AutoTokenizer.from_pretrained(folder / "encoder"), tiny_corpus.TEXT)
    items = {"train": range(30), "validation": range(30, 38)}
    written = [
        write_shard(folder / "store", "x", split, 0, _items(pairs, items[split]), pairs.token_type) for split in items
    ]
    write_manifest(folder / "store", written, text_fingerprint=pairs.fingerprint(), token_type=pairs.token_type)
    return folder


def _items(pairs: PairTokenizer, numbers: Iterable[int]) -> list[TokenItem]:
    def encode(text: str, side: Any) -> dict[str, Any]:
        return {x: pairs.encode([f"{x} {text}"], side)[0] for x in STORE_LANGUAGES}

    return [
        TokenItem(
            f"item-{n:02}",
            encode(f"{WORDS[n % 4]} {n % 7}", "question"),
            encode(f"{WORDS[n % 5]} {n}", "passage"),
            {x: pairs.encode([f"{x} {WORDS[5]} {n}"], "passage") for x in STORE_LANGUAGES},
        )
        for n in numbers
    ]


def config_of(folder: Path, vocabulary: str, **sections: dict[str, Any]) -> RunConfig:
    """Return a run of 50 steps with warm-up, weight decay and a gradient norm that is clipped in each step."""
    train = {
        "steps": 50,
        "global_batch_pairs": 8,
        "chunk_pairs": 4,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "warmup_share": 0.2,
        "max_gradient_norm": 0.05,
        "precision": "fp32",
        "checkpoint_every": 10,
        "checkpoints_kept": 10,
        "vocabulary": vocabulary,
    }
    settings = {
        "corpora": [{"format": "embedded"}],
        "text": tiny_corpus.TEXT.model_dump(),
        "model": {"path": str(folder / "encoder"), **sections.pop("model", {})},
        "train": train | sections.pop("train", {}),
    }
    return build_config(settings | sections)


def exported(config: RunConfig, folder: Path, checkpoints: Path, step: int, out: Path) -> dict[str, str]:
    """Export the encoder of a checkpoint; return the checksum of each file."""
    export_encoder(config, str(folder / "encoder"), folder / "store", StoragePath.of(checkpoints), step, out)
    return file_checksums(out, sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()))


def saved(checkpoints: Path, step: int) -> Path:
    """Return the folder of a checkpoint."""
    return Path(str(CheckpointManager(StoragePath.of(checkpoints)).path)) / f"step-{step:09}"
