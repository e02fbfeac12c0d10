"""Malformed files of every format: a fault is a reject with its location and reason, or the file is refused by name.

Damage inside a text cannot be detected; nothing else may become a row.
"""

from __future__ import annotations

import copy
import csv
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from hbt_ray.config import CorpusConfig, config_file, load_config
from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.data.benchmarks import writers as benchmark_writers
from hbt_ray.data.corpora import list_shards
from hbt_ray.data.row_tables import ROWS, read_rows
from hbt_ray.errors import ConfigError, CorpusError
from hbt_ray.evaluation.evaluator import check_benchmark
from hbt_ray.search.config import load_search
from hbt_ray.study.config import load_study, study_file
from tests.helpers.damage import JUNK, malformed_cases

FORMATS = ("squad", "jsonl", "csv", "parquet", "huggingface")
ITEMS = 6


def records() -> list[dict[str, Any]]:
    return [
        {
            "id": f"item-{n}",
            "question": f"Where is number {n}?",
            "context": f"Number {n} is here.",
            "answer_text": f"{n}",
            "answer_start": 7,
            "negatives": [f"Not {n}."],
        }
        for n in range(ITEMS)
    ]


# Values that are no text, and an answer that is not at its offset. None of them can be repaired.
NO_TEXT = (
    st.none() | st.integers() | st.booleans() | st.lists(st.integers(), min_size=1) | st.just("") | st.just(" \n\t")
)
NO_ANSWER = st.text(min_size=1).filter(lambda text: not "Number 0 is here."[7:].startswith(text))


def write(format: str, folder: Path, rows: list[Any]) -> Path:
    """Return the rows in a format; those that a typed format cannot hold make its column a column of text."""
    if format == "jsonl":
        (folder / "de.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return folder / "de.jsonl"
    if format == "csv":
        with (folder / "de.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "negatives": row["negatives"][0]} for row in rows)
        return folder / "de.csv"
    if format == "squad":
        paragraphs = [
            {
                "context": row.get("context"),
                "qas": [
                    {
                        "id": row.get("id"),
                        "question": row.get("question"),
                        "answers": [{"text": row.get("answer_text"), "answer_start": row.get("answer_start")}],
                    }
                ],
            }
            for row in rows
        ]
        content = json.dumps({"data": [{"paragraphs": paragraphs}]}).encode()
        (folder / "de.json.gz").write_bytes(gzip.compress(content, mtime=0))
        return folder / "de.json.gz"
    table = pa.Table.from_pylist(rows)
    if format == "parquet":
        pq.write_table(table, folder / "de.parquet")
        return folder / "de.parquet"
    table = table.append_column("language", pa.array(["de"] * len(table)))
    datasets.Dataset(table).save_to_disk(str(folder / "set"))
    return next((folder / "set").glob("*.arrow"))


def read(format: str, folder: Path) -> pa.Table:
    path = folder / "set" if format == "huggingface" else folder
    shards = list_shards(CorpusConfig.model_validate({"format": format, "name": "source", "path": str(path)}))
    return pa.concat_tables([ROWS.empty_table(), *read_rows(shards, None)])


def good_rows(table: pa.Table) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if row["rejected"] is None]


def check_rows(table: pa.Table) -> None:
    """Check that every row is complete, or a reject with its location and reason."""
    for row in table.to_pylist():
        if row["rejected"] is None:
            assert all(row[name].strip() for name in ("item_id", "language", "question", "passage"))
        else:
            assert row["place"]
            assert row["rejected"]


@pytest.mark.parametrize("format", FORMATS)
def test_well_formed_files_are_read_completely(format: str, tmp_path: Path):
    write(format, tmp_path, records())
    assert len(good_rows(read(format, tmp_path))) == ITEMS


@pytest.mark.parametrize("format", ["squad", "jsonl"])
@malformed_cases(data=st.data())
def test_record_with_a_wrong_value_is_the_only_reject(format: str, data: st.DataObject):
    rows = copy.deepcopy(records())
    key = data.draw(st.sampled_from(["question", "context", "id", "answer_text"]))
    wrong = {"answer_text": NO_ANSWER, "id": NO_TEXT.filter(lambda value: not isinstance(value, int))}
    rows[0][key] = data.draw(wrong.get(key, NO_TEXT))
    with tempfile.TemporaryDirectory() as folder:
        write(format, Path(folder), rows)
        table = read(format, Path(folder))
    check_rows(table)
    assert [row["item_id"] for row in good_rows(table)] == [f"item-{n}" for n in range(1, ITEMS)]


@pytest.mark.parametrize("format", ["parquet", "huggingface"])
@malformed_cases(key=st.sampled_from(["question", "context", "id"]), value=st.sampled_from([None, "", "  ", "\n"]))
def test_record_with_an_empty_cell_is_the_only_reject(format: str, key: str, value: str | None):
    rows = copy.deepcopy(records())
    rows[0][key] = value
    with tempfile.TemporaryDirectory() as folder:
        write(format, Path(folder), rows)
        table = read(format, Path(folder))
    check_rows(table)
    assert [row["item_id"] for row in good_rows(table)] == [f"item-{n}" for n in range(1, ITEMS)]


@pytest.mark.parametrize("format", FORMATS)
@malformed_cases(3, column=st.sampled_from(["question", "context"]))
def test_missing_column_gives_no_row(format: str, column: str):
    rows = [{key: value for key, value in row.items() if key != column} for row in records()]
    with tempfile.TemporaryDirectory() as folder:
        write(format, Path(folder), rows)
        try:
            table = read(format, Path(folder))
        except CorpusError:
            return
    check_rows(table)
    assert good_rows(table) == []


@pytest.mark.parametrize("format", FORMATS)
@malformed_cases(data=st.data())
def test_damaged_file_is_refused_or_gives_whole_rows_and_rejects(format: str, data: st.DataObject):
    """Truncate, overwrite or flip bytes anywhere."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = write(format, folder, records())
        content = bytearray(file.read_bytes())
        offset = data.draw(st.integers(0, len(content) - 1))
        damage = data.draw(st.sampled_from(["cut", "flip", "overwrite", "insert"]))
        if damage == "cut":
            content = content[:offset]
        elif damage == "flip":
            content[offset] ^= 1 << data.draw(st.integers(0, 7))
        else:
            junk = data.draw(st.binary(min_size=1, max_size=20))
            content[offset : offset + (len(junk) if damage == "overwrite" else 0)] = junk
        file.write_bytes(bytes(content))
        try:
            table = read(format, folder)
        except CorpusError:
            return
    check_rows(table)
    known = {row["id"] for row in records()}
    if format == "squad":  # gzip has a checksum, so it is all or nothing
        assert {row["item_id"] for row in good_rows(table)} in (set(), known)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "cp1251", "gb18030"])
@pytest.mark.parametrize("format", ["squad", "jsonl"])
def test_encoding_other_than_utf8_gives_no_row(format: str, encoding: str, tmp_path: Path):
    text = {"latin-1": "Über", "cp1251": "Где это", "gb18030": "在哪里", "utf-16": "Wo"}[encoding]
    rows = [row | {"question": text, "answer_text": "0", "answer_start": -1} for row in records()[:1]]
    file = write(format, tmp_path, rows)
    if format == "squad":
        content = gzip.decompress(file.read_bytes()).decode()
        raw = json.dumps(json.loads(content), ensure_ascii=False).encode(encoding)
        file.write_bytes(gzip.compress(raw))
    else:
        file.write_bytes(json.dumps(rows[0], ensure_ascii=False).encode(encoding))
    table = read(format, tmp_path)
    check_rows(table)
    assert good_rows(table) == []


def damaged(content: bytes, data: st.DataObject) -> bytes:
    """Return the content with a part cut off, overwritten, repeated or replaced by a value of another type."""
    start = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(start, min(len(content), start + 30)))
    junk = data.draw(st.binary(max_size=12) | st.sampled_from(JUNK))
    return data.draw(st.sampled_from([content[:start], content[:start] + junk + content[end:], content + junk]))


def write_benchmark_files(format: str, folder: Path) -> None:
    if format in {"squad", "pairs"}:
        write("squad" if format == "squad" else "jsonl", folder, records())
        return
    items = {str(n): {"de": (f"Wo ist {n}?", f"Hier ist {n}."), "en": (f"Where is {n}?", f"{n}")} for n in range(4)}
    benchmark_writers.write_benchmark(format, items, items, folder)


@pytest.mark.parametrize("format", [*benchmark_writers.FORMATS, "squad", "pairs"])
@malformed_cases(data=st.data())
def test_damaged_benchmark_is_refused_by_name_or_has_rejects(format: str, data: st.DataObject):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_benchmark_files(format, folder)
        file = data.draw(st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file())))
        content = file.read_bytes()
        plain = gzip.decompress(content) if file.suffix == ".gz" else content
        broken = damaged(plain, data)
        file.write_bytes(gzip.compress(broken) if file.suffix == ".gz" else broken)
        try:
            benchmark = load_benchmark(format, name)
            check_benchmark(benchmark)
        except CorpusError as error:
            message = str(error)
        else:
            return
    assert "\n" not in message
    assert format in message or folder.name in message


SETTINGS = {  # file -> what reads it
    **{config_file(name): load_config for name in ("smoke", "real_cpu", "hybrid")},
    config_file("search_real_cpu"): load_search,
    study_file("domain-adaptive"): load_study,
}


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: file.stem)
@malformed_cases(data=st.data())
def test_damaged_settings_are_read_or_refused(file: Path, data: st.DataObject):
    with tempfile.TemporaryDirectory() as folder:
        broken = Path(folder) / "damaged.yaml"
        broken.write_bytes(damaged(file.read_bytes(), data))
        try:
            assert SETTINGS[file](broken)
        except ConfigError as error:
            message = str(error)
        else:
            return
    assert "\n" not in message
