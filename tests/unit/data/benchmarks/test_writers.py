"""Benchmarks written in published formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.data.benchmarks.writers import FORMATS, write_benchmark
from hbt_ray.errors import CorpusError

ITEMS = {
    item: {language: (f"{language} asks {item}?", f"{language} says {item}") for language in languages}
    for item, languages in {"a/1": ("de", "sw"), "b/2": ("de", "sw"), "c/3": ("de",)}.items()
}


@pytest.mark.parametrize("format", FORMATS)
def test_reader_returns_the_items_that_were_written(format: str, tmp_path: Path):
    write_benchmark(format, ITEMS, ["a/1", "c/3"], tmp_path)
    read = load_benchmark(format, str(tmp_path))
    assert not read.rejects
    assert sorted((q.language, q.text) for q in read.queries) == [
        *(("de", "de asks a/1?"), ("de", "de asks c/3?"), ("sw", "sw asks a/1?")),
    ]
    texts = {passage.passage_id: (passage.language, passage.text) for passage in read.passages}
    every = {(x, f"{x} says {item}") for item, texts_of in ITEMS.items() for x in texts_of}
    of_queries = {(x, text) for x, text in every if not text.endswith("b/2")}
    assert set(texts.values()) == (of_queries if format == "xm3600" else every)
    for query in read.queries:
        item = query.text.split()[-1].rstrip("?")
        answers = {texts[passage] for passage, grade in read.judgements[query.query_id].items() if grade}
        languages = ITEMS[item] if format == "xm3600" else [query.language]
        assert answers == {(x, f"{x} says {item}") for x in languages}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("language", ["pt-BR", "zh-Hant-TW", "eng_Latn", "es-419", "ca-valencia"])
def test_language_with_a_region_is_kept(format: str, language: str, tmp_path: Path):
    write_benchmark(format, {"a": {language: ("Where?", "There.")}}, ["a"], tmp_path)
    assert [query.language for query in load_benchmark(format, str(tmp_path)).queries][:1] == [language]


@pytest.mark.parametrize("format", FORMATS)
def test_question_of_several_lines_is_kept(format: str, tmp_path: Path):
    write_benchmark(format, {"a": {"en": ("Where\nis it?", "There.")}}, ["a"], tmp_path)
    read = load_benchmark(format, str(tmp_path))
    assert (" ".join(read.queries[0].text.split()), read.rejects) == ("Where is it?", [])


def test_unknown_format_is_refused(tmp_path: Path):
    with pytest.raises(CorpusError, match="no format 'squad' to write; there are miracl"):
        write_benchmark("squad", ITEMS, ["a/1"], tmp_path)
