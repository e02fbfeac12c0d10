from __future__ import annotations

import pytest

from hbt_ray.cluster.training.train_run import train_run
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.training.task import ContrastiveTask
from tests.helpers.tiny_runs import tiny_config


@pytest.mark.parametrize(("gpu", "device"), [(None, "cuda"), (True, "cuda"), (False, "cpu")])
def test_training_in_this_process_uses_a_gpu_unless_it_shall_not(tmp_path, monkeypatch, gpu, device):
    devices = []
    monkeypatch.setattr("hbt_ray.models.encoder.default_device", lambda: "cuda")
    monkeypatch.setattr(
        "hbt_ray.training.local_runner.train_locally", lambda *_, device, **others: devices.append(device)
    )
    monkeypatch.setattr("hbt_ray.cluster.training.train_run.CheckpointManager.final_step", lambda *_: 1)
    config = tiny_config(tmp_path, train={"gpu": gpu})
    train_run(ContrastiveTask(config, "model", lambda *_: {}), tmp_path, run_dir_of(config, tmp_path / "run"))
    assert devices == [device]
