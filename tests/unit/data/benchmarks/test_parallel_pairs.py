"""Parallel pairs as a benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.errors import CorpusError
from tests.helpers.benchmark_files import (
    load,
    reasons,
    write,
    write_objects,
)


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
    assert {query.query_id: query.cluster for query in benchmark.queries} == {"de:1": "1", "en:1": "1", "en:2": "1"}
    assert load("pairs/de", tmp_path).languages == ["de"]


def test_pair_that_is_marked_or_in_another_language_is_rejected(tmp_path: Path):
    good = {"id": 1, "question": "a?", "context": "A."}
    marked = {**good, "id": 2, "is_impossible": True}
    write_objects(tmp_path / "zh_CN.jsonl", {**good, "language": "zh"}, marked, {**good, "id": 3, "language": "fr"})
    benchmark = load("pairs", tmp_path)
    assert benchmark.judgements == {"zh-CN:1": {"zh-CN:1": 1}}
    assert reasons(benchmark) == {"marked as unanswerable": 1, "language differs from the file's": 1}


def test_files_that_no_reader_opens_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_objects(tmp_path / "de.jsonl", {"id": 1, "question": "a?", "context": "A."})
    write_objects(tmp_path / "dev.jsonl", {"id": 2, "question": "b?", "context": "B."})
    write(tmp_path / "more" / "fr.jsonl", "")
    load("pairs", tmp_path)
    assert f"'pairs' does not read dev.jsonl, more/fr.jsonl in {str(tmp_path)!r}" in caplog.text


def test_corpora_of_any_format_are_a_benchmark(tmp_path: Path):
    folder = tmp_path / "faq"
    folder.mkdir()
    for language in ("de", "en"):
        (folder / f"{language}.csv").write_text(f"id,query,answer\n1,{language} a?,{language} A.\n2,,B.\n")
    (tmp_path / "faq.yaml").write_text(f"corpora: [{{format: csv, path: {folder}, languages: [en]}}]")
    benchmark = load("pairs", folder)
    assert benchmark.judgements == {query: {"de:1": 1, "en:1": 1} for query in ("de:1", "en:1")}
    assert reasons(benchmark) == {"missing question": 2}
    assert load("pairs", tmp_path / "faq.yaml").judgements == {"en:1": {"en:1": 1}}


def test_language_that_corpora_lack_is_refused(tmp_path: Path):
    for language in ("de", "en"):
        (tmp_path / f"{language}.csv").write_text("id,query,answer\n1,a?,A.\n")
    assert load("pairs/de", tmp_path).languages == ["de"]
    with pytest.raises(CorpusError, match="has no question in fr; choose another language"):
        load("pairs/fr", tmp_path)
