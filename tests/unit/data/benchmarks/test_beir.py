"""BEIR's files, whole and broken: one set, or several side by side, each a language."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hbt_ray.data.benchmarks import ReadOptions
from hbt_ray.errors import CorpusError
from tests.helpers.benchmark_files import load, reasons, texts, write, write_objects


def beir(folder: Path, **files: str) -> Path:
    corpus = [{"_id": "p1", "title": "Keys", "text": "Under the mat."}, {"_id": "p2", "title": "", "text": "In a box."}]
    write_objects(folder / "corpus.jsonl", *corpus)
    write_objects(folder / "queries.jsonl.gz", {"_id": "q1", "text": "Where?"}, {"_id": "q2", "text": "What?"})
    write(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq1\tp1\t2\nq1\tp2\t0\n")
    write(folder / "qrels" / "train.tsv", "query-id\tcorpus-id\tscore\nq2\tp2\t1\n")
    for name, text in files.items():
        with (folder / name.replace("__", "/").replace("_jsonl", ".jsonl").replace("_tsv", ".tsv")).open("a") as file:
            file.write(text)
    return folder


def test_only_queries_of_the_split_are_read(tmp_path: Path):
    benchmark = load("beir", beir(tmp_path))
    assert texts(benchmark) == {"q1": "Where?", "p1": "Keys Under the mat.", "p2": "In a box."}
    assert benchmark.judgements == {"q1": {"p1": 2, "p2": 0}}
    assert (benchmark.split, benchmark.rejects) == ("test", [])
    train = load("beir", tmp_path, ReadOptions(split="train"))
    assert (train.split, train.judgements) == ("train", {"q2": {"p2": 1}})
    with pytest.raises(CorpusError, match=r"no judgements qrels/dev.tsv; there are test, train"):
        load("beir", tmp_path, ReadOptions(split="dev"))


def test_folders_named_by_language_are_one_benchmark(tmp_path: Path):
    beir(tmp_path / "en")
    beir(tmp_path / "sw")
    benchmark = load("beir/news", tmp_path)
    assert (benchmark.name, benchmark.languages) == ("beir-news", ["en", "sw"])
    assert benchmark.judgements["sw:q1"] == {"sw:p1": 2, "sw:p2": 0}


def test_sets_of_several_languages_share_one_split(tmp_path: Path):
    write(beir(tmp_path / "en") / "qrels" / "dev.tsv", "q1\tp1\t1\n")
    only = beir(tmp_path / "sw") / "qrels"
    (only / "test.tsv").rename(only / "dev.tsv")
    assert load("beir", tmp_path).split == "dev"
    with pytest.raises(CorpusError, match=r"sw' has no judgements qrels/test.tsv; there are dev, train"):
        load("beir", tmp_path, ReadOptions(split="test"))


@pytest.mark.parametrize(
    ("named", "language"),
    [("nfcorpus", "en"), ("nfcorpus/de", "de"), ("zh-Hant", "zh-Hant"), ("nq", "en"), ("english", "en"), ("gis", "en")],
)
def test_folder_name_is_the_language_if_it_is_a_code(tmp_path: Path, named: str, language: str):
    benchmark = load("beir", beir(tmp_path / named))
    assert benchmark.languages == [language]
    assert benchmark.judgements.keys() == {"q1"}


def test_set_can_be_read_from_inside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(beir(tmp_path / "de"))
    assert load("beir", Path()).languages == ["de"]


def test_any_folder_of_the_path_can_name_the_language(tmp_path: Path):
    beir(tmp_path / "de" / "nq")
    beir(tmp_path / "nq" / "sw")
    assert load("beir", tmp_path).languages == ["de", "sw"]


def test_sets_without_a_language_or_with_equal_ones_are_refused(tmp_path: Path):
    beir(tmp_path / "cqadupstack" / "english")
    beir(tmp_path / "cqadupstack" / "gis")
    with pytest.raises(CorpusError, match="not say the language of 'english'; name the folder of one set, or put each"):
        load("beir", tmp_path / "cqadupstack")
    beir(tmp_path / "sets" / "de" / "scifact")
    beir(tmp_path / "sets" / "nfcorpus" / "de")
    with pytest.raises(CorpusError, match="holds two sets in de, 'de/scifact' and 'nfcorpus/de'; name the folder of"):
        load("beir", tmp_path / "sets")


def test_passage_with_the_id_and_text_of_the_query_is_excluded(tmp_path: Path):
    same = '{"_id": "q 1", "text": "Where?"}\n{"_id": "q2", "title": "Topic", "text": "what"}\n'
    benchmark = load("beir", beir(tmp_path, corpus_jsonl=same))
    assert benchmark.excluded == {}  # q2 is no query of this split, and "q 1" is another id
    train = load("beir", tmp_path, ReadOptions(split="train"))
    assert (train.excluded, reasons(train)) == ({"q2": "q2"}, {"passage is the query itself": 1})
    beir(tmp_path / "sets" / "en", corpus_jsonl='{"_id": "q1", "text": "Where?"}\n')
    beir(tmp_path / "sets" / "sw")
    assert load("beir", tmp_path / "sets").excluded == {"en:q1": "en:q1"}


def test_equal_ids_of_other_texts_exclude_nothing(tmp_path: Path):
    numbers = range(6)
    write_objects(tmp_path / "corpus.jsonl", *({"_id": n, "text": f"Answer {n}."} for n in numbers))
    write_objects(tmp_path / "queries.jsonl", *({"_id": n, "text": f"Question {n}?"} for n in numbers))
    write(tmp_path / "qrels" / "test.tsv", "".join(f"{n}\t{n}\t1.0\n" for n in numbers))
    benchmark = load("beir", tmp_path)
    assert (benchmark.excluded, benchmark.rejects) == ({}, [])
    assert benchmark.judgements == {str(n): {str(n): 1} for n in numbers}


def test_passage_is_excluded_only_if_the_line_that_is_kept_has_the_text_of_the_query(tmp_path: Path):
    query, other = '{"_id": "q1", "text": "Where?"}\n', '{"_id": "q1", "text": "There."}\n'
    for name, lines, excluded in (("first", query + other + query, {"q1": "q1"}), ("second", other + query, {})):
        benchmark = load("beir", beir(tmp_path / name, corpus_jsonl=lines))
        assert benchmark.excluded == excluded
        assert reasons(benchmark)["passage is the query itself"] == len(excluded)


def test_relevant_passage_is_never_excluded(tmp_path: Path):
    beir(tmp_path, corpus_jsonl='{"_id": "q1", "text": "Where?"}\n', qrels__test_tsv="q1\tq1\t1\n")
    assert load("beir", tmp_path).excluded == {}


def test_entry_with_an_empty_id_is_rejected(tmp_path: Path):
    empty = '{"_id": "", "text": "Which?"}\n{"_id": " ", "text": "Which?"}\n'
    benchmark = load("beir", beir(tmp_path, corpus_jsonl=empty))
    assert texts(benchmark).keys() == {"q1", "p1", "p2"}
    assert reasons(benchmark) == {"missing text": 2}


def test_white_space_around_an_id_does_not_count(tmp_path: Path):
    more = {"corpus_jsonl": '{"_id": "p3 ", "text": "On it."}\n', "qrels__test_tsv": "q1\tp3 \t1\n"}
    benchmark = load("beir", beir(tmp_path, **more))
    assert texts(benchmark)["p3"] == "On it."
    assert (benchmark.judgements["q1"]["p3"], benchmark.rejects) == (1, [])


def test_query_that_no_split_judges_is_counted(tmp_path: Path):
    write_objects(beir(tmp_path) / "queries.jsonl", {"_id": "q3", "text": "Who?"}, {"_id": "q4", "text": "How?"})
    benchmark = load("beir", tmp_path)
    assert [query.query_id for query in benchmark.queries] == ["q1"]
    assert sorted((reject.location, reject.reason) for reject in benchmark.rejects) == [
        ("q3", "query without a judgement"),
        ("q4", "query without a judgement"),
    ]


@pytest.mark.parametrize("grade", ["x", "1.5", "0x1", "1e3"])
def test_benchmark_without_any_usable_judgement_is_refused(tmp_path: Path, grade: str):
    write(beir(tmp_path) / "qrels" / "test.tsv", f"query-id\tcorpus-id\tscore\nq1\tp1\t{grade}\n")
    with pytest.raises(
        CorpusError, match=r"every metric would be 0; the first fault is 'not a judgement' at test.tsv:2"
    ):
        load("beir", tmp_path)


@pytest.mark.parametrize(
    ("line", "fault"), [("q9\tp1\t1", "for a missing query"), ("q1\tx\t1", "of a missing passage")]
)
def test_judgements_of_unknown_ids_only_are_refused(tmp_path: Path, line: str, fault: str):
    write(beir(tmp_path) / "qrels" / "test.tsv", line + "\n")
    with pytest.raises(CorpusError, match=rf"the first fault is 'judgement {fault}' at test.tsv:1"):
        load("beir", tmp_path)


def test_faults_are_counted_and_all_else_is_read(tmp_path: Path):
    benchmark = load(
        "beir",
        beir(
            tmp_path,
            corpus_jsonl='{"_id": "p1", "text": "again"}\n{"_id": "p3"}\n[1]\n{"_id": "p4", "text": " "}\n{"_id\n',
            qrels__test_tsv="q1\tp9\t1\nq7\tp1\t1\nq2\tp2\t0\nq1 p1\nq1\tp1\t1\n",
        ),
    )
    assert reasons(benchmark) == {
        "repeated passage id": 1,
        "missing text": 1,
        "not an object": 1,
        "passage without text": 1,
        "broken JSON": 1,
        "judgement of a missing passage": 1,
        "judgement for a missing query": 1,
        "query without a relevant passage": 1,
        "not a judgement": 1,
        "two judgements of one passage": 1,
    }
    assert benchmark.absent == {"p9": "en"}
    assert benchmark.judgements == {"q1": {"p1": 2, "p2": 0, "p9": 1}, "q2": {"p2": 0}}
    assert texts(benchmark).keys() == {"q1", "q2", "p1", "p2"}


def test_query_judged_only_with_grade_0_is_kept(tmp_path: Path):
    benchmark = load("beir", beir(tmp_path, qrels__test_tsv="q2\tp9\t0\n"))
    assert [query.query_id for query in benchmark.queries] == ["q1", "q2"]
    assert reasons(benchmark) == {"query without a relevant passage": 1}
    assert benchmark.absent == {}


def test_truncated_file_is_rejected_after_its_whole_lines(tmp_path: Path):
    beir(tmp_path)
    whole = gzip.compress("".join(f'{{"_id": "q{n}", "text": "{n} {"x" * 99}"}}\n' for n in range(500)).encode())
    (tmp_path / "queries.jsonl.gz").write_bytes(whole[:-9])
    benchmark = load("beir", tmp_path)
    assert reasons(benchmark)["unreadable file"] == 1
    assert len(benchmark.queries) == 1


def test_link_out_of_the_folder_is_refused(tmp_path: Path):
    secret = tmp_path / "secret.jsonl"
    write_objects(secret, {"_id": "p", "text": "secret"})
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "corpus.jsonl").symlink_to(secret)
    with pytest.raises(CorpusError, match="leads out of its folder"):
        load("beir", tmp_path / "set")
