"""A step that is computed again has the digests of the run, from any checkpoint."""

from __future__ import annotations

import pytest

from hbt_ray.config import with_settings
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError
from hbt_ray.training.checkpoint import step_name
from hbt_ray.training.local_runner import train_locally
from hbt_ray.training.replay import replay_step
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.training.task import ContrastiveTask
from tests.helpers.tiny_corpus import make_encoder, make_store
from tests.helpers.tiny_runs import tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_store(folder / "store")
    make_encoder(folder / "encoder")
    train = {"steps": 6, "checkpoint_every": 2, "checkpoints_kept": 9}
    config = tiny_config(folder, model={"path": str(folder / "encoder")}, train=train)
    paths = run_dir_of(config, folder / "run")
    task = ContrastiveTask(config, str(folder / "encoder"), lambda *_: {})
    losses = {}
    train_locally(
        task, folder / "store", paths, on_metrics=lambda step, metrics: losses.update({step - 1: metrics["train/loss"]})
    )
    return config, paths, str(folder / "encoder"), TokenStore.open(folder / "store"), losses


def test_replayed_step_has_the_loss_of_the_run(run):
    *arguments, losses = run
    for step in (0, 3, 5):
        replayed = replay_step(*arguments, step)
        assert replayed.loss == pytest.approx(losses[step], abs=1e-6)
        assert replayed.checkpoint == step - step % 2


def test_digests_do_not_depend_on_the_checkpoint(run, tmp_path):
    config, paths, initial, store, _ = run
    before = replay_step(config, paths, initial, store, 5)
    elsewhere = run_dir_of(config, tmp_path / "copy")
    (elsewhere.path / "checkpoints").mkdir(parents=True)
    import shutil

    shutil.copytree(paths.path / "checkpoints" / step_name(2), elsewhere.path / "checkpoints" / step_name(2))
    after = replay_step(config, elsewhere, initial, store, 5)
    assert (before.checkpoint, after.checkpoint) == (4, 2)
    assert (after.batches, after.weights, after.gradient) == (before.batches, before.weights, before.gradient)


def test_steps_differ_in_every_digest(run):
    *arguments, _ = run
    one, other = replay_step(*arguments, 2), replay_step(*arguments, 3)
    assert one.batches != other.batches
    assert one.weights != other.weights
    assert one.gradient != other.gradient


def test_step_that_the_run_has_not_is_refused(run):
    *arguments, _ = run
    with pytest.raises(ConfigError, match="the run has steps 0 to 5, and --step is 6"):
        replay_step(*arguments, 6)


def test_step_whose_workers_had_negatives_of_their_own_is_refused(run):
    config, *arguments, _ = run
    changed = with_settings(config, {"train.workers": 2, "train.gather_negatives": False})
    with pytest.raises(ConfigError, match="each worker of the run had negatives of its own"):
        replay_step(changed, *arguments, 1)
