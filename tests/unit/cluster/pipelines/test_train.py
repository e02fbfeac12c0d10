"""A run in this process."""

from __future__ import annotations

import pytest
import torch

from hbt_ray.cluster.pipelines import train
from hbt_ray.errors import ConfigError
from tests.helpers.tiny_runs import tiny_config


def test_run_in_this_process_has_the_configured_threads(tmp_path, monkeypatch):
    before, used = torch.get_num_threads(), []
    for name in ("check_reachable", "prepare_here", "read_manifest", "describe_store", "print_line"):
        monkeypatch.setattr(train, name, lambda *_: None)
    monkeypatch.setattr(
        train, "run_prepared", lambda *_, threads, **others: used.append((threads, torch.get_num_threads()))
    )
    for number, threads in enumerate((before + 1, None)):
        config = tiny_config(tmp_path, train={"threads_per_worker": threads}, evaluate={"benchmarks": {}})
        train.run(config, tmp_path / str(number), in_process=True)
    assert used == [(before + 1, before + 1), (before, before)]


def test_run_in_this_process_refuses_a_gpu_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("hbt_ray.models.encoder.default_device", lambda: "cpu")
    with pytest.raises(ConfigError, match=r"train.gpu=true, and torch finds no GPU .*; write train.gpu=false"):
        train.run(tiny_config(tmp_path, train={"gpu": True}), tmp_path / "run", in_process=True)
