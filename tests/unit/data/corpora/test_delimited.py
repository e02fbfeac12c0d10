"""CSV and TSV: dialects, quotes, and the rows and rejects of any bytes."""

from __future__ import annotations

import csv
import gzip
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.data.corpora import list_shards, read_shard, split_shard
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.errors import CorpusError
from tests.helpers.corpus_files import corpus, only_reject, read

HEADER = ["id", "question", "context"]


def texts(folder: Path, format: str = "csv", **settings: object) -> list[tuple[str, str, str]]:
    rows = read(corpus(format, folder, **settings))
    assert all(isinstance(row, CorpusRow) for row in rows), rows
    return [(row.item_id, row.question or "", row.passage) for row in rows if isinstance(row, CorpusRow)]


def test_csv_of_excel_with_quotes_commas_and_line_ends_is_read(tmp_path: Path):
    content = '\ufeffid,question,context\r\n1,"Wo, bitte?","Er sagt ""dort"".\r\nOder hier."\r\n\r\n2,Wer?,Ich.\r\n'
    (tmp_path / "de.csv").write_bytes(content.encode())
    rows = [row for row in read(corpus("csv", tmp_path)) if isinstance(row, CorpusRow)]
    assert [(row.question, row.passage) for row in rows] == [
        ("Wo, bitte?", 'Er sagt "dort".\r\nOder hier.'),
        ("Wer?", "Ich."),
    ]
    assert [row.location for row in rows] == ["de.csv:2", "de.csv:5"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_of_csv_is_found(delimiter: str, tmp_path: Path):
    lines = [HEADER, ["1", "Wo?", "Dort, hier; da."], ["2", "Wer?", "Ich."]]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(lines)
    (tmp_path / "de.csv.gz").write_bytes(gzip.compress(text.getvalue().encode()))
    assert texts(tmp_path) == [("1", "Wo?", "Dort, hier; da."), ("2", "Wer?", "Ich.")]


def test_stray_quotes_in_tsv_are_text(tmp_path: Path):
    (tmp_path / "de.tsv").write_text('id\tquestion\tcontext\n1\t"Wo\tDort.\n2\tWer?\t"Ich" sage ich\n')
    assert texts(tmp_path, "tsv") == [("1", '"Wo', "Dort."), ("2", "Wer?", '"Ich" sage ich')]


def test_quoted_fields_of_tsv_are_unquoted(tmp_path: Path):
    (tmp_path / "de.tsv").write_text('id\tquestion\tcontext\n1\t"Wo,\tgenau?"\t"Dort.\nHier."\n2\tWer?\tIch.\n')
    assert texts(tmp_path, "tsv") == [("1", "Wo,\tgenau?", "Dort.\nHier."), ("2", "Wer?", "Ich.")]
    (tmp_path / "de.tsv").write_text('id\tquestion\tcontext\n1\tWo?\t"Er ruft ""dort""."\n')
    assert texts(tmp_path, "tsv") == [("1", "Wo?", 'Er ruft "dort".')]


def write_late_quote(file: Path, delimiter: str, first_question: str) -> None:
    """Write rows 0 to 999; the question of row 500 begins with a quote that is never closed."""
    rows = [[str(n), '"Wo?' if n == 500 else "Wo?", "Dort."] for n in range(1000)]
    rows[0][1] = first_question
    file.write_text("".join(delimiter.join(row) + "\n" for row in [HEADER, *rows]))


def test_late_stray_quote_in_tsv_is_text(tmp_path: Path):
    write_late_quote(tmp_path / "de.tsv", "\t", "Wo?")
    assert len(texts(tmp_path, "tsv")) == 1000
    assert texts(tmp_path, "tsv")[500] == ("500", '"Wo?', "Dort.")


@pytest.mark.parametrize(("format", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_quote_that_is_never_closed_makes_the_file_unreadable(format: str, delimiter: str, tmp_path: Path):
    write_late_quote(tmp_path / f"de.{format}", delimiter, '"Wo?"')
    *rows, last = read(corpus(format, tmp_path))
    assert len(rows) == 500
    assert all(isinstance(row, CorpusRow) for row in rows)
    assert (last.location, only_reject([last]).reason) == (f"de.{format}:502", "unreadable file")


def write_stray_quotes(file: Path, first: int, last: int) -> None:
    """Write rows 0 to 999, two of which have a stray quote: the passage of one begins with it, the other's has it."""
    passages = {first: '"Dort.', last: 'Dort" ist es.'}
    rows = [f"{n},Wo?,{passages.get(n, 'Dort.')}\n" for n in range(1000)]
    file.write_text("".join(["id,question,context\n", *rows]))


def test_stray_quotes_that_join_records_make_the_file_unreadable(tmp_path: Path):
    write_stray_quotes(tmp_path / "de.csv", 400, 600)
    *rows, last = read(corpus("csv", tmp_path))
    assert [row.item_id for row in rows if isinstance(row, CorpusRow)] == [str(n) for n in range(400)]
    assert (last.location, only_reject([last]).reason) == ("de.csv:402", "unreadable file")
    assert "is closed within a text 200 lines below" in only_reject([last]).detail


def test_stray_quotes_in_the_first_lines_are_text(tmp_path: Path):
    write_stray_quotes(tmp_path / "de.csv", 40, 60)
    found = texts(tmp_path)
    assert (len(found), found[40][2], found[60][2]) == (1000, '"Dort.', 'Dort" ist es.')


def test_text_after_a_quote_in_one_line_is_read(tmp_path: Path):
    (tmp_path / "de.csv").write_text('id,question,context\n1,"Wer" ruft?,"Ich. Du."\n2,Wo?,"Dort, ja."\n')
    assert texts(tmp_path) == [("1", "Wer ruft?", "Ich. Du."), ("2", "Wo?", "Dort, ja.")]


def test_carriage_return_outside_quotes_is_no_long_line(tmp_path: Path):
    (tmp_path / "de.csv").write_bytes(b"id,question,context\n1,Wo?,Dort\roder hier.\n2,Wer?,Ich.\n")
    bad, good = read(corpus("csv", tmp_path))
    assert (only_reject([bad]).reason, bad.location) == ("carriage return outside quotes", "de.csv:2")
    assert isinstance(good, CorpusRow)


def test_columns_of_a_file_without_header_are_numbers(tmp_path: Path):
    (tmp_path / "en.tsv").write_text("Where?\tThere.\nWho?\tMe.\n")
    columns = {"question": "1", "passage": "2"}
    assert texts(tmp_path, "tsv", columns=columns) == [("en.tsv:1", "Where?", "There."), ("en.tsv:2", "Who?", "Me.")]


@pytest.mark.parametrize("blank", ["\n", "\r\n\n", "  \n", ";;\n"])
def test_blank_lines_before_the_header_are_passed_over(blank: str, tmp_path: Path):
    (tmp_path / "faq.csv").write_text(f"{blank}key;lang;query;answer\n7;de;Wo?;Dort.\n8;en;Who?;Me.\n", newline="")
    [shard] = list_shards(corpus("csv", tmp_path, columns={"id": "key"}))
    rows = [row for row in read_shard(shard) if isinstance(row, CorpusRow)]
    assert [(row.item_id, row.language, row.question, row.passage) for row in rows] == [
        ("7", "de", "Wo?", "Dort."), ("8", "en", "Who?", "Me.")
    ]  # fmt: skip
    assert [row for part in split_shard(shard, 1) for row in read_shard(part)] == rows


def test_record_of_another_width_is_rejected_and_the_next_is_read(tmp_path: Path):
    (tmp_path / "de.csv").write_text("id,question,context\n1,Wo?\n2,Wer?,Ich.\n3,a,b,c\n")
    first, second, third = read(corpus("csv", tmp_path))
    assert isinstance(second, CorpusRow)
    for bad, location in ((first, "de.csv:2"), (third, "de.csv:4")):
        assert isinstance(bad, RejectedRow)
        assert (bad.location, bad.reason) == (location, "wrong number of columns")


def test_line_that_is_not_utf8_is_a_reject_and_keeps_row_numbers(tmp_path: Path):
    (tmp_path / "de.csv").write_bytes(b"question,context\nWo?,\xff\nWer?,Ich.\n")
    (tmp_path / "en.csv").write_bytes(b"question,context\nWhere?,There.\nWho?,Me.\n")
    bad, german, _, english = read(corpus("csv", tmp_path))
    assert isinstance(bad, RejectedRow)
    assert bad.reason == "wrong encoding"
    assert isinstance(german, CorpusRow)
    assert isinstance(english, CorpusRow)
    assert german.item_id == english.item_id == "2"


def test_record_around_a_broken_line_is_not_read(tmp_path: Path):
    (tmp_path / "de.csv").write_bytes(b'id,question,context\n1,Wo?,"a\n\xff\nb"\n2,Wer?,Ich.\n')
    bad, good = read(corpus("csv", tmp_path))
    assert isinstance(bad, RejectedRow)
    assert isinstance(good, CorpusRow)
    assert good.item_id == "2"


def test_field_longer_than_the_limit_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HBT_MAX_LINE_BYTES", "50")
    good = "".join(f"{n},Wo?,Dort.\n" for n in range(250))
    (tmp_path / "de.csv").write_text("id,question,context\n" + good + '999,Wo?,"' + "lang\n" * 30 + '"\n')
    rows = read(corpus("csv", tmp_path))
    assert sum(isinstance(row, CorpusRow) for row in rows) == 250
    assert {row.reason for row in rows if isinstance(row, RejectedRow)} >= {"line too long"}


def test_delimiter_does_not_depend_on_what_was_read_before(tmp_path: Path):
    before = csv.field_size_limit(1 << 17)
    try:
        (tmp_path / "de.csv").write_text(f"id;question;context\n1;Wo?;{'Dort, hier. ' * 20_000}\n")
        assert texts(tmp_path)[0][:2] == ("1", "Wo?")
    finally:
        csv.field_size_limit(before)


def test_answer_offsets_are_numbers_in_csv(tmp_path: Path):
    (tmp_path / "de.csv").write_text(
        "id,question,context,answer_text,answer_start\n1,Wo?,Ja dort.,dort,3\n2,Wer?,Ich.,,\n"
    )
    first, second = read(corpus("csv", tmp_path))
    assert isinstance(first, CorpusRow)
    assert isinstance(second, CorpusRow)
    assert (first.answer_start, second.answer_start) == (3, -1)


def test_wrong_column_is_answered_with_those_there_are(tmp_path: Path):
    (tmp_path / "de.csv").write_text("Frage,Antwort\nWo?,Dort.\n")
    with pytest.raises(
        CorpusError, match=r"no column 'question', but has 'Frage', 'Antwort'; write columns: \{question"
    ):
        list_shards(corpus("csv", tmp_path))
    with pytest.raises(CorpusError, match=r"no column 'Fragen', .*; did you mean columns: \{question: Frage\}\?"):
        list_shards(corpus("csv", tmp_path, columns={"question": "Fragen", "passage": "Antwort"}))


@given(
    st.lists(st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=9)] * 2), max_size=9)
)
def test_every_record_that_csv_writes_is_read_back(pairs: list[tuple[str, str]]):
    with tempfile.TemporaryDirectory() as name:
        with (Path(name) / "de.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([HEADER, *([str(n), *pair] for n, pair in enumerate(pairs))])
        rows = read(corpus("csv", Path(name)))
    kept = [(row.question, row.passage) for row in rows if isinstance(row, CorpusRow)]
    assert kept == [pair for pair in pairs if all(map(str.strip, pair))]
    assert len(rows) == len(pairs)


@given(st.binary(max_size=300))
def test_any_bytes_give_rows_and_rejects(content: bytes):
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "de.csv").write_bytes(b"id,question,context\n" + content)
        assert all(row.location for row in read(corpus("csv", Path(name))))


def test_truncated_file_ends_in_a_reject(tmp_path: Path):
    whole = gzip.compress(b"id,question,context\n" + b"".join(b"%d,q%d,c%d\n" % (n, n, n) for n in range(5000)))
    (tmp_path / "de.csv.gz").write_bytes(whole[: len(whole) // 2])
    *rows, last = read(corpus("csv", tmp_path))
    assert rows
    assert only_reject([last]).reason == "unreadable file"


def test_header_in_another_encoding_is_no_row(tmp_path: Path):
    (tmp_path / "de.csv").write_bytes("Größe,question,context\n1,Wo?,Dort.\n2,Wer?,Ich.\n".encode("cp1252"))
    assert only_reject(read(corpus("csv", tmp_path))).detail.startswith("its header: 'utf-8' codec can't decode")
    (tmp_path / "de.csv").write_text("question,context\nWo?,Dort.\n", encoding="utf-16-le")
    detail = only_reject(read(corpus("csv", tmp_path))).detail
    assert detail == "its header: a NUL, perhaps of UTF-16; save the file as UTF-8"
