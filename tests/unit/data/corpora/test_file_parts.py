"""Parts of large files: their rows, rejects, ids and line numbers are those of the whole file."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.data.corpora import list_shards, read_shard, split_shard
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.types import RejectedRow
from tests.helpers.corpus_files import GOOD, corpus, write_lines

ENDS = [b"\n", b"\r\n", b"\r", b"\n\n", b" \n"]
pieces = st.lists(
    st.sampled_from(
        [*ENDS, b'"', b'""', b",", b";", b"\t", b"a", b"b,c", b'"x\ny",z', b"\xff", b"\xef\xbb\xbf", b"w" * 40]
    )
)


def assert_parts_are_the_whole(shard: CorpusShard, part_bytes: int) -> list[CorpusShard]:
    parts = split_shard(shard, part_bytes)
    assert [row for part in parts for row in read_shard(part)] == list(read_shard(shard))
    return parts


@given(st.binary() | pieces.map(b"".join), st.integers(1, 200))
def test_parts_of_any_json_lines_are_the_whole_file(content: bytes, part_bytes: int):
    good = json.dumps(GOOD).encode()
    with tempfile.TemporaryDirectory() as folder:
        for name, before in (("de.jsonl", good + b"\n"), ("en.txt", b"")):
            (Path(folder) / name).write_bytes(before + content + good)
        [lines] = list_shards(corpus("jsonl", Path(folder) / "de.jsonl"))
        assert_parts_are_the_whole(lines, part_bytes)
        [texts] = list_shards(corpus("text", Path(folder) / "en.txt"))
        assert_parts_are_the_whole(texts, part_bytes)


@pytest.mark.parametrize("ids", ["column", "rows"])
@pytest.mark.parametrize("format", ["csv", "tsv"])
@given(content=pieces.map(b"".join), part_bytes=st.integers(1, 200))
def test_parts_of_any_table_are_the_whole_file(format: str, ids: str, content: bytes, part_bytes: int):
    delimiter = b"," if format == "csv" else b"\t"
    before = b"".join(
        delimiter.join(fields) + b"\n" for fields in ([b"id", b"question", b"context"], [b"1", b"q", b"p"])
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"de.{format}").write_bytes(before + content)
        [shard] = list_shards(corpus(format, Path(folder), ids=ids))
        assert_parts_are_the_whole(shard, part_bytes)


def test_fields_with_line_ends_stay_whole(tmp_path: Path):
    text = io.StringIO()
    rows = [["id", "question", "context"], *([str(n), "Wo?", "Dort.\nHier.\n" * (n % 3)] for n in range(1, 40))]
    csv.writer(text).writerows(rows)
    (tmp_path / "de.csv").write_text(text.getvalue(), newline="")
    [shard] = list_shards(corpus("csv", tmp_path))
    assert len(assert_parts_are_the_whole(shard, 100)) > 5


def test_malformed_line_of_a_part_has_its_number_in_the_file(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", *([GOOD] * 20), b"{broken", *([GOOD] * 20))
    [shard] = list_shards(corpus("jsonl", tmp_path))
    parts = assert_parts_are_the_whole(shard, 200)
    [reject] = [row for part in parts[1:] for row in read_shard(part) if isinstance(row, RejectedRow)]
    assert (len(parts) > 5, reject.location) == (True, "de.jsonl:21")


@pytest.mark.parametrize("name", ["de.jsonl.gz", "de.jsonl"])
def test_compressed_or_small_file_is_not_divided(name: str, tmp_path: Path):
    write_lines(tmp_path / name, GOOD)
    shards = list_shards(corpus("jsonl", tmp_path))
    assert split_shard(shards[0], 10 if name.endswith("gz") else 1000) == shards


def test_file_deleted_after_listing_is_not_divided(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", GOOD)
    [shard] = list_shards(corpus("jsonl", tmp_path))
    (tmp_path / "de.jsonl").unlink()
    assert split_shard(shard, 1) == [shard]
