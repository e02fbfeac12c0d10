from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hbt_ray.config import EvaluateConfig, with_settings
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CheckpointError
from hbt_ray.evaluation.evaluator import evaluate_benchmark
from hbt_ray.evaluation.report import write_report
from hbt_ray.study.config import StudyConfig
from hbt_ray.study.experiments import (
    Experiment,
    dependency_levels,
    is_pretrained,
    list_experiments,
    mark_pretrained,
    pretraining_config,
    pretraining_dir,
    pretraining_levels,
)
from tests.helpers.damage import EXAMPLES, Damage, check_damaged, damages_and_earlier, flip_bit, malformed_cases
from tests.unit.evaluation.test_evaluator import topic_embedder
from tests.unit.study.example_study import SETTINGS


def test_experiment_has_its_methods_settings_and_its_seed():
    experiments = list_experiments(StudyConfig.model_validate(SETTINGS), {"tiny": "there"})
    assert len(experiments) == 9
    [last] = [experiment for experiment in experiments if experiment.label == "x-y, seed 2"]
    assert (last.config.mix.strategy, last.config.seed) == ("x-y", 2)
    assert (last.config.evaluate.benchmarks, last.config.evaluate.figures) == ({"tiny": "there"}, False)


def test_settings_of_distillation_need_no_teacher_that_is_not_trained_yet():
    settings = {"loss.distillation.temperature": 0.01}
    methods = {"hybrid": {}, "taught": {"taught_by": "hybrid", "settings": settings}}
    experiments = list_experiments(StudyConfig.model_validate(SETTINGS | {"methods": methods}), {})
    distillation = experiments[-1].config.loss.distillation
    assert (distillation.teacher, distillation.temperature) == ("hybrid", 0.01)


def test_experiments_of_one_storage_have_checkpoints_of_their_kind(tmp_path: Path):
    run = SETTINGS["run"] | {"storage": str(tmp_path / "bucket")}
    config = StudyConfig.model_validate(SETTINGS | {"run": run, "pretraining": {"one": {}}})
    folder = tmp_path / "small"
    storages = {str(one.run_dir(folder).storage) for one in list_experiments(config, {})}
    assert len(storages) == 9
    assert f"{tmp_path}/bucket/small/cells/x-y/seed-2" in storages


def test_experiments_that_need_another_method_come_after_it():
    methods = {
        "both": {"encoder_of": "mined", "trained": False},
        "mined": {"mined_with": "hybrid"},
        "hybrid": {},
        "taught": {"taught_by": "hybrid"},
    }
    config = StudyConfig.model_validate(SETTINGS | {"methods": methods, "seeds": [4]})
    levels = dependency_levels(config, list_experiments(config, {}))
    names = [[experiment.method_name for experiment in level] for level in levels]
    assert names == [["hybrid"], ["mined", "taught"], ["both"]]


def finished_experiment(folder: Path, benchmark: Benchmark) -> tuple[Experiment, str]:
    """Return an experiment that is evaluated and marked as finished, and its encoder."""
    experiment = list_experiments(StudyConfig.model_validate(SETTINGS), {"tiny": None})[3]
    assert experiment.method.trained
    run_dir = experiment.run_dir(folder)
    run_dir.model.mkdir(parents=True)
    (run_dir.model / "model.safetensors").write_text("weights")
    report = evaluate_benchmark(topic_embedder(benchmark), benchmark, EvaluateConfig())
    write_report(report, run_dir.evaluations / "tiny", settings=EvaluateConfig(figures=False))
    experiment.mark_finished(folder, str(run_dir.model), {"tiny": "1"})
    return experiment, str(run_dir.model)


def test_experiment_is_unfinished_after_what_it_depends_on_changed(tmp_path: Path, benchmark: Benchmark):
    experiment, model = finished_experiment(tmp_path, benchmark)
    assert experiment.is_finished(tmp_path, model, {"tiny": "1"})
    assert not experiment.is_finished(tmp_path, model, {"tiny": "2"})  # the content of the benchmark
    other = with_settings(experiment.config, {"evaluate.dimensions": 2})
    assert not replace(experiment, config=other).is_finished(tmp_path, model, {"tiny": "1"})
    marker = experiment.run_dir(tmp_path).path / "finished.json"
    marker.write_text('{"evaluate": "0123456789abcdef"}')  # of an earlier version
    assert not experiment.is_finished(tmp_path, model, {"tiny": "1"})


def test_debiased_experiment_is_unfinished_after_the_number_of_items_changed(tmp_path: Path, benchmark: Benchmark):
    experiment, model = finished_experiment(tmp_path, benchmark)
    debiased = replace(experiment, method=experiment.method.model_copy(update={"debiased": "leace"}))
    debiased.mark_finished(tmp_path, model, {"tiny": "1"})
    assert debiased.is_finished(tmp_path, model, {"tiny": "1"})
    assert not replace(debiased, debias_items=7).is_finished(tmp_path, model, {"tiny": "1"})
    assert not experiment.is_finished(tmp_path, model, {"tiny": "1"})


@pytest.mark.parametrize("name", ["report.json", "per_query.parquet", "run.trec"])
def test_experiment_with_a_damaged_report_is_unfinished(tmp_path: Path, benchmark: Benchmark, name: str):
    experiment, model = finished_experiment(tmp_path, benchmark)
    flip_bit(experiment.run_dir(tmp_path).evaluations / "tiny" / name)
    assert not experiment.is_finished(tmp_path, model, {"tiny": "1"})


def test_finished_experiment_with_a_damaged_encoder_is_refused(tmp_path: Path, benchmark: Benchmark):
    experiment, model = finished_experiment(tmp_path, benchmark)
    flip_bit(Path(model) / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model is not as it was written; delete .*seed-0 to train it again"):
        experiment.is_finished(tmp_path, model, {"tiny": "1"})
    shutil.rmtree(model)  # to save space
    assert experiment.is_finished(tmp_path, model, {"tiny": "1"})


def test_pretraining_with_a_damaged_encoder_is_unfinished(tmp_path: Path):
    config = pretraining_config(StudyConfig.model_validate(SETTINGS | {"pretraining": {"one": {}}}), "one", 0)
    run_dir = pretraining_dir(tmp_path, config)
    assert not is_pretrained(tmp_path, config)
    run_dir.model.mkdir(parents=True)
    (run_dir.model / "model.safetensors").write_text("weights")
    mark_pretrained(run_dir)
    assert is_pretrained(tmp_path, config)
    flip_bit(run_dir.model / "model.safetensors")
    assert not is_pretrained(tmp_path, config)


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
    config = StudyConfig.model_validate(SETTINGS | {"chapters": [], "pretraining": pretraining, "run": run})
    built = pretraining_config(config, "one", 5)
    assert (built.name, built.seed, built.text.max_query_tokens, built.text.max_passage_tokens) == ("one", 5, 9, 33)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, benchmark: Benchmark) -> tuple[Path, Experiment]:
    folder = tmp_path_factory.mktemp("finished")
    return folder, finished_experiment(folder, benchmark)[0]


@malformed_cases(3 * EXAMPLES, damage=damages_and_earlier)
def test_damaged_experiment_is_unfinished_or_refused(finished: tuple[Path, Experiment], damage: Damage):
    folder, experiment = finished
    model = str(experiment.run_dir(folder).model)

    def is_finished(folder: Path) -> bool:
        return experiment.is_finished(folder, model, {"tiny": "1"})

    check_damaged(folder, damage, is_finished, may_be=lambda found: found is False)
