"""A small parallel corpus, and a run over it that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

from hbt_ray.config import RunConfig, build_config

LANGUAGES = ("de", "en", "fr")


def write_corpus(parent: Path, name: str = "numbers", items: range = range(120)) -> Path:
    """Write a folder of 120 parallel items, or others, in three languages; every fifth lacks French."""
    folder = parent / name
    folder.mkdir()
    for language in LANGUAGES:
        rows = [
            {
                "id": f"item-{item}",
                "question": f"{language} what is {'abcdefghij'[item % 10]}{item}",
                "context": f"{language} it is the number {item} " + "so " * (item % 5),
            }
            for item in items
            if language != "fr" or item % 5 != 4
        ]
        (folder / f"{language}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def tiny_config(corpus: Path, **sections) -> RunConfig:
    """Return a run over `corpus` that trains in seconds; `sections` replace settings."""
    plain = {
        "name": "tiny",
        "corpora": [{"format": "jsonl", "path": str(corpus)}],
        "text": {"max_query_tokens": 20, "max_passage_tokens": 24},
        "model": {"small": {"layers": 1, "width": 16, "heads": 2, "vocabulary": 300}},
        "train": {
            "steps": 10,
            "global_batch_pairs": 16,
            "chunk_pairs": 4,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "checkpoint_every": 3,
            "threads_per_worker": 1,
        },
    }
    for name, settings in sections.items():
        plain[name] = {**plain[name], **settings} if isinstance(plain.get(name), dict) else settings
    return build_config(plain)


def store_bytes(store: Path) -> dict[str, bytes]:
    """Return the bytes of a store's shards."""
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in sorted(store.rglob("*.arrow"))}
