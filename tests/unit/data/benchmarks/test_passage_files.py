"""Files of passages in blocks: of equal ids the first is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.data.benchmarks import passage_files
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.benchmarks.passage_files import PassageFile, read_blocks
from tests.helpers.benchmark_files import write_objects


def test_first_of_passages_with_one_id_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(passage_files, "_MAX_BLOCK", 2)
    write_objects(tmp_path / "docs.jsonl", *({"docid": key, "text": f"{key} {n}"} for n, key in enumerate("bcabac")))
    builder = BenchmarkBuilder("b")
    blocks = list(read_blocks(PassageFile(tmp_path / "docs.jsonl", "sw", id_prefix="sw:")))
    assert [len(block.ids) for block in blocks] == [2, 2, 2, 0]
    builder.add_blocks(blocks)
    builder.add_query("q", "sw", "?", location="")
    builder.add_judgement("q", "sw:a", 1, language="sw", location="")
    built = builder.build(judged_only=False)
    assert [(p.passage_id, p.text) for p in built.passages] == [("sw:a", "a 2"), ("sw:b", "b 0"), ("sw:c", "c 1")]
    assert [(r.location, r.detail) for r in built.rejects] == [
        ("docs.jsonl:4", "sw:b"),
        ("docs.jsonl:5", "sw:a"),
        ("docs.jsonl:6", "sw:c"),
    ]
