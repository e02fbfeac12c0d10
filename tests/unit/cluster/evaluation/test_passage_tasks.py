"""Blocks of passages as tasks return them."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.cluster.evaluation.passage_tasks import read_part
from hbt_ray.data.benchmarks.passage_files import PassageFile, read_blocks
from hbt_ray.data.text_files import split_lines
from hbt_ray.utils.string_column import StringColumn
from tests.helpers.benchmark_files import write_objects

_LINES = [
    '{"docid": "d1", "text": "one"}',
    "",
    "no JSON",
    '{"docid": "d2", "text": " "}',
    '{"docid": "d3", "text": "é"}',
]


@given(lines=st.lists(st.sampled_from(_LINES), min_size=1, max_size=6), size=st.integers(1, 120))
def test_blocks_of_parts_are_those_of_the_file(tmp_path_factory, lines: list[str], size: int):
    folder: Path = tmp_path_factory.mktemp("blocks")
    (folder / "docs.jsonl").write_bytes("\n".join(lines).encode())
    file = PassageFile(folder / "docs.jsonl", "fr", query_texts={"d1": "one"})
    [whole] = read_blocks(file)
    blocks = [
        read_part(file, part, folder / f"{number}.arrow")
        for number, part in enumerate(split_lines(file.path, size) if file.path.stat().st_size else [None])
    ]
    assert [line for block in blocks for line in block.lines.tolist()] == whole.lines.tolist()
    assert [fault for block in blocks for fault in block.faults] == whole.faults
    assert [query for block in blocks for query in block.queries] == whole.queries
    assert list(StringColumn([block.texts for block in blocks])) == whole.texts.to_pylist()


def test_no_task_returns_the_texts_of_passages(tmp_path: Path):
    sizes = []
    for chars in (10, 10_000):
        write_objects(tmp_path / "docs.jsonl", *({"docid": n, "text": "x" * chars} for n in range(500)))
        block = read_part(PassageFile(tmp_path / "docs.jsonl", "en"), None, tmp_path / "texts.arrow")
        sizes.append(len(pickle.dumps(replace(block, file_name=""))))
    assert sizes[0] == sizes[1] < 500 * 40
