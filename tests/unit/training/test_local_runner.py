"""Training in this process."""

from __future__ import annotations

import pytest

from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.local_runner import train_locally
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.training.task import ContrastiveTask
from tests.helpers.tiny_corpus import make_encoder, make_store
from tests.helpers.tiny_runs import tiny_config


@pytest.mark.parametrize(("minutes", "saved"), [(1e-9, [1, 2, 3, 4, 5, 6]), (600, [6]), (None, [6])])
def test_checkpoint_is_saved_when_the_last_one_is_as_old_as_configured(tmp_path, minutes, saved):
    make_store(tmp_path / "store")
    make_encoder(tmp_path / "encoder")
    train = {"steps": 6, "checkpoint_every": 100, "checkpoints_kept": 9, "checkpoint_minutes": minutes}
    config = tiny_config(tmp_path, model={"path": str(tmp_path / "encoder")}, train=train)
    folder = run_dir_of(config, tmp_path / "run")
    train_locally(ContrastiveTask(config, str(tmp_path / "encoder"), lambda *_: {}), tmp_path / "store", folder)
    assert CheckpointManager(folder.checkpoints).steps() == saved
