"""Studies on the cluster: their files, their MLflow runs, and resuming."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hbt_ray.cluster.pipelines.study import study
from hbt_ray.config import load_config, replace_in
from hbt_ray.errors import ConfigError
from hbt_ray.study.config import StudyConfig
from hbt_ray.tracking import training_runs
from tests.helpers.background import BackgroundWork
from tests.helpers.slow import slow
from tests.integration.conftest import tiny_config

COMMAND = "hbt study tiny"
METHODS = ("untrained", "hybrid", "mined", "taught", "pretrained")
PRETRAINING = {
    "pretrain.steps": 2,
    "pretrain.block_tokens": 16,
    "pretrain.global_batch_blocks": 4,
    "pretrain.chunk_blocks": 2,
    "pretrain.precision": "fp32",
}


def tiny_study(folder: Path, **settings) -> StudyConfig:
    """Return a study of an untrained encoder and four methods, three of which start from another's results."""
    corpus = folder / "numbers"
    run = tiny_config(
        corpus, prepare={"near_duplicate_threshold": 1}, train={"steps": 4}, tracking={"experiment": "studies"}
    )
    made = {"format": "jsonl", "name": "others", "path": str(folder / "others")}
    plain = {
        "name": "tiny",
        "title": "A tiny study",
        "question": "Does training help?",
        "reference": "hybrid",
        "methods": {
            "untrained": {"trained": False},
            "hybrid": {},
            "mined": {"mined_with": "hybrid", "settings": {"mix.hard_negatives": 1}},
            "taught": {"taught_by": "hybrid"},
            "pretrained": {"pretrained": "second"},
        },
        "pretraining": {
            "first": {"settings": PRETRAINING},
            "second": {"after": "first", "settings": PRETRAINING | {"languages": ["de"]}},
            "unused": {"settings": PRETRAINING},
        },
        "made": {"xm3600": {"corpus": made, "questions": 10}},
        "measures": ["xm3600/cross/map", "xm3600/gap/map", "xm3600/multi/rank_distance"],
        "chapters": ["gap", "alignment"],
        "seeds": [0, 1],
        "concurrent": 2,
        "run": run.model_dump(mode="json"),
    }
    return StudyConfig.model_validate(plain | settings)


@pytest.fixture(scope="session")
def finished_study(cluster: None, work: BackgroundWork) -> Path:
    """Return the folder of the tiny study and of its corpora."""
    return work.result("finished_study")


def test_study_writes_a_report_and_a_folder_per_experiment(finished_study: Path):
    folder = finished_study / "tiny"
    text = (folder / "report.md").read_text()
    for words in (
        "Does training help?",
        "hard negatives mined with hybrid",
        "distilled from hybrid",
        "continues from “first”",
        COMMAND,
    ):
        assert words in text, words
    assert "was written before the first result." in text
    assert (folder / "report.html").exists()
    for method in METHODS:
        for seed in (0, 1):
            run_dir = folder / "cells" / method / f"seed-{seed}"
            assert (run_dir / "evaluation/xm3600/per_query.parquet").exists()
            assert (run_dir / "model").exists() == (method != "untrained")
            assert not (run_dir / "checkpoints").exists()
    values = json.loads((folder / "summary.json").read_text())["measures"]["xm3600/cross/map"]
    assert all(len(set(by_seed)) == 2 for by_seed in values.values())  # the seeds differ
    assert len({tuple(by_seed) for by_seed in values.values()}) == len(METHODS)  # and so do the methods
    pretrained = folder / "pretraining"
    assert {path.name for path in pretrained.iterdir()} == {"first", "second"}  # an unused pretraining is not run
    config = load_config(folder / "cells/pretrained/seed-1/run.yaml")
    assert config.model.path == str(pretrained / "second/seed-1/model")


def test_experiments_are_mlflow_runs_below_the_study(finished_study: Path):
    uri = f"sqlite:///{finished_study}/mlflow.db"
    runs = {run.name: run for run in training_runs(uri, "studies")}
    parent = runs.pop("tiny")
    assert runs.keys() == {f"{m}, seed {s}" for m in METHODS for s in (0, 1)}
    client = MlflowClient(uri)
    for run in runs.values():
        assert client.get_run(run.run_id).data.tags["mlflow.parentRunId"] == parent.run_id
        assert "xm3600/cross/map" in run.metrics
    files = {file.path for file in client.list_artifacts(parent.run_id)}
    assert {"plan.json", "report.html", "report.md", "summary.json", "table.csv", "figures"} <= files


def test_resumed_study_repeats_only_what_is_missing(finished_study: Path):
    folder = finished_study / "tiny"
    before = (folder / "summary.json").read_bytes()
    lost = folder / "cells/hybrid/seed-1"
    shutil.rmtree(lost)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/*/evaluation/xm3600/report.json")}
    assert len(kept) == 2 * len(METHODS) - 1
    study(tiny_study(finished_study), folder, COMMAND)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert (lost / "model").exists()
    assert (folder / "summary.json").read_bytes() == before


def test_study_refuses_experiments_trained_with_other_settings(finished_study: Path):
    other = tiny_study(finished_study)
    other = replace_in(other, "run.train.learning_rate", 0.5)
    with pytest.raises(ConfigError, match=r"holds a run with train.learning_rate=0.001, and this one has 0.5"):
        study(other, finished_study / "tiny", COMMAND)


def test_study_refuses_a_pretraining_with_other_settings(finished_study: Path):
    other = {"settings": PRETRAINING | {"pretrain.steps": 3}}
    second = {"after": "first", "settings": PRETRAINING | {"languages": ["de"]}}
    with pytest.raises(ConfigError, match=r"steps=2, and this one has 3; write another --out, or delete .*first"):
        study(
            tiny_study(finished_study, pretraining={"first": other, "second": second}), finished_study / "tiny", COMMAND
        )


def test_study_refuses_metrics_without_a_value_before_it_trains(finished_study: Path, tmp_path: Path):
    made = {"miracl": {"corpus": {"format": "jsonl", "path": str(finished_study / "others")}, "questions": 10}}
    settings = tiny_study(finished_study, made=made, measures=["miracl/multi/rank_distance"])
    with pytest.raises(ConfigError, match="miracl/multi/rank_distance, which has no value on miracl"):
        study(settings, tmp_path / "tiny", COMMAND)
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == {"benchmarks"}


def test_changed_benchmark_is_measured_again_and_nothing_is_trained_again(finished_study: Path):
    folder, file = finished_study / "tiny", finished_study / "others" / "de.jsonl"
    content, before = file.read_text(), json.loads((folder / "summary.json").read_text())
    models = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/*/model/model.safetensors")}
    questions = [json.loads(line) for line in content.splitlines()]
    for row, other in zip(questions, [*questions[1:], questions[0]], strict=True):
        row["question"] = other["question"]
    file.write_text("\n".join(map(json.dumps, questions)))
    with pytest.raises(ConfigError, match=r"mined with evaluation_sets\.xm3600="):  # which mining leaves out
        study(tiny_study(finished_study), folder, COMMAND)
    plain = tiny_study(finished_study)
    plain = plain.model_copy(update={"methods": {k: v for k, v in plain.methods.items() if k != "mined"}})
    study(plain, folder, COMMAND)
    changed = json.loads((folder / "summary.json").read_text())["measures"]
    assert all(
        changed[metric][method] != before["measures"][metric][method] for metric in changed for method in plain.methods
    )
    file.write_text(content)
    study(tiny_study(finished_study), folder, COMMAND)
    assert json.loads((folder / "summary.json").read_text()) == before
    assert {path: path.stat().st_mtime_ns for path in models} == models


@slow
def test_two_workers_per_experiment_equal_one_process(finished_study: Path, tmp_path: Path):
    plain = replace_in(tiny_study(finished_study), "run.train.workers", 2)
    methods = {name: plain.methods[name] for name in ("untrained", "hybrid")}
    update = {"methods": methods, "pretraining": {}, "seeds": (0,), "concurrent": None}
    study(plain.model_copy(update=update), tmp_path / "tiny", COMMAND)
    of_two = json.loads((tmp_path / "tiny/summary.json").read_text())["measures"]
    of_one = json.loads((finished_study / "tiny/summary.json").read_text())["measures"]
    for method, measure in ((method, measure) for method in methods for measure in of_two):
        assert of_two[measure][method][0] == pytest.approx(of_one[measure][method][0], rel=1e-3), (method, measure)
    assert not (tmp_path / "tiny/cells/hybrid/seed-0/checkpoints").exists()
