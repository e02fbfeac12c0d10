"""Crossmodal-3600."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers.benchmark_files import (
    load,
    reasons,
    write_objects,
)


def test_first_captions_are_queries_and_the_others_passages(tmp_path: Path):
    def image(key: str, **captions: list[str]) -> dict[str, Any]:
        languages = {language: {"caption": texts, "caption/tokenized": texts} for language, texts in captions.items()}
        return {"image/key": key, "image/locale": "en", **languages}

    write_objects(
        tmp_path / "captions.jsonl",
        image("k1", de=["Hund", "Ein Hund"], en=["dog", "a dog", "the dog"]),
        image("k2", de=["Katze"], en=["cat", "a cat"]),
        image("k3", de=[], en=["cow", "a cow"]),
    )
    benchmark = load("xm3600", tmp_path)
    assert {query.query_id: (query.text, query.group) for query in benchmark.queries} == {
        "de:k1": ("Hund", "k1"),
        "en:k1": ("dog", "k1"),
        "de:k2": ("Katze", "k2"),
        "en:k2": ("cat", "k2"),
        "en:k3": ("cow", "k3"),
    }
    assert benchmark.judgements["de:k1"] == {"de:k1:2": 1, "en:k1:2": 1, "en:k1:3": 1}
    assert benchmark.judgements["de:k2"] == {"en:k2:2": 1}
    assert (benchmark.split, reasons(benchmark)) == ("", {"missing text": 1})
    assert not {query.text for query in benchmark.queries} & {passage.text for passage in benchmark.passages}
