"""The settings of a corpus."""

from __future__ import annotations

import pytest

from hbt_ray.config import Columns, CorpusConfig, build
from hbt_ray.errors import ConfigError

PLAIN = {"format": "jsonl", "path": "faq"}


def test_later_settings_are_not_written_while_they_have_their_default():
    written = build(CorpusConfig, PLAIN).model_dump(mode="json")
    assert set(written) == {"format", "name", "path", "languages", "columns", "subset", "split"}
    settings = {"language": "en", "ids": "rows", "max_negatives": 2}
    assert build(CorpusConfig, {**PLAIN, **settings}).model_dump(mode="json") == {**written, **settings}


def test_language_of_a_corpus_is_a_code_in_one_spelling():
    assert build(CorpusConfig, {**PLAIN, "language": "pt_br"}).language == "pt-BR"
    with pytest.raises(ConfigError, match="language: 'english' is no language code; write one such as en, de or zh-CN"):
        build(CorpusConfig, {**PLAIN, "language": "english"})


def test_name_of_a_corpus_is_that_of_its_folder():
    assert build(CorpusConfig, PLAIN).name == "faq"
    assert build(CorpusConfig, {"format": "embedded"}).name == "embedded"
    with pytest.raises(ConfigError, match="a corpus of format 'csv' needs a path"):
        build(CorpusConfig, {"format": "csv"})


def test_columns_have_default_names():
    assert build(CorpusConfig, PLAIN).columns == Columns(question="question", passage="context")
