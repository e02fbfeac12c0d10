"""Searches on the cluster: what they write, how they resume, and each algorithm."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from hbt_ray.cluster.search.run_search import search
from hbt_ray.config import load_config
from hbt_ray.errors import ClusterError, ConfigError
from hbt_ray.search.config import SearchDimension
from hbt_ray.tracking import training_runs
from tests.integration.conftest import NUM_CPUS, tiny_search


def final_weights(trial: Path) -> dict[str, torch.Tensor]:
    [newest] = sorted((trial / "checkpoints").glob("step-*"))[-1:]
    return load_file(newest / "weights.safetensors")


def test_grid_writes_the_choice_a_table_figures_and_models(finished_search):
    folder, results = finished_search.folder, finished_search.results
    assert {trial.state for trial in finished_search.trials} == {"finished"}
    table = pq.read_table(folder / "trials.parquet")
    assert table["trial"].to_pylist() == [f"alpha={a},seed={seed}" for a in ("0.0", "1.0") for seed in (0, 1)]
    assert set(table["step"].to_pylist()) == {6}
    best = load_config(folder / "best.yaml")
    assert best.mix.alpha == results.best.values["mix.alpha"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 4 * 6
    assert summary["untrained"].keys() == summary["objectives"].keys()  # of the encoder before training
    assert 0 < summary["untrained"]["mono/map"] < 1
    chosen = {result.name for result in results.chosen}
    assert summary["test"].keys() == chosen
    assert {path.name.partition(",seed")[0] for path in (folder / "chosen").iterdir()} == chosen
    assert all(len(values) == 2 for values in summary["test"][results.best.name].values())
    model = SentenceTransformer(str(folder / "chosen" / f"{results.best.name},seed=0" / "model"))
    assert model.encode_query(["de what is a10"]).shape == (1, 16)
    for name in ("objectives", "pareto", "bias"):
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.width > 300
    # Runs that differ only in alpha share the token store and, of each seed, the initial encoder.
    assert len(list((folder.parent / "stores").glob("*/manifest.json"))) == 1
    assert len(list((folder / "initial").iterdir())) == 2


def test_mlflow_has_the_search_its_trials_and_the_model(finished_search):
    uri = f"sqlite:///{finished_search.folder.parent}/mlflow.db"
    runs = {run.name: run for run in training_runs(uri, "hbt")}
    parent = runs.pop("tiny")
    assert runs.keys() == {trial.name for trial in finished_search.trials}
    client = MlflowClient(uri)
    for run in runs.values():
        assert client.get_run(run.run_id).data.tags["mlflow.parentRunId"] == parent.run_id
        assert run.status == "FINISHED"
        assert {"held-out/mono/map", "held-out/multi/rank_distance", "train/loss"} <= run.metrics.keys()
        assert run.params["mix.alpha"] == run.tags["searched.mix.alpha"]
    best = finished_search.results.best
    assert parent.tags["best.mix.alpha"] == str(best.values["mix.alpha"])
    assert parent.metrics["held-out/mono/map"] == pytest.approx(best.mean["mono/map"])
    assert "pairs/multi/map" in parent.metrics
    files = {file.path for file in client.list_artifacts(parent.run_id)}
    assert {"best.yaml", "summary.json", "trials.parquet", "figures"} <= files
    version = client.get_model_version_by_alias("tiny", "best")
    assert version.run_id == parent.run_id
    table = json.loads(Path(client.download_artifacts(parent.run_id, "tables/trials.json")).read_text())
    assert len(table["data"]) == 4
    assert "held-out/mono/map" in table["columns"]


@pytest.fixture
def killed_search(finished_search, work) -> dict[Path, int]:
    """Return the last results of a search's trials when it was killed, and when they were written."""
    return work.result("killed_search")


def test_killed_search_resumes_to_the_same_table(killed_search, search_corpus, finished_search):
    settings = tiny_search(search_corpus, seeds=[0, 1])
    out = search_corpus.parent / "killed"
    finished = killed_search
    assert 1 <= len(finished) < 4
    (out / "tune").chmod(0o777)
    with pytest.raises(ConfigError, match=r"other users may write .*/tune, .* chmod go-w .*, or write another --out"):
        search(settings, out)
    (out / "tune").chmod(0o755)
    search(settings, out)
    assert (out / "summary.json").read_text() == (finished_search.folder / "summary.json").read_text()
    one, other = (load_config(folder / "best.yaml") for folder in (out, finished_search.folder))
    assert one.model_copy(update={"tracking": other.tracking}) == other
    same = pq.read_table(out / "trials.parquet").equals(pq.read_table(finished_search.folder / "trials.parquet"))
    assert same
    assert all(path.stat().st_mtime_ns == at for path, at in finished.items())  # nothing was trained twice
    with pytest.raises(ConfigError, match="holds a search with another seeds"):
        search(settings.model_copy(update={"seeds": (0,)}), out)
    file = search_corpus / "de.jsonl"
    content = file.read_text()
    file.write_text(content.replace("the number 7 ", "seven "))
    with pytest.raises(ConfigError, match="holds a search whose corpora 0 had another content"):
        search(settings, out)
    file.write_text(content)


def test_failed_trial_is_retried_and_reported_and_others_continue(cluster, search_corpus, tmp_path):
    settings = tiny_search(search_corpus, experiment="failing", space={"train.learning_rate": [1e-3, 1e30]})
    finished = search(settings, search_corpus.parent / "failing")
    states = {trial.candidate.values["train.learning_rate"]: trial for trial in finished.trials}
    assert states[1e-3].state == "finished"
    assert states[1e30].state == "failed"
    assert "is not finite" in states[1e30].reason
    assert finished.results.best.values["train.learning_rate"] == 1e-3
    runs = training_runs(f"sqlite:///{search_corpus.parent}/mlflow.db", "failing")
    assert {run.name: run.status for run in runs}["learning_rate=1e_30,seed=0"] == "FAILED"


def test_asha_stops_trials_and_tpe_repeats_candidates_by_seed(cluster, search_corpus, tmp_path):
    settings = tiny_search(
        search_corpus,
        algorithm="tpe",
        space={"mix.alpha": {"uniform": [0, 1]}},
        configurations=3,
        seeds=[0, 1],
        stopping="asha",
        measure_every=2,
    )
    finished = search(settings, search_corpus.parent / "tpe")
    names = [trial.candidate.name for trial in finished.trials]
    assert len(names) == 6
    assert all(names.count(name) == 2 for name in names)
    assert {trial.state for trial in finished.trials} == {"finished", "stopped"}
    assert finished.results.steps < 6 * 6
    assert all(trial.step in (2, 4) for trial in finished.trials if trial.state == "stopped")


def test_schedule_found_by_branches_trains_again_to_the_same_weights(cluster, search_corpus):
    space = {"mix.alpha": {"uniform": [0, 1]}, "mix.language_weights": {"simplex": ["de", "en", "fr"]}}
    settings = tiny_search(
        search_corpus, concurrent=2, algorithm="branch", space=space, configurations=2, measure_every=2, branch_every=3
    )
    finished = search(settings, search_corpus.parent / "branch")
    names = [trial.name for trial in finished.trials if trial.state == "stopped"]
    assert sorted(names) == [
        f"steps={n}" for n in ("0-2,branch=0", "0-2,branch=1", "2-3,branch=0", "3-5,branch=0", "3-5,branch=1")
    ]
    [last] = [trial for trial in finished.trials if trial.state == "finished"]
    assert finished.results.steps == 2 * 2 + 1 + 2 * 2 + 1
    assert (search_corpus.parent / "branch" / "schedule.png").exists()
    best = load_config(search_corpus.parent / "branch" / "best.yaml")
    assert len(best.mix.phases) == len(last.mixtures) - 1
    update = {"algorithm": "grid", "run": best, "space": {"train.weight_decay": SearchDimension(values=(1e-2,))}}
    again = search(settings.model_copy(update={**update, "branch_every": None}), search_corpus.parent / "again")
    one = final_weights(search_corpus.parent / "branch" / "trials" / last.name)
    other = final_weights(search_corpus.parent / "again" / "trials" / again.trials[0].name)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_simplex_of_other_languages_is_refused_before_the_trials(cluster, search_corpus):
    space = {"mix.language_weights": {"simplex": ["de", "en"]}}
    settings = tiny_search(search_corpus, algorithm="branch", space=space, configurations=2, measure_every=2)
    with pytest.raises(ConfigError, match="language_weights is of de, en; write a weight for each of de, en, fr"):
        search(settings, search_corpus.parent / "other-languages")
    assert not (search_corpus.parent / "other-languages" / "trials").exists()


def test_workers_of_a_trial_may_use_every_cpu_but_not_more(cluster, search_corpus):
    run = tiny_search(search_corpus).run.model_dump(mode="json")
    run["train"] |= {"workers": 2, "threads_per_worker": NUM_CPUS // 2}
    settings = tiny_search(search_corpus, run=run, measure_every=3, space={"mix.alpha": [0.5]}, concurrent=None)
    finished = search(settings, search_corpus.parent / "workers")
    assert [[step for step, _ in trial.evaluations] for trial in finished.trials] == [[3, 6]]
    run["train"] |= {"workers": 1, "threads_per_worker": 64}
    with pytest.raises(ClusterError, match=r"1 workers with 64 CPU each do not fit"):
        search(tiny_search(search_corpus, run=run), search_corpus.parent / "impossible")
