"""A whole pretraining on the cluster, gone on with, and an encoder trained from what it leaves."""

import json

import pytest
from mlflow import MlflowClient

from hbt_ray.cluster.pipelines.pretrain import pretrain
from hbt_ray.cluster.pipelines.train import run
from hbt_ray.config import PretrainRunConfig, build
from hbt_ray.errors import ConfigError
from hbt_ray.pretraining.local_runner import pretrain_locally
from hbt_ray.tracking import training_runs
from hbt_ray.training.run_dir import run_dir_of
from tests.integration.conftest import LANGUAGES, tiny_config


def config_of(corpus, **settings) -> PretrainRunConfig:
    own = tiny_config(corpus)
    loop = {"steps": 20, "block_tokens": 32, "global_batch_blocks": 8, "chunk_blocks": 2, "learning_rate": 1e-2}
    plain = {
        "corpora": [one.model_dump() for one in own.corpora],
        "text": own.text.model_dump(),
        "model": own.model.model_dump(),
        "prepare": {"validation_share": 0.2},
        "pretrain": {**loop, "precision": "fp32", "checkpoint_every": 5, "threads_per_worker": 1, **settings},
    }
    return build(PretrainRunConfig, plain)


def test_pretraining_leaves_a_tracked_run_and_a_model_that_training_begins_with(cluster, corpus, tmp_path):
    out = tmp_path / "runs" / "pretrained"
    finished = pretrain(config_of(corpus, workers=2, evaluate_every=10), out)
    assert finished.held_out == json.loads((out / "perplexity.json").read_text())
    assert finished.held_out.keys() == set(LANGUAGES)
    assert all(values["after"] < values["before"] for values in finished.held_out.values())
    [tracked] = training_runs(f"sqlite:///{tmp_path}/runs/mlflow.db", "hbt")
    assert (tracked.status, tracked.tags["objective"]) == ("FINISHED", "mlm")
    assert {"train/loss", "train/tokens_per_s", "train/learning_rate", "perplexity/de"} <= tracked.metrics.keys()
    assert tracked.params["pretrain.block_tokens"] == "32"
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    history = client.get_metric_history(tracked.run_id, "perplexity/de")
    assert [metric.step for metric in sorted(history, key=lambda metric: metric.step)] == [0, 10, 20]

    # Called again, it has ended; the same in one process without Ray comes to the same, but for the order of sums.
    assert pretrain(config_of(corpus, workers=2, evaluate_every=10), out).held_out == finished.held_out
    [store] = [place for place in (tmp_path / "runs" / "stores").iterdir() if (place / "manifest.json").exists()]
    config = config_of(corpus)
    alone = pretrain_locally(config, store, run_dir_of(config, tmp_path / "alone"))
    for language, values in alone.items():
        assert values["before"] == pytest.approx(finished.held_out[language]["before"], rel=1e-5)
        assert values["after"] == pytest.approx(finished.held_out[language]["after"], rel=1e-2)

    with pytest.raises(ConfigError, match="holds a pretraining; write another --out"):
        run(tiny_config(corpus), out)
    trained = run(tiny_config(corpus, model={"path": str(out / "model")}), tmp_path / "runs" / "trained")
    assert (trained.folder.model / "model.safetensors").exists()
