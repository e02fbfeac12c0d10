"""A pretraining on the cluster, a second call of it, and a training from its model."""

import json

import pytest
from mlflow import MlflowClient

from hbt_ray.cluster.pipelines.pretrain import pretrain
from hbt_ray.cluster.pipelines.train import run
from hbt_ray.cluster.prepare import prepare
from hbt_ray.errors import ConfigError
from hbt_ray.evaluation.encoder_metrics import benchmark_metrics
from hbt_ray.pretraining.local_runner import pretrain_locally
from hbt_ray.tracking import training_runs
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.local_runner import train_locally
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.training.task import ContrastiveTask
from tests.helpers.tiny_runs import LANGUAGES, tiny_config
from tests.integration.conftest import tiny_pretraining


@pytest.fixture
def finished_pretraining(cluster, work):
    """Return the folder of a pretraining with two workers, as `runs/pretrained`, and its held-out values."""
    return work.result("finished_pretraining")


def test_pretraining_tracks_a_run_and_writes_a_trainable_model(finished_pretraining, tmp_path):
    folder, held_out = finished_pretraining
    corpus, runs = folder / "numbers", folder / "runs"
    out = runs / "pretrained"
    assert held_out == json.loads((out / "perplexity.json").read_text())
    assert held_out.keys() == set(LANGUAGES)
    assert all(values["after"] < values["before"] for values in held_out.values())
    [tracked] = training_runs(f"sqlite:///{runs}/mlflow.db", "hbt")
    assert (tracked.status, tracked.tags["objective"]) == ("FINISHED", "mlm")
    assert {"train/loss", "train/tokens_per_s", "train/learning_rate", "perplexity/de"} <= tracked.metrics.keys()
    assert tracked.params["pretrain.block_tokens"] == "32"
    client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
    history = client.get_metric_history(tracked.run_id, "perplexity/de")
    assert [metric.step for metric in sorted(history, key=lambda metric: metric.step)] == [0, 10, 20]

    # Called again, it has ended. One process without Ray gives the same, except for the order of sums.
    assert pretrain(tiny_pretraining(corpus, workers=2, evaluate_every=10), out).held_out == held_out
    [store] = [path.parent for path in (runs / "stores").glob("*/manifest.json")]
    config = tiny_pretraining(corpus)
    local = pretrain_locally(config, store, run_dir_of(config, tmp_path / "local"))
    for language, values in local.items():
        assert values["before"] == pytest.approx(held_out[language]["before"], rel=1e-5)
        assert values["after"] == pytest.approx(held_out[language]["after"], rel=1e-2)

    with pytest.raises(ConfigError, match="holds a pretraining; write another --out"):
        run(tiny_config(corpus), out)
    config = tiny_config(corpus, model={"path": str(out / "model")}, train={"steps": 2, "checkpoint_every": 2})
    store = prepare(config.prepare_inputs, runs / "stores")
    trained = run_dir_of(config, runs / "trained")
    train_locally(ContrastiveTask(config, str(out / "model"), benchmark_metrics), store, trained)
    assert CheckpointManager(trained.checkpoints).steps() == [2]
