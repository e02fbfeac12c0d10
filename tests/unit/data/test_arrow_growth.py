"""Arrow IPC files whose compressed buffers grow too much are refused before they are decompressed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from hbt_ray.data.arrow_growth import check_arrow_growth
from hbt_ray.data.corpora import list_shards
from hbt_ray.errors import CorpusError
from hbt_ray.utils.limits import FREE_GROWTH_BYTES, MAX_GROWTH
from tests.helpers.corpus_files import corpus, read
from tests.helpers.damage import flip_bit

COMPRESSIONS = [None, "lz4", "zstd"]


def write(file: Path, table: pa.Table, compression: str | None, new: Callable[..., Any] = pa.ipc.new_stream) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(file), "wb") as sink, new(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return file


def repeated(rows: int, text: str) -> pa.Table:
    columns = {
        "id": map(str, range(rows)),
        "language": ["en"] * rows,
        "question": [text] * rows,
        "context": ["c"] * rows,
    }
    return pa.table({name: list(values) for name, values in columns.items()})


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("encoded", [False, True])
def test_size_before_compression_is_limited(tmp_path: Path, new, compression, encoded: bool, monkeypatch):
    table = repeated(20, "q" * 1_000_000)  # 20 MB
    if encoded:
        table = table.set_column(2, "question", pa.array([f"{n}" * 500_000 for n in range(10, 30)]).dictionary_encode())
    file = write(tmp_path / "data.arrow", table, compression, new)
    if compression is None:
        check_arrow_growth(file)
        return
    monkeypatch.setenv(MAX_GROWTH, "2")
    with pytest.raises(OSError, match="grows more than its size allows when it is decompressed; raise HBT_MAX_GROWTH"):
        check_arrow_growth(file)
    monkeypatch.setenv(MAX_GROWTH, str(20_100_000 // file.stat().st_size + 1))
    check_arrow_growth(file)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_data_set_that_grows_too_much_is_refused_before_it_is_loaded(tmp_path: Path, compression, monkeypatch):
    folder = tmp_path / "set"
    datasets.Dataset(repeated(3, "q")).save_to_disk(str(folder))
    [file] = folder.glob("*.arrow")
    write(file, repeated(3, "where"), compression)
    assert [row.question for row in read(corpus("huggingface", folder))] == ["where"] * 3
    write(file, repeated(300, "q" * 100_000), compression)  # 30 MB
    if compression is None:
        assert len(read(corpus("huggingface", folder))) == 300
        return
    assert file.stat().st_size < FREE_GROWTH_BYTES // 100
    monkeypatch.setattr(datasets, "load_from_disk", None)
    with pytest.raises(CorpusError, match=r"cannot be loaded \(it grows more than .* raise HBT_MAX_GROWTH\)"):
        list_shards(corpus("huggingface", folder))


def test_damaged_bytes_are_read_or_refused(tmp_path: Path):
    file = write(tmp_path / "data.arrow", repeated(3, "where " * 100), "zstd")
    whole = file.read_bytes()
    refused = 0
    for place in range(0, len(whole), 7):
        file.write_bytes(whole)
        flip_bit(file, place)
        try:
            check_arrow_growth(file)
        except (OSError, pa.ArrowException, struct.error):
            refused += 1
    assert refused
