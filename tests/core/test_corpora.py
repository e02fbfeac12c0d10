from __future__ import annotations

import gzip
import json
import os
import pickle
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.config import Columns, CorpusConfig
from hbt_ray.corpora import Part, huggingface, list_parts, parquet, read_part
from hbt_ray.corpora.columns import reject
from hbt_ray.errors import CorpusError
from hbt_ray.records import Reject, Row

GOOD = {"id": "a", "question": "Wo?", "context": "Dort."}


def corpus(format: str, path: Path, **settings: Any) -> CorpusConfig:
    return CorpusConfig.model_validate({"format": format, "name": "source", "path": str(path), **settings})


def read(config: CorpusConfig, languages: Iterable[str] | None = None) -> list[Row | Reject]:
    return [
        row for part in list_parts(config, None if languages is None else set(languages)) for row in read_part(part)
    ]


def write_lines(file: Path, *records: Any) -> None:
    """Records as JSON, a line each; bytes as they are."""
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    content = b"\n".join(lines)
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


def write_squad(file: Path, context: Any, *questions: Any, **paragraph: Any) -> None:
    content = json.dumps({"data": [{"paragraphs": [{"context": context, "qas": list(questions), **paragraph}]}]})
    file.write_bytes(gzip.compress(content.encode()) if file.suffix == ".gz" else content.encode())


def question(item_id: str, start: int, answer: str) -> dict[str, Any]:
    return {"id": item_id, "question": "Where?", "answers": [{"answer_start": start, "text": answer}]}


def only_reject(rows: list[Row | Reject]) -> Reject:
    assert len(rows) == 1
    assert isinstance(rows[0], Reject)
    return rows[0]


def test_a_part_per_language_file_in_order_and_nothing_else(tmp_path: Path):
    for name in ("zh-HK.jsonl", "pt-BR.jsonl.gz", "pcm.jsonl", "es-419.jsonl", "en-questions.jsonl.gz", "SOURCE.md"):
        write_lines(tmp_path / name, GOOD)
    parts = list_parts(corpus("jsonl", tmp_path))
    assert [part.language for part in parts] == ["es-419", "pcm", "pt-BR", "zh-HK"]
    assert {part.source for part in parts} == {"source"}


def test_languages_of_the_corpus_and_of_the_run_both_narrow(tmp_path: Path):
    for language in ("de", "en", "fr"):
        write_lines(tmp_path / f"{language}.jsonl", GOOD)
    config = corpus("jsonl", tmp_path, languages=["fr", "de"])
    assert [part.language for part in list_parts(config)] == ["de", "fr"]
    assert [part.language for part in list_parts(config, {"en", "fr", "sw"})] == ["fr"]
    assert list_parts(config, {"sw"}) == []


def test_a_missing_language_is_named_with_those_that_are_there(tmp_path: Path):
    for language in ("de", "en"):
        write_lines(tmp_path / f"{language}.jsonl", GOOD)
    with pytest.raises(CorpusError, match="has no sw; choose languages among de, en"):
        list_parts(corpus("jsonl", tmp_path, languages=["de", "sw"]))


@pytest.mark.parametrize("format", ["squad", "jsonl", "parquet", "huggingface"])
def test_a_missing_folder_is_named(format: str, tmp_path: Path):
    with pytest.raises(CorpusError, match=r"nothing at '.*absent'; correct its path"):
        list_parts(corpus(format, tmp_path / "absent"))


@pytest.mark.parametrize(("format", "suffix"), [("squad", "json"), ("jsonl", "jsonl"), ("parquet", "parquet")])
def test_a_folder_without_readable_files_says_how_to_name_them(format: str, suffix: str, tmp_path: Path):
    with pytest.raises(CorpusError, match=rf"name each file by its language, such as de\.{suffix}"):
        list_parts(corpus(format, tmp_path))


def test_two_files_of_one_language_are_refused(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", GOOD)
    write_lines(tmp_path / "de.jsonl.gz", GOOD)
    with pytest.raises(CorpusError, match=r"de\.jsonl and de\.jsonl\.gz .* both hold de; keep one"):
        list_parts(corpus("jsonl", tmp_path))


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_read(tmp_path: Path):
    outside, folder = tmp_path / "outside.jsonl", tmp_path / "corpus"
    folder.mkdir()
    write_lines(outside, GOOD)
    write_lines(folder / "de.jsonl", GOOD)
    (folder / "at.jsonl").symlink_to("de.jsonl")
    assert [part.language for part in list_parts(corpus("jsonl", folder))] == ["at", "de"]
    (folder / "fr.jsonl").symlink_to(outside)
    with pytest.raises(CorpusError, match="leads out of its folder"):
        list_parts(corpus("jsonl", folder))


def test_parts_survive_pickling(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", GOOD)
    parts = list_parts(corpus("jsonl", tmp_path))
    assert pickle.loads(pickle.dumps(parts)) == parts


def test_a_json_line_becomes_a_row_with_its_place(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl.gz", GOOD, {**GOOD, "id": 7, "negatives": ["Hier."]})
    assert read(corpus("jsonl", tmp_path)) == [
        Row("source", "a", "de", "Wo?", "Dort.", place="de.jsonl.gz:1"),
        Row("source", "7", "de", "Wo?", "Dort.", ("Hier.",), "de.jsonl.gz:2"),
    ]


def test_columns_may_have_other_names(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", {"key": "a", "q": "Wo?", "p": "Dort."})
    columns = Columns(id="key", question="q", passage="p")
    assert read(corpus("jsonl", tmp_path, columns=columns)) == [
        Row("source", "a", "de", "Wo?", "Dort.", place="de.jsonl:1")
    ]


def test_rows_of_a_single_file_name_their_language_and_others_are_passed_over(tmp_path: Path):
    file = tmp_path / "all.jsonl"
    write_lines(file, *({**GOOD, "language": language} for language in ("de", "eng_Latn", "fr")), GOOD)
    every = read(corpus("jsonl", file))
    assert [row.language for row in every if isinstance(row, Row)] == ["de", "eng_Latn", "fr"]
    assert only_reject(every[3:]).reason == "missing language"
    narrowed = read(corpus("jsonl", file, languages=["de", "fr"]), {"fr", "eng_Latn"})
    assert [row.language for row in narrowed if isinstance(row, Row)] == ["fr"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b"9" * 5000, "broken JSON"),
        (b"[1]", "not an object"),
        (b'{"id": "\xff"}', "wrong encoding"),
        ({**GOOD, "question": "\ud800"}, "wrong encoding"),
        ({**GOOD, "id": ""}, "missing id"),
        ({**GOOD, "id": None}, "missing id"),
        ({**GOOD, "id": True}, "wrong type"),
        ({**GOOD, "id": 1.5}, "wrong type"),
        ({**GOOD, "question": " \n"}, "missing question"),
        ({**GOOD, "question": ["Wo?"]}, "wrong type"),
        ({"id": "a", "question": "Wo?"}, "missing passage"),
        ({**GOOD, "negatives": "Hier."}, "wrong type"),
        ({**GOOD, "negatives": [None]}, "wrong type"),
        ({**GOOD, "answer_text": "Hier", "answer_start": 0}, "answer outside its context"),
        ({**GOOD, "answer_text": "Dort", "answer_start": "0"}, "wrong type"),
    ],
)
def test_a_bad_line_is_rejected_and_the_next_one_read(line: Any, reason: str, tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", line, GOOD)
    bad, good = read(corpus("jsonl", tmp_path))
    assert isinstance(bad, Reject)
    assert (bad.place, bad.reason) == ("de.jsonl:1", reason)
    assert isinstance(good, Row)


@pytest.mark.parametrize("answer", [{"answer_start": 0}, {"answer_start": -1}, {"answer_start": None}, {}])
def test_an_answer_at_its_place_or_without_a_place_is_accepted(answer: dict[str, Any], tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", {**GOOD, "answer_text": "Dort", **answer})
    [row] = read(corpus("jsonl", tmp_path))
    assert isinstance(row, Row)
    known = answer.get("answer_start") == 0
    assert (row.answer, row.answer_start) == ("Dort", 0 if known else -1)


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), b"", b"  \r", GOOD)
    assert [row.place for row in read(corpus("jsonl", tmp_path))] == ["de.jsonl:1", "de.jsonl:4"]


def test_a_torn_gzip_keeps_its_rows_and_ends_in_one_reject(tmp_path: Path):
    file = tmp_path / "de.jsonl.gz"
    write_lines(file, *({**GOOD, "id": os.urandom(64).hex()} for _ in range(1000)))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    *rows, last = read(corpus("jsonl", tmp_path))
    assert 300 < len(rows) < 700
    assert all(isinstance(row, Row) for row in rows)
    assert isinstance(last, Reject)
    assert (last.reason, last.place) == ("unreadable file", f"de.jsonl.gz:{len(rows) + 1}")


@pytest.mark.parametrize(
    ("format", "name"),
    [("jsonl", "de.jsonl.gz"), ("squad", "de.json.gz"), ("squad", "de.json"), ("parquet", "de.parquet")],
)
def test_a_file_of_something_else_is_one_reject(format: str, name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(b"\x00\xffnothing of the kind")
    bad = only_reject(read(corpus(format, tmp_path)))
    assert bad.reason == "unreadable file"
    assert bad.place.startswith(name)


def test_a_file_gone_since_it_was_listed_is_one_reject(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", GOOD)
    [part] = list_parts(corpus("jsonl", tmp_path))
    (tmp_path / "de.jsonl").unlink()
    assert only_reject(list(read_part(part))).reason == "unreadable file"


@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b"")) | st.sampled_from([json.dumps(GOOD).encode()])))
@settings(max_examples=100, deadline=None)
def test_each_line_of_any_bytes_gives_one_row_or_reject(lines: list[bytes]):
    with tempfile.TemporaryDirectory() as folder:
        write_lines(Path(folder) / "de.jsonl", *lines)
        rows = read(corpus("jsonl", Path(folder)))
    assert [row.place for row in rows] == [f"de.jsonl:{n}" for n, line in enumerate(lines, 1) if line.strip()]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*Columns().model_dump().values()]), json_values))
@settings(max_examples=200, deadline=None)
def test_a_record_of_any_values_gives_one_row_or_reject_that_is_valid_utf8(record: dict[str, Any]):
    with tempfile.TemporaryDirectory() as folder:
        write_lines(Path(folder) / "all.jsonl", record)
        [row] = read(corpus("jsonl", Path(folder) / "all.jsonl"))
    texts = [row.detail] if isinstance(row, Reject) else [row.item_id, row.question, row.passage, *row.negatives]
    assert all(text.encode("utf-8") is not None for text in texts)


@given(json_values, st.lists(json_values), st.lists(json_values))
@settings(max_examples=100, deadline=None)
def test_squad_of_any_values_never_stops_the_reader(context: Any, questions: list[Any], breaks: list[Any]):
    with tempfile.TemporaryDirectory() as folder:
        write_squad(Path(folder) / "de.json", context, *questions, sentence_breaks=breaks)
        assert len(read(corpus("squad", Path(folder)))) == len(questions)


def test_a_reject_shows_at_most_200_characters():
    assert reject("source", "here", "wrong type", "x" * 1000).detail == "x" * 200
    assert len(reject("source", "here", "wrong type", "\ud800" * 1000).detail) == 200


CONTEXT = "One day. Two days. "  # sentences [0, 8] and [9, 18]


def test_squad_gives_the_sentence_of_the_answer_where_sentences_are_marked(tmp_path: Path):
    write_squad(tmp_path / "en.json", CONTEXT, question("a", 9, "Two"), sentence_breaks=[[0, 8], [9, 18]])
    place = "en.json:data[0].paragraphs[0].qas[0]"
    found = Row("source", "a", "en", "Where?", "Two days.", place=place, answer="Two", answer_start=0)
    assert read(corpus("squad", tmp_path)) == [found]


@pytest.mark.parametrize(("breaks", "start"), [([[0, 8], [8, 18]], 4), ([[0, 19]], 13), (None, 13)])
def test_an_answer_of_squad_has_its_place_in_the_sentence_that_is_its_passage(tmp_path: Path, breaks, start: int):
    marked = {} if breaks is None else {"sentence_breaks": breaks}
    write_squad(tmp_path / "en.json", CONTEXT, question("a", 13, "days"), **marked)
    [row] = read(corpus("squad", tmp_path))
    assert isinstance(row, Row)
    assert (row.answer, row.answer_start) == ("days", start)
    assert row.passage[start:].startswith("days")


@pytest.mark.parametrize(
    "asked",
    [question("a", 9, "Two"), question("a", -1, "unknown"), {"id": "a", "question": "Where?", "answers": []}],
    ids=["known answer", "unknown place", "no answer"],
)
def test_squad_gives_the_context_where_no_sentences_are_marked(asked: dict[str, Any], tmp_path: Path):
    write_squad(tmp_path / "en.json.gz", CONTEXT, asked)
    [row] = read(corpus("squad", tmp_path))
    assert isinstance(row, Row)
    assert row.passage == CONTEXT


def test_squad_rejects_a_misplaced_answer_and_reads_on(tmp_path: Path):
    breaks = [[0, 8]]
    asked = [question("a", 8, "Two"), question("b", 9, "Two"), question("c", 0, "One")]
    write_squad(tmp_path / "en.json", CONTEXT, *asked, sentence_breaks=breaks)
    rows = read(corpus("squad", tmp_path))
    assert [row.reason if isinstance(row, Reject) else row.item_id for row in rows] == [
        "answer outside its context",
        "answer in no sentence",
        "c",
    ]


def test_squad_without_its_lists_is_rejected_where_they_lack(tmp_path: Path):
    (tmp_path / "en.json").write_text('{"data": [{"paragraphs": [{"context": "x"}]}, 5]}')
    rows = read(corpus("squad", tmp_path))
    assert [(row.place, row.reason) for row in rows if isinstance(row, Reject)] == [
        ("en.json:data[0].paragraphs[0]", "not SQuAD"),
        ("en.json:data[1]", "not SQuAD"),
    ]


def table(languages: list[str] | None = None, rows: int = 3) -> pa.Table:
    columns: dict[str, Any] = {
        "id": [f"i{n}" for n in range(rows)],
        "question": [f"q{n}" for n in range(rows)],
        "context": [f"p{n}" for n in range(rows)],
        "negatives": [[f"n{n}"] for n in range(rows)],
        "unused": [None] * rows,
    }
    return pa.table(columns | ({"language": languages} if languages else {}))


def test_parquet_by_language_file(tmp_path: Path):
    pq.write_table(table(), tmp_path / "de.parquet")
    rows = read(corpus("parquet", tmp_path))
    assert rows == [Row("source", f"i{n}", "de", f"q{n}", f"p{n}", (f"n{n}",), f"de.parquet:{n + 1}") for n in range(3)]


def test_parquet_files_with_a_language_column(tmp_path: Path):
    pq.write_table(table(["de", "en", "de"]), tmp_path / "train-00000.parquet")
    pq.write_table(table(["fr", "en", "en"]), tmp_path / "train-00001.parquet")
    rows = read(corpus("parquet", tmp_path, languages=["de", "fr"]))
    assert [(row.place, row.language) for row in rows if isinstance(row, Row)] == [
        ("train-00000.parquet:1", "de"),
        ("train-00000.parquet:3", "de"),
        ("train-00001.parquet:1", "fr"),
    ]


def test_a_large_parquet_file_is_read_in_ranges_that_join_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pq.write_table(table(rows=10), tmp_path / "de.parquet", row_group_size=2)  # groups 0..4
    whole = read(corpus("parquet", tmp_path))
    monkeypatch.setattr(parquet, "_ROWS_PER_PART", 4)
    parts = list_parts(corpus("parquet", tmp_path))
    assert [part.options["row_groups"] for part in parts] == [(0, 2), (2, 4), (4, 5)]
    assert [row for part in parts for row in read_part(part)] == whole
    assert len(whole) == 10


def test_parquet_rows_without_their_columns_are_rejected_one_by_one(tmp_path: Path):
    pq.write_table(pa.table({"other": [1, 2]}), tmp_path / "de.parquet")
    assert [row.reason for row in read(corpus("parquet", tmp_path)) if isinstance(row, Reject)] == [
        "missing passage"
    ] * 2


def test_a_parquet_text_that_is_not_utf8_is_rejected_alone(tmp_path: Path):
    bad = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xffx"))
    pq.write_table(pa.table({"id": ["a", "b"], "question": bad, "context": ["p", "p"]}), tmp_path / "de.parquet")
    first, second = read(corpus("parquet", tmp_path))
    assert isinstance(first, Reject)
    assert (first.place, first.reason) == ("de.parquet:1", "wrong encoding")
    assert isinstance(second, Row)


def test_a_parquet_value_that_python_cannot_hold_is_a_wrong_type(tmp_path: Path):
    late = pa.array([2**60, None], pa.timestamp("ms"))
    pq.write_table(pa.table({"id": ["a", "b"], "question": late, "context": ["p", "p"]}), tmp_path / "de.parquet")
    rows = read(corpus("parquet", tmp_path))
    assert [row.reason for row in rows if isinstance(row, Reject)] == ["wrong type", "missing question"]


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_torn_parquet_file_is_one_reject(kept: float, tmp_path: Path):
    file = tmp_path / "de.parquet"
    pq.write_table(table(rows=100), file)
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    assert only_reject(read(corpus("parquet", tmp_path))).reason == "unreadable file"


def saved(folder: Path, rows: int = 3) -> Path:
    content = datasets.Dataset(table((["de", "en", "fr"] * rows)[:rows], rows))
    datasets.DatasetDict({"train": content, "dev": content.select([0])}).save_to_disk(str(folder))
    return folder


def test_a_data_set_saved_to_disk_is_read_by_split_and_language(tmp_path: Path):
    folder = saved(tmp_path / "set")
    rows = read(corpus("huggingface", folder, languages=["de", "en"]))
    assert rows == [
        Row("source", "i0", "de", "q0", "p0", ("n0",), "train:1"),
        Row("source", "i1", "en", "q1", "p1", ("n1",), "train:2"),
    ]
    assert len(read(corpus("huggingface", folder, split="dev"))) == 1
    assert len(read(corpus("huggingface", folder / "train"))) == 3  # a Dataset rather than a DatasetDict


def test_a_large_data_set_is_read_in_ranges_that_join_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = saved(tmp_path / "set", rows=10)
    whole = read(corpus("huggingface", folder))
    monkeypatch.setattr(huggingface, "_ROWS_PER_PART", 4)
    parts = list_parts(corpus("huggingface", folder))
    assert [part.options["rows"] for part in parts] == [(0, 4), (4, 8), (8, 10)]
    assert [row for part in parts for row in read_part(part)] == whole
    assert len(whole) == 10


def test_a_missing_split_or_language_column_is_named_with_those_that_are_there(tmp_path: Path):
    folder = saved(tmp_path / "set")
    with pytest.raises(CorpusError, match="no split 'test'; choose among train, dev"):
        list_parts(corpus("huggingface", folder, split="test"))
    with pytest.raises(CorpusError, match=r"no column 'lang'; set columns\.language to one of id, .*language"):
        list_parts(corpus("huggingface", folder, columns={"language": "lang"}))


def test_a_damaged_data_set_is_refused_and_one_that_points_elsewhere_too(tmp_path: Path):
    folder = saved(tmp_path / "set") / "train"
    [data] = folder.glob("*.arrow")
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"] = [{"filename": "../dev/" + data.name}]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(CorpusError, match="lies outside its folder"):
        list_parts(corpus("huggingface", folder))
    (folder / "state.json").write_text("{")
    with pytest.raises(CorpusError, match="is damaged"):
        list_parts(corpus("huggingface", folder))


def test_a_data_set_damaged_since_it_was_listed_is_one_reject(tmp_path: Path):
    folder = saved(tmp_path / "set") / "train"
    [part] = list_parts(corpus("huggingface", folder))
    [data] = folder.glob("*.arrow")
    data.write_bytes(data.read_bytes()[:100])
    assert only_reject(list(read_part(part))).reason == "unreadable file"


def test_each_language_is_its_own_subset_where_the_data_set_has_such(monkeypatch: pytest.MonkeyPatch):
    subsets = {language: datasets.Dataset(table().append_column("of", pa.array([language] * 3))) for language in "ab"}
    subsets = {"de": subsets["a"], "en": subsets["b"]}
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda path: [*subsets])
    monkeypatch.setattr(datasets, "load_dataset", lambda path, subset, split: subsets[subset])
    config = corpus("huggingface", Path("somebody/set"), languages=["en", "de"])
    assert Counter(row.language for row in read(config) if isinstance(row, Row)) == {"de": 3, "en": 3}
    with pytest.raises(CorpusError, match="has no fr; choose languages among de, en"):
        list_parts(config.model_copy(update={"languages": ("de", "fr")}))


def test_a_data_set_that_cannot_be_fetched_stops_rather_than_counting_as_a_bad_row(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    [part] = list_parts(corpus("huggingface", Path("somebody/set")))
    with pytest.raises(CorpusError, match=r"'somebody/set' cannot be loaded \(no route to host\)"):
        list(read_part(part))


def test_a_part_of_the_embedded_corpus_is_read_like_any_other():
    pytest.importorskip("hbt_ray.corpora.embedded")
    [part] = list_parts(CorpusConfig(format="embedded"), {"de"})
    assert isinstance(part, Part)
    assert {row.language for row in read_part(part) if isinstance(row, Row)} == {"de"}


def test_xquad_r_has_its_1190_questions_aligned_in_11_languages(shared_data: Path):
    rows = [row for row in read(corpus("squad", shared_data / "xquad-r")) if isinstance(row, Row)]
    assert Counter(Counter(row.language for row in rows).values()) == {1190: 11}
    assert len({row.item_id for row in rows}) == 1190


def test_parallel_documentation_is_read_without_a_reject(shared_data: Path):
    folder = shared_data / "docs-parallel" / "courses"
    config = corpus("jsonl", folder, languages=["de", "pcm", "pt-BR", "zh-HK"])
    rows = read(config)
    assert all(isinstance(row, Row) for row in rows)
    assert len(list_parts(corpus("jsonl", folder))) == 55


def test_questions_alone_are_no_language(shared_data: Path):
    parts = list_parts(corpus("jsonl", shared_data / "docs-parallel" / "erp"))
    assert [part.language for part in parts] == ["ar", "de", "en", "es", "ru", "th", "tr", "zh"]


def test_every_known_answer_of_squad_in_two_languages_stands_in_its_context(shared_data: Path):
    rows = read(corpus("jsonl", shared_data / "squad-parallel"))
    assert Counter(type(row) for row in rows) == {Row: 4370 + 1027}
