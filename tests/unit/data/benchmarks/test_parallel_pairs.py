"""Parallel pairs as a benchmark."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.benchmark_files import (
    load,
    reasons,
    write_objects,
)


def test_pairs_align_by_id_and_equal_contexts_are_one_passage(tmp_path: Path):
    rows = [{"id": 1, "question": "a?", "context": "A."}, {"id": 2, "question": "b?", "context": "A."}]
    write_objects(tmp_path / "en.jsonl.gz", *rows)
    write_objects(tmp_path / "de.jsonl", {"id": "1", "question": "ä?", "context": "Ä."}, {"id": "3", "context": "Ö."})
    benchmark = load("pairs", tmp_path)
    assert [passage.passage_id for passage in benchmark.passages] == ["de:1", "en:1"]
    assert benchmark.judgements == {
        "de:1": {"de:1": 1, "en:1": 1},
        "en:1": {"de:1": 1, "en:1": 1},
        "en:2": {"en:1": 1},
    }
    assert (benchmark.split, reasons(benchmark)) == ("", {"missing text": 1})
    assert load("pairs/de", tmp_path).languages == ["de"]
