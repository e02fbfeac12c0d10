"""Lines of text files, and rejects."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import pytest

from hbt_ray.data.text_files import (
    Fault,
    TextLine,
    check_inside,
    parse_json,
    read_bytes,
    read_lines,
    rejected_row,
)
from hbt_ray.data.types import RejectedRow
from hbt_ray.errors import CorpusError
from hbt_ray.utils import limits


@pytest.mark.parametrize("name", ["de.txt", "de.txt.gz"])
def test_lines_are_numbered_and_decoded_without_byte_order_mark(tmp_path: Path, name: str):
    content = b"\xef\xbb\xbfeins\r\n\nzwei"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert list(read_lines(tmp_path / name)) == [
        TextLine(1, f"{name}:1", b"\xef\xbb\xbfeins\r\n", "eins\r\n", 9),
        TextLine(2, f"{name}:2", b"\n", "\n", 10),
        TextLine(3, f"{name}:3", b"zwei", "zwei", 14),
    ]
    assert read_bytes(tmp_path / name) == content


def test_line_that_is_not_utf8_is_a_fault_and_the_next_is_read(tmp_path: Path):
    (tmp_path / "de.txt").write_bytes(b"\xff\nzwei\n")
    fault, line = read_lines(tmp_path / "de.txt")
    assert isinstance(fault, Fault)
    assert fault[:2] == ("de.txt:1", "wrong encoding")
    assert isinstance(line, TextLine)


def test_line_of_utf16_is_a_fault(tmp_path: Path):
    (tmp_path / "de.txt").write_text("eins\nzwei", encoding="utf-16-le")
    faults = [line for line in read_lines(tmp_path / "de.txt") if isinstance(line, Fault)]
    assert [fault[:2] for fault in faults] == [("de.txt:1", "wrong encoding"), ("de.txt:2", "wrong encoding")]
    assert "save the file as UTF-8" in str(faults[0].detail)


def test_missing_file_is_a_fault_at_its_first_line(tmp_path: Path):
    [fault] = read_lines(tmp_path / "de.txt")
    assert isinstance(fault, Fault)
    assert fault[:2] == ("de.txt:1", "unreadable file")


def test_broken_json_is_a_fault_with_its_location():
    assert parse_json('{"a": 1}', "de.jsonl:1") == {"a": 1}
    fault = parse_json("{", "de.jsonl:2")
    assert isinstance(fault, Fault)
    assert fault.reject("source") == RejectedRow("source", "de.jsonl:2", "broken JSON", str(fault.detail))


def test_link_out_of_its_folder_is_refused(tmp_path: Path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (tmp_path / "secret").touch()
    (folder / "outside").symlink_to(tmp_path / "secret")
    (folder / "file").touch()
    (folder / "inside").symlink_to("file")
    check_inside(folder / "inside", folder)
    with pytest.raises(CorpusError, match="outside' is a link that leads out of its folder"):
        check_inside(folder / "outside", folder)


def test_detail_of_a_reject_has_at_most_200_characters():
    assert rejected_row("source", "here", "wrong type", "x" * 1000).detail == "x" * 200
    assert len(rejected_row("source", "here", "wrong type", "\ud800" * 1000).detail) == 200


def test_line_above_the_limit_is_one_fault_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HBT_MAX_LINE_BYTES", "10")
    for name in ("a.txt", "a.txt.gz"):
        content = b"012345678\n" + b"x" * 3_000_000 + b"\n123456789\n"
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        first, second, third = read_lines(tmp_path / name)
        assert isinstance(first, TextLine)  # 10 bytes with the end of line
        assert isinstance(second, Fault)
        assert (second.location, second.reason) == (f"{name}:2", "line too long")
        assert isinstance(third, TextLine)
        assert third.number == 3


def test_gzip_bomb_is_a_fault_that_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "FREE_GROWTH_BYTES", 1 << 20)
    file = tmp_path / "de.jsonl.gz"
    with gzip.open(file, "wb") as bomb:
        for _ in range(100):
            bomb.write(bytes(1 << 20))
    tracemalloc.start()
    [fault] = read_lines(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(fault, Fault)
    assert (fault.location, fault.reason) == ("de.jsonl.gz:1", "unreadable file")
    assert "raise HBT_MAX_GROWTH" in str(fault.detail)
    assert peak < 80_000_000
    with pytest.raises(OSError, match="grows more than its size allows"):
        read_bytes(file)
    monkeypatch.setenv("HBT_MAX_GROWTH", "2000")
    assert len(read_bytes(file)) == 100 << 20
