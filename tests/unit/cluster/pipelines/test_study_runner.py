"""What a study's experiments evaluate, and how."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from hbt_ray.cluster.pipelines import study, study_runner
from hbt_ray.cluster.pipelines.study_runner import ExperimentInputs, StudyRunner
from hbt_ray.config import RunConfig
from hbt_ray.errors import TrackingError
from hbt_ray.mining import MinedCorpora
from hbt_ray.study.config import StudyConfig
from hbt_ray.study.experiments import list_experiments
from hbt_ray.study.results import StudyResults
from hbt_ray.training.training_record import TrainingRecord
from tests.unit.study.example_study import MANIFEST, SETTINGS


@pytest.mark.parametrize("debiased", [None, "mean"])
def test_encoder_that_is_not_trained_has_the_prefixes_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debiased: str | None
):
    """A saved encoder without prompts was measured without the prefixes that the others are trained with."""
    run = SETTINGS["run"] | {"text": {"query_prefix": "q: ", "passage_prefix": "p: "}, "model": {"pooling": "cls"}}
    methods = {"untrained": {"trained": False, "debiased": debiased}, "hybrid": {"debiased": "leace"}}
    config = StudyConfig.model_validate(SETTINGS | {"methods": methods, "run": run, "debias_items": 7})
    experiment = list_experiments(config, {"tiny": "x"})[0]
    calls: list[tuple[object, ...]] = []
    options = {"pooling": "cls", "query_prefix": "q: ", "passage_prefix": "p: ", "trust_remote_code": False}

    def debias(model: str, _: object, out: Path, **given: object) -> None:
        calls.append((model, given["items"], {key: given[key] for key in options}))

    monkeypatch.setattr(study_runner, "debias_model", debias)
    run_dir = experiment.run_dir(tmp_path)
    inputs = ExperimentInputs(tmp_path / "store", "saved-encoder", averaged_with=None)
    study_runner._run_experiment(
        experiment, inputs, run_dir, lambda model, settings, out, **given: calls.append((model, out, given))
    )
    evaluated = "saved-encoder" if debiased is None else str(run_dir.path / "debiased")
    expected = [("saved-encoder", 7, options)] if debiased else []
    assert calls == [*expected, (evaluated, run_dir.evaluations, options)]


def test_negatives_are_mined_with_the_prefixes_of_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = SETTINGS["run"] | {"text": {"query_prefix": "q: ", "passage_prefix": "p: "}}
    methods = {"hybrid": {}, "mined": {"mined_with": "hybrid"}}
    config = StudyConfig.model_validate(SETTINGS | {"methods": methods, "run": run})
    runner = study_runner.StudyRunner(config, tmp_path, 2, tracker=None)  # type: ignore[arg-type]
    runner._results["hybrid", 0] = "encoder"
    calls = []

    def mine(config: RunConfig, model: str, out: Path, **given: object) -> MinedCorpora:
        calls.append((model, given))
        return MinedCorpora(out, {"sources": {}})

    monkeypatch.setattr(study_runner, "mine_on_cluster", mine)
    [mined] = [one for one in list_experiments(config, {"tiny": "x"}) if (one.method_name, one.seed) == ("mined", 0)]
    runner._with_results_of_others(mined)
    assert calls == [("encoder", {"query_prefix": "q: ", "passage_prefix": "p: "})]


@pytest.mark.parametrize("num_finished", [0, 1])
def test_equal_encoders_are_measured_once_but_debiased_for_each_seed(tmp_path, monkeypatch, num_finished: int):
    """A resumed study measured an encoder again that another seed had measured before the interruption."""
    methods = {
        "untrained": {"trained": False},
        "first token": {"trained": False, "settings": {"model.pooling": "cls"}},
        "debiased": {"trained": False, "debiased": "projection"},
        "hybrid": {},
    }
    config = StudyConfig.model_validate(SETTINGS | {"methods": methods, "seeds": [0, 1]})
    monkeypatch.setattr(study_runner, "content_digest", lambda model: model)
    inputs = ExperimentInputs(tmp_path / "store", "saved-encoder", averaged_with=None)
    prepared = [(experiment, inputs) for experiment in list_experiments(config, {"tiny": "x"})]
    different, repeated = study_runner._without_repeated(prepared[:num_finished], prepared[num_finished:])
    found = [(experiment.method_name, experiment.seed) for experiment, _ in repeated]
    assert found == [("untrained", 1), ("first token", 1)]  # each of its own method: pooling is no part of the encoder
    assert [(first.method_name, first.seed) for _, first in repeated] == [("untrained", 0), ("first token", 0)]
    assert len(different) == 6 - num_finished


def test_other_methods_use_the_encoder_that_is_evaluated(tmp_path):
    """A teacher was the encoder before its language was removed, and before its weights were averaged."""
    averaged = {"averaged_with": "hybrid"}
    methods = {
        "hybrid": {},
        "averaged": averaged,
        "debiased": averaged | {"debiased": "projection"},
        "saved": {"trained": False},
    }
    config = StudyConfig.model_validate(SETTINGS | {"methods": methods})
    found = {}
    for experiment in list_experiments(config, {"tiny": "x"}):
        other = "hybrids-encoder" if experiment.method.averaged_with else None
        inputs = ExperimentInputs(tmp_path / "store", "saved-encoder", other)
        run_dir = experiment.run_dir(tmp_path)
        path = study_runner._evaluated_encoder(experiment, inputs, run_dir)
        found[experiment.method_name] = path.removeprefix(f"{run_dir.path}/")
    assert found == {"hybrid": "model", "averaged": "averaged", "debiased": "debiased", "saved": "saved-encoder"}


def test_metrics_in_mlflow_are_of_the_step_whose_weights_are_kept(tmp_path, monkeypatch):
    """Early stopping keeps earlier weights than the last, and a method may have steps of its own."""
    methods = {"hybrid": {"settings": {"train.steps": 30}}, "untrained": {"trained": False}}
    run = SETTINGS["run"] | {"train": {"global_batch_pairs": 4, "chunk_pairs": 2}}
    config = StudyConfig.model_validate(SETTINGS | {"methods": methods, "seeds": [0, 1], "run": run})
    logged: list[tuple[str, int]] = []
    parent = mock.MagicMock()
    parent.log_metrics = lambda metrics, step: logged.append(("study", step))
    monkeypatch.setattr(study_runner, "start_tracker", lambda uri, experiment, name, *_: mock.MagicMock(label=name))
    monkeypatch.setattr(
        study_runner, "log_report_metrics", lambda tracker, metrics, step: logged.append((tracker.label, step))
    )
    monkeypatch.setattr(StudyResults, "estimate", lambda *_: mock.MagicMock(mean=0.5))
    runner = StudyRunner(config, tmp_path, 4, parent)
    results = StudyResults(config, tmp_path)
    for experiment in results.experiments.values():
        if experiment.method.trained:
            model = experiment.run_dir(tmp_path).model
            model.mkdir(parents=True)
            TrainingRecord.of(experiment.config, MANIFEST, 20 + experiment.seed).write(model)
        runner._log_experiment(experiment, {})
    study._log_results(results, parent)
    assert logged == [
        *(("hybrid, seed 0", 20), ("hybrid, seed 1", 21), ("untrained, seed 0", 0), ("untrained, seed 1", 0)),
        ("study", 21),
    ]


def test_experiment_that_ended_while_mlflow_was_away_is_logged_later(tmp_path, monkeypatch):
    """It counted as finished, so that no later call logged it."""
    config = StudyConfig.model_validate(SETTINGS | {"methods": {"untrained": {"trained": False}, "hybrid": {}}})
    experiment = next(one for one in list_experiments(config, {"tiny": "x"}) if not one.method.trained)
    started: list[str] = []
    is_away = True

    def start(uri, experiment, name, *_):
        started.append(name)
        if is_away:
            raise TrackingError("away")
        return mock.MagicMock()

    monkeypatch.setattr("hbt_ray.cluster.tracked_run.check_reachable", lambda _: None)
    monkeypatch.setattr(study_runner, "start_tracker", start)
    monkeypatch.setattr(study_runner, "log_report_metrics", mock.MagicMock())
    monkeypatch.setattr(study_runner, "read_run_metrics", lambda _: {})

    def runner() -> StudyRunner:
        one = StudyRunner(config, tmp_path, 1, mock.MagicMock())
        one._encoders["untrained", experiment.seed] = "saved"
        monkeypatch.setattr(one, "_fingerprints", lambda _: {"tiny": "1"})
        monkeypatch.setattr(one, "_prepare", lambda experiment: (experiment, mock.MagicMock()))
        monkeypatch.setattr(one, "_run", lambda unfinished: [one._finish(ended, 0.0) for ended, _ in unfinished])
        monkeypatch.setattr(study_runner, "_without_repeated", lambda finished, unfinished: (unfinished, []))
        one.run_level([experiment])
        return one

    first = runner()
    assert started == [experiment.label]
    assert not first.log_missing()  # so the study is not complete
    is_away, started[:] = False, []
    again = runner()
    assert started == []
    assert again.log_missing()
    assert started == [experiment.label]
    assert again.log_missing()
    assert runner().log_missing()
    assert started == [experiment.label]
