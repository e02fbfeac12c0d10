"""MLQA-R."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.data.benchmarks import ReadOptions
from hbt_ray.data.benchmarks.mlqa import PUBLISHED_QUESTIONS
from hbt_ray.errors import CorpusError
from tests.helpers.benchmark_files import (
    load,
    mlqa,
    mlqa_paragraph,
    reasons,
)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_files_of_all_language_pairs_are_joined(tmp_path: Path, split: str):
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
    assert {query.cluster for query in benchmark.queries} == {"1"}


def test_answer_not_at_its_offset_is_rejected_once(tmp_path: Path):
    german = mlqa_paragraph("Es ist ein Hund.", ("1", "Was ist es?", "Hund"))
    german["qas"][0]["answers"][0]["answer_start"] = 0
    for asked_in in ("de", "en", "es"):
        mlqa(tmp_path, "dev", "de", asked_in, german)
        mlqa(tmp_path, "dev", asked_in, asked_in, mlqa_paragraph(asked_in))
    mlqa(tmp_path, "dev", "de", "de", german)
    with pytest.raises(CorpusError, match="every metric would be 0; the first fault is 'answer not at its offset'"):
        load("mlqa-r", tmp_path)
    mlqa(tmp_path, "test", "de", "de", german, mlqa_paragraph("Er bellt.", ("2", "Und?", "bellt")))
    for asked_in in ("en", "es"):
        mlqa(tmp_path, "test", "de", asked_in, german)
        mlqa(tmp_path, "test", asked_in, asked_in, mlqa_paragraph(asked_in))
    benchmark = load("mlqa-r", tmp_path, ReadOptions(split="test"))
    assert len(benchmark.queries) == 4
    assert reasons(benchmark) == {"answer not at its offset": 1, "query without a relevant passage": 3}


def test_counts_are_compared_with_published_ones(tmp_path: Path):
    for language, number in (PUBLISHED_QUESTIONS["dev"] | {"de": 511, "zh": 505}).items():
        questions = ((str(one), f"{one}?", "this") for one in range(number))
        mlqa(tmp_path, "dev", language, language, mlqa_paragraph("It is this.", *questions))
    assert [(reject.location, reject.reason, reject.detail) for reject in load("mlqa-r", tmp_path).rejects] == [
        ("de", "fewer questions than published", "511, published 512"),
        ("zh", "more questions than published", "505, published 504"),
    ]
    assert not load("mlqa-r/de", tmp_path).rejects


def test_missing_files_are_named(tmp_path: Path):
    with pytest.raises(CorpusError, match="splits there: none"):
        load("mlqa-r", tmp_path)
