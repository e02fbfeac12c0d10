"""A study that has ended is answered from its folder until something has changed."""

from __future__ import annotations

import pytest

from hbt_ray.study.config import StudyConfig, load_study, study_file
from hbt_ray.study.finished_study import finished_study, mark_study

LINES = ["| method | mAP |", "|---|---|", "| one | **0.5** |"]


@pytest.fixture
def config(tmp_path) -> StudyConfig:
    """Return the configuration of a study that has ended in the folder `out`."""
    config = load_study(study_file("low-resource"), ())
    for name in ("report.html", "cells/one/seed-0/evaluation/embedded/report.json", "cells/one/seed-0/model/weights"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("1")
    mark_study(config, tmp_path / "out", LINES)
    return config


def test_finished_study_has_the_lines_of_its_results(config, tmp_path):
    assert finished_study(config, tmp_path / "out") == LINES
    assert finished_study(config, tmp_path / "another") is None


@pytest.mark.parametrize("changed", ["report.html", "cells/one/seed-0/model/weights", "cells/two/seed-0/model/weights"])
def test_changed_or_new_result_leaves_something_to_do(config, tmp_path, changed):
    (tmp_path / "out" / changed).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "out" / changed).write_text("22")
    assert finished_study(config, tmp_path / "out") is None


def test_added_seed_leaves_something_to_do(config, tmp_path):
    more = config.model_copy(update={"seeds": (*config.seeds, 99)})
    assert finished_study(more, tmp_path / "out") is None
