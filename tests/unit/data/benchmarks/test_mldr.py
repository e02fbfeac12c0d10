"""MLDR."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.data.benchmarks import ReadOptions
from hbt_ray.errors import CorpusError
from tests.helpers.benchmark_files import (
    load,
    reasons,
    write,
    write_objects,
)


def test_documents_and_questions_of_a_split_are_read(tmp_path: Path):
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


def test_ids_that_are_numbers_match_in_corpus_and_judgements(tmp_path: Path):
    folder = tmp_path / "mldr-v1.0-de"
    write_objects(folder / "corpus.jsonl", {"docid": 10, "text": "long"}, {"docid": 11.0, "text": "longer"})
    positives = [{"docid": 10}, {"docid": "11"}]
    write_objects(folder / "test.jsonl", {"query_id": 1, "query": "Which?", "positive_passages": positives})
    benchmark = load("mldr", tmp_path)
    assert (benchmark.judgements, benchmark.rejects) == ({"de:1": {"de:10": 1, "de:11": 1}}, [])


def test_white_space_around_the_id_of_a_passage_does_not_count(tmp_path: Path):
    folder = tmp_path / "mldr-v1.0-de"
    write_objects(folder / "corpus.jsonl", {"docid": "d ", "text": "long"})
    write_objects(folder / "test.jsonl", {"query_id": "q", "query": "Which?", "positive_passages": [{"docid": "d "}]})
    benchmark = load("mldr", tmp_path)
    assert (benchmark.judgements, benchmark.rejects) == ({"de:q": {"de:d": 1}}, [])


def test_language_can_be_read_from_inside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "mldr-v1.0-de"
    write_objects(folder / "corpus.jsonl.gz", {"docid": "d", "text": "long"})
    question = {"query_id": "q", "query": "Which?", "positive_passages": [{"docid": "d"}]}
    write_objects(folder / "dev.jsonl", question)
    for file in ("dev.json", "dev.jsonl.bak", "dev-notes.jsonl", "corpus.json"):
        write(folder / file, "{}\n")
    monkeypatch.chdir(folder)
    benchmark = load("mldr", Path(), ReadOptions(split="dev"))
    assert benchmark.judgements == {"de:q": {"de:d": 1}}
    assert (benchmark.languages, benchmark.rejects) == (["de"], [])
