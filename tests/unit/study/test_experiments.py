from __future__ import annotations

from pathlib import Path

from hbt_ray.study.config import StudyConfig
from hbt_ray.study.experiments import (
    dependency_levels,
    list_experiments,
    pretraining_config,
    pretraining_levels,
)
from tests.unit.study.example_study import SETTINGS


def test_experiment_has_its_methods_settings_and_its_seed():
    experiments = list_experiments(StudyConfig.model_validate(SETTINGS), {"tiny": "there"})
    assert len(experiments) == 9
    [last] = [experiment for experiment in experiments if experiment.label == "x-y, seed 2"]
    assert (last.config.mix.strategy, last.config.seed) == ("x-y", 2)
    assert (last.config.evaluate.benchmarks, last.config.evaluate.figures) == ({"tiny": "there"}, False)


def test_experiments_of_one_storage_have_checkpoints_of_their_kind(tmp_path: Path):
    run = SETTINGS["run"] | {"storage": str(tmp_path / "bucket")}
    config = StudyConfig.model_validate(SETTINGS | {"run": run, "pretraining": {"one": {}}})
    folder = tmp_path / "small"
    storages = {str(one.run_dir(folder).storage) for one in list_experiments(config, {})}
    assert len(storages) == 9
    assert f"{tmp_path}/bucket/small/cells/x-y/seed-2" in storages


def test_experiments_that_need_another_method_come_after_it():
    methods = {"mined": {"mined_with": "hybrid"}, "hybrid": {}, "taught": {"taught_by": "hybrid"}}
    config = StudyConfig.model_validate(SETTINGS | {"methods": methods, "seeds": [4]})
    first, second = dependency_levels(list_experiments(config, {}))
    assert [experiment.method_name for experiment in first] == ["hybrid"]
    assert [experiment.method_name for experiment in second] == ["mined", "taught"]


def test_experiment_is_unfinished_after_its_evaluation_changed(tmp_path: Path):
    config = StudyConfig.model_validate(SETTINGS)
    experiment = list_experiments(config, {"tiny": None})[0]
    assert not experiment.is_finished(tmp_path)
    experiment.run_dir(tmp_path).path.mkdir(parents=True)
    experiment.mark_finished(tmp_path)
    assert experiment.is_finished(tmp_path)
    assert not list_experiments(config, {"other": None})[0].is_finished(tmp_path)


def test_pretrainings_that_no_method_needs_are_left_out():
    pretraining = {
        "one": {},
        "two": {"after": "one"},
        "three": {"after": "two"},
        "unused": {"after": "one"},
        "four": {},
    }
    methods = {"hybrid": {"pretrained": "three"}, "b": {"pretrained": "four"}}
    config = StudyConfig.model_validate(SETTINGS | {"methods": methods, "pretraining": pretraining})
    assert pretraining_levels(config) == [["one", "four"], ["two"], ["three"]]
    assert pretraining_levels(StudyConfig.model_validate(SETTINGS)) == []


def test_pretraining_has_the_runs_text_unless_it_names_another():
    pretraining = {"one": {"settings": {"text.max_query_tokens": 9}}}
    run = {"text": {"max_query_tokens": 8, "max_passage_tokens": 33}}
    config = StudyConfig.model_validate(SETTINGS | {"pretraining": pretraining, "run": run})
    built = pretraining_config(config, "one", 5)
    assert (built.name, built.seed, built.text.max_query_tokens, built.text.max_passage_tokens) == ("one", 5, 9, 33)
