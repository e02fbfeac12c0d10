"""Files in each set's published format: what is wrong in them is counted, told, and loses no query.

BEIR's have a file of their own, and so have MIRACL's with Mr. TyDi's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hbt_ray.data.benchmarks import ReadOptions
from hbt_ray.data.benchmarks.mlqa import PUBLISHED_QUESTIONS
from hbt_ray.errors import CorpusError
from tests.helpers.benchmark_files import load, miracl, mlqa, mlqa_paragraph, mrtydi_hub, reasons, write, write_objects


@pytest.mark.parametrize("name", ["miracl", "mrtydi", "mldr", "mlqa-r", "xm3600", "pairs"])
def test_a_language_that_is_not_there_is_told_with_those_that_are(tmp_path: Path, name: str):
    places = {each: tmp_path / each for each in ("miracl", "mrtydi", "mldr", "mlqa-r", "xm3600", "pairs")}
    miracl(places["miracl"], "sw", "te")
    mlqa(places["mlqa-r"], "dev", "sw", "te", mlqa_paragraph("Ja."))
    image = {"image/key": "k", "sw": {"caption": ["a"]}, "te": {"caption": ["b"]}}
    write_objects(places["xm3600"] / "captions.jsonl", image)
    for language in ("sw", "te"):
        mrtydi_hub(places["mrtydi"] / language)
        write_objects(places["mldr"] / f"mldr-v1.0-{language}" / "corpus.jsonl", {"docid": "d", "text": "long"})
        write_objects(places["pairs"] / f"{language}.jsonl", {"id": "1", "question": "?", "context": "A."})
    with pytest.raises(CorpusError, match=r"no swahili; .*\bsw, te$"):
        load(f"{name}/swahili", places[name])


# MLDR


def test_mldr_reads_documents_and_the_questions_of_a_split(tmp_path: Path):
    for language in ("ar", "en"):
        folder = tmp_path / f"mldr-v1.0-{language}"
        write_objects(folder / "corpus.jsonl.gz", {"docid": "d-1", "text": "long"}, {"docid": "d-2", "text": "longer"})
        positive = [{"docid": "d-2", "text": "longer"}]
        write_objects(
            folder / "test.jsonl.gz",
            {"query_id": "q-1", "query": "Which?", "positive_passages": positive, "negative_passages": []},
            {"query_id": "q-2", "query": "What?", "positive_passages": [{"text": "no id"}]},
        )
    benchmark = load("mldr", tmp_path)
    assert (benchmark.split, benchmark.languages) == ("test", ["ar", "en"])
    assert benchmark.judgements == {"ar:q-1": {"ar:d-2": 1}, "en:q-1": {"en:d-2": 1}}
    assert reasons(benchmark) == {"not a judgement": 2, "query without a relevant passage": 2}
    with pytest.raises(CorpusError, match=r"holds no mldr-v1.0-<language>/dev.jsonl.gz"):
        load("mldr", tmp_path, ReadOptions(split="dev"))


def test_mldr_is_read_from_within_a_language_s_folder_whatever_else_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "mldr-v1.0-de"
    write_objects(folder / "corpus.jsonl.gz", {"docid": "d", "text": "long"})
    asked = {"query_id": "q", "query": "Which?", "positive_passages": [{"docid": "d"}]}
    write_objects(folder / "dev.jsonl", asked)
    for file in ("dev.json", "dev.jsonl.bak", "dev-notes.jsonl", "corpus.json"):
        write(folder / file, "{}\n")
    monkeypatch.chdir(folder)
    benchmark = load("mldr", Path(), ReadOptions(split="dev"))
    assert benchmark.judgements == {"de:q": {"de:d": 1}}
    assert (benchmark.languages, benchmark.rejects) == (["de"], [])


# XM3600


def test_xm3600_s_first_caption_asks_and_the_others_answer_in_every_language(tmp_path: Path):
    def image(key: str, **captions: list[str]) -> dict[str, Any]:
        described = {language: {"caption": own, "caption/tokenized": own} for language, own in captions.items()}
        return {"image/key": key, "image/locale": "en", **described}

    write_objects(
        tmp_path / "captions.jsonl",
        image("k1", de=["Hund", "Ein Hund"], en=["dog", "a dog", "the dog"]),
        image("k2", de=["Katze"], en=["cat", "a cat"]),
        image("k3", de=[], en=["cow", "a cow"]),
    )
    benchmark = load("xm3600", tmp_path)
    assert {query.query_id: (query.text, query.group) for query in benchmark.queries} == {
        "de:k1": ("Hund", "k1"),
        "en:k1": ("dog", "k1"),
        "de:k2": ("Katze", "k2"),
        "en:k2": ("cat", "k2"),
        "en:k3": ("cow", "k3"),
    }
    assert benchmark.judgements["de:k1"] == {"de:k1:2": 1, "en:k1:2": 1, "en:k1:3": 1}
    assert benchmark.judgements["de:k2"] == {"en:k2:2": 1}
    assert (benchmark.split, reasons(benchmark)) == ("", {"missing text": 1})
    assert not {query.text for query in benchmark.queries} & {passage.text for passage in benchmark.passages}


# Parallel pairs


def test_pairs_align_by_id_and_equal_contexts_are_one_passage(tmp_path: Path):
    rows = [{"id": 1, "question": "a?", "context": "A."}, {"id": 2, "question": "b?", "context": "A."}]
    write_objects(tmp_path / "en.jsonl.gz", *rows)
    write_objects(tmp_path / "de.jsonl", {"id": "1", "question": "ä?", "context": "Ä."}, {"id": "3", "context": "Ö."})
    benchmark = load("pairs", tmp_path)
    assert [passage.passage_id for passage in benchmark.passages] == ["de:1", "en:1"]
    assert benchmark.judgements == {
        "de:1": {"de:1": 1, "en:1": 1},
        "en:1": {"de:1": 1, "en:1": 1},
        "en:2": {"en:1": 1},
    }
    assert (benchmark.split, reasons(benchmark)) == ("", {"missing text": 1})
    assert load("pairs/de", tmp_path).languages == ["de"]


# MLQA-R


@pytest.mark.parametrize("split", ["dev", "test"])
def test_mlqa_r_joins_the_files_of_all_pairs(tmp_path: Path, split: str):
    english, german = "It is a dog. It barks.", "Es ist ein Hund. Er bellt."
    mlqa(tmp_path, split, "en", "en", mlqa_paragraph(english, ("1", "What is it?", "dog"), ("2", "And?", "barks")))
    mlqa(tmp_path, split, "en", "de", mlqa_paragraph(english, ("1", "Was ist es?", "dog")))
    mlqa(tmp_path, split, "de", "de", mlqa_paragraph(german, ("1", "Was ist es?", "Hund")))
    mlqa(tmp_path, split, "de", "en", mlqa_paragraph(german, ("1", "What is it?", "Hund")))
    benchmark = load("mlqa-r", tmp_path)
    assert sorted(query.query_id for query in benchmark.queries) == ["de:1", "en:1", "en:2"]
    assert [passage.text for passage in benchmark.passages] == [
        "Es ist ein Hund.",
        "Er bellt.",
        "It is a dog.",
        "It barks.",
    ]
    both = {"de:00000:000": 1, "en:00000:000": 1}
    assert benchmark.judgements == {"de:1": both, "en:1": both, "en:2": {"en:00000:001": 1}}
    assert (benchmark.split, benchmark.rejects) == (split, [])


def test_an_answer_that_mlqa_r_does_not_find_is_told_once_whoever_asks(tmp_path: Path):
    german = mlqa_paragraph("Es ist ein Hund.", ("1", "Was ist es?", "Hund"))
    german["qas"][0]["answers"][0]["answer_start"] = 0
    for asked_in in ("de", "en", "es"):
        mlqa(tmp_path, "dev", "de", asked_in, german)
        mlqa(tmp_path, "dev", asked_in, asked_in, mlqa_paragraph(asked_in))
    mlqa(tmp_path, "dev", "de", "de", german)
    benchmark = load("mlqa-r", tmp_path)
    assert len(benchmark.queries) == 3
    assert reasons(benchmark) == {"answer not at its offset": 1, "query without a relevant passage": 3}


def test_other_counts_than_published_are_told_where_all_of_mlqa_r_s_languages_are_there(tmp_path: Path):
    for language, number in (PUBLISHED_QUESTIONS["dev"] | {"de": 511, "zh": 505}).items():
        questions = ((str(one), f"{one}?", "this") for one in range(number))
        mlqa(tmp_path, "dev", language, language, mlqa_paragraph("It is this.", *questions))
    assert [(reject.location, reject.reason, reject.detail) for reject in load("mlqa-r", tmp_path).rejects] == [
        ("de", "fewer questions than published", "511, published 512"),
        ("zh", "more questions than published", "505, published 504"),
    ]
    assert not load("mlqa-r/de", tmp_path).rejects


def test_mlqa_without_its_files_is_told(tmp_path: Path):
    with pytest.raises(CorpusError, match="splits there: none"):
        load("mlqa-r", tmp_path)
