"""A corpus of Parquet files, by language or with a column for it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hbt_ray.data.corpora import list_shards, parquet, read_shard
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.errors import CorpusError
from tests.helpers.corpus_files import corpus, only_reject, read, table


def test_parquet_files_can_be_named_by_language(tmp_path: Path):
    pq.write_table(table(), tmp_path / "de.parquet")
    rows = read(corpus("parquet", tmp_path))
    assert rows == [
        CorpusRow("source", f"i{n}", "de", f"q{n}", f"p{n}", (f"n{n}",), f"de.parquet:{n + 1}") for n in range(3)
    ]


def test_parquet_files_can_have_a_language_column(tmp_path: Path):
    pq.write_table(table(["de", "en", "de"]), tmp_path / "train-00000.parquet")
    pq.write_table(table(["fr", "en", "en"]), tmp_path / "train-00001.parquet")
    rows = read(corpus("parquet", tmp_path, languages=["de", "fr"]))
    assert [(row.location, row.language) for row in rows if isinstance(row, CorpusRow)] == [
        ("train-00000.parquet:1", "de"),
        ("train-00000.parquet:3", "de"),
        ("train-00001.parquet:1", "fr"),
    ]


def test_shards_of_a_large_parquet_file_add_up_to_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pq.write_table(table(rows=10), tmp_path / "de.parquet", row_group_size=2)  # groups 0..4
    whole = read(corpus("parquet", tmp_path))
    monkeypatch.setattr(parquet, "_ROWS_PER_SHARD", 4)
    shards = list_shards(corpus("parquet", tmp_path))
    assert [shard.options["row_groups"] for shard in shards] == [(0, 2), (2, 4), (4, 5)]
    assert [row for shard in shards for row in read_shard(shard)] == whole
    assert len(whole) == 10


def test_missing_parquet_columns_are_an_error_that_lists_those_there_are(tmp_path: Path):
    pq.write_table(pa.table({"other": [1, 2]}), tmp_path / "de.parquet")
    with pytest.raises(CorpusError, match=r"de\.parquet has no column 'question', but has 'other'"):
        list_shards(corpus("parquet", tmp_path))


def test_only_the_parquet_row_that_is_not_utf8_is_rejected(tmp_path: Path):
    bad = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xffx"))
    pq.write_table(pa.table({"id": ["a", "b"], "question": bad, "context": ["p", "p"]}), tmp_path / "de.parquet")
    first, second = read(corpus("parquet", tmp_path))
    assert isinstance(first, RejectedRow)
    assert (first.location, first.reason) == ("de.parquet:1", "wrong encoding")
    assert isinstance(second, CorpusRow)


def test_parquet_value_that_python_lacks_is_a_wrong_type(tmp_path: Path):
    late = pa.array([2**60, None], pa.timestamp("ms"))
    pq.write_table(pa.table({"id": ["a", "b"], "question": late, "context": ["p", "p"]}), tmp_path / "de.parquet")
    rows = read(corpus("parquet", tmp_path))
    assert [row.reason for row in rows if isinstance(row, RejectedRow)] == ["wrong type", "missing question"]


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_truncated_parquet_file_is_one_reject(kept: float, tmp_path: Path):
    file = tmp_path / "de.parquet"
    pq.write_table(table(rows=100), file)
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    assert only_reject(read(corpus("parquet", tmp_path))).reason == "unreadable file"


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_parquet_file_that_grows_beyond_the_limit_is_one_reject(tmp_path: Path, use_dictionary: bool):
    rows = {"id": [f"{n}" for n in range(300)], "question": ["q" * 100_000] * 300, "context": ["c"] * 300}  # 30 MB
    pq.write_table(pa.table(rows), tmp_path / "de.parquet", compression="zstd", use_dictionary=use_dictionary)
    assert (tmp_path / "de.parquet").stat().st_size < 30_000
    reject = only_reject(read(corpus("parquet", tmp_path)))
    assert reject.reason == "unreadable file"
    assert "raise HBT_MAX_GROWTH" in reject.detail


def test_corpus_without_row_groups_is_refused_by_name(tmp_path: Path):
    pq.ParquetWriter(tmp_path / "en.parquet", table().schema).close()
    with pytest.raises(CorpusError, match=r"the corpus 'source' at .* has no rows; leave it out of corpora"):
        list_shards(corpus("parquet", tmp_path))
