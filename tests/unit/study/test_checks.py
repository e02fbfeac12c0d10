"""What a study cannot do is refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.errors import CorpusError
from hbt_ray.study.checks import check_study
from hbt_ray.study.config import StudyConfig
from tests.helpers.corpus_files import GOOD, write_lines
from tests.unit.study.example_study import SETTINGS


def test_language_is_not_removed_from_corpora_of_one_language(tmp_path: Path):
    write_lines(tmp_path / "en.jsonl", GOOD)
    run = {"evaluate": {"benchmarks": {"embedded": None}}, "corpora": [{"format": "jsonl", "path": str(tmp_path)}]}
    settings = SETTINGS | {"chapters": [], "measures": ["embedded/mono/map"], "run": run}
    methods = {"hybrid": {}, "b": {"debiased": "projection"}}
    with pytest.raises(CorpusError, match="the corpora have one language only, en, and a language is removed"):
        check_study(StudyConfig.model_validate(settings | {"methods": methods}), tmp_path)
