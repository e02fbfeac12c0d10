"""What a training will cost follows from its tokens, its encoder and the machine."""

from __future__ import annotations

import functools
import gc
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from hbt_ray.bench.run_cost import (
    GIB,
    GPUS,
    RunCost,
    _train_rank,
    describe_cost,
    estimate_cost,
    parse_machine,
)
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import UserError
from hbt_ray.sampling.token_counts import encoded_tokens
from tests.distributed.launch import run_ranks
from tests.helpers.tiny_corpus import make_encoder, make_store
from tests.helpers.tiny_runs import tiny_config

COST = RunCost("8xh100", 7200, 5000.0, 1_000_000, 900_000, 0.5, "assumed", 0.0, 2e9, 80e9, 1e9, 8, 2.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cost")
    make_store(folder / "store")
    make_encoder(folder / "encoder")
    return folder


def estimate(folder, on, teacher=None, **train):
    loss = {"distillation": {"teacher": teacher}} if teacher else {}
    config = tiny_config(folder, train={"steps": 12, "global_batch_pairs": 32, "chunk_pairs": 4, **train}, loss=loss)
    return estimate_cost(config, TokenStore.open(folder / "store"), str(folder / "encoder"), on, 2.0, probe_s=0.2)


def test_machine_is_here_or_a_number_of_known_gpus():
    assert parse_machine("8xh100") == (8, "h100")
    assert parse_machine("1xL4") == (1, "l4")
    assert parse_machine("here") == (0, "here")
    for text in ("h100", "0xh100", "8xtpu", "8x", "", "-1xh100"):
        with pytest.raises(UserError, match="write here, or a number and a GPU such as 8xh100"):
            parse_machine(text)


def test_hours_and_money_are_those_of_all_gpus():
    assert COST.hours == 1.0  # 7,200 steps of half a second
    assert COST.money == 20.0  # 8 GPUs at 2.5
    assert replace(COST, price=None).money is None
    assert replace(COST, validation_s=3600.0).hours == 2.0


def test_lines_say_what_is_too_much():
    assert "time       1.0 hours of training, without preparing, starting and evaluating" in describe_cost(COST)
    assert "money      20.00 for 8 at 2.5 an hour" in describe_cost(COST)
    [line] = [line for line in describe_cost(replace(COST, memory_bytes=90e9)) if line.startswith("memory")]
    assert line.startswith(f"memory     {90e9 / GIB:.1f} of {80e9 / GIB:.0f} GiB of a GPU: too much; write")


def test_tokens_are_those_of_the_batches(folder):
    cost = estimate(folder, "1xa100", gradient_accumulation=2)
    config = tiny_config(
        folder, train={"steps": 12, "global_batch_pairs": 32, "chunk_pairs": 4, "gradient_accumulation": 2}
    )
    exact = encoded_tokens(config, TokenStore.open(folder / "store"))
    assert cost.tokens_per_step * 12 == pytest.approx(exact)


def test_elsewhere_the_data_sheet_decides(folder):
    slow, fast = (estimate(folder, f"1x{kind}") for kind in ("l4", "h100"))
    assert slow.step_s > fast.step_s
    assert "assumed: 40% of 121 TFLOP/s" in slow.source
    assert fast.memory_limit_bytes == GPUS["h100"].memory_bytes
    assert "400 Gbit/s between nodes of 8" not in fast.source
    assert "400 Gbit/s between nodes of 8" in estimate(folder, "16xh100", chunk_pairs=2).source


def test_gradient_caching_costs_time_and_saves_memory(folder):
    plain, caching = (estimate(folder, "1xl4", gradient_caching=one) for one in (False, True))
    assert caching.step_s > plain.step_s
    assert caching.memory_bytes < plain.memory_bytes


def test_teacher_costs_a_forward_pass_and_its_weights(folder):
    alone = estimate(folder, "1xl4")
    taught = estimate(folder, "1xl4", teacher=str(folder / "encoder"))
    assert taught.memory_bytes == alone.memory_bytes + 4 * alone.parameters
    # A forward pass is a third of a step's computation, which is all of this step but the optimizer.
    optimizer_s = 28 * alone.parameters / GPUS["l4"].memory_bytes_s
    assert taught.step_s - alone.step_s == pytest.approx((alone.step_s - optimizer_s) / 3)


def test_here_some_steps_are_measured(folder):
    cost = estimate(folder, "here", validation_every=4, validation_batches=6)
    assert cost.step_s > 0
    assert "measured over" in cost.source
    assert cost.memory_bytes is None
    assert cost.validation_s == pytest.approx(3 * 6 * cost.step_s / 3)


def test_here_all_workers_are_run(folder):
    cost = estimate(folder, "here", workers=2, threads_per_worker=1)
    assert "with 1 thread in each of 2 workers" in cost.source
    assert cost.step_s > 0


def train_as_rank(gradient, rank, num_ranks, _, folder):
    """Measure as a rank; exit with 3 if the trainer is still there when the process group is left."""
    leave = torch.distributed.destroy_process_group

    def check_and_leave():
        trained = [one for one in gc.get_objects() if isinstance(one, DistributedDataParallel)]
        leave() if not trained else os._exit(3)

    torch.distributed.destroy_process_group = check_and_leave
    folder = Path(folder)
    train = {
        "steps": 4,
        "global_batch_pairs": 32,
        "chunk_pairs": 4,
        "workers": num_ranks,
        "embedding_gradient": gradient,
    }
    config = tiny_config(folder, train=train)
    (folder / gradient).mkdir(exist_ok=True)
    given = (config, folder / "store", str(folder / "encoder"), 1, 0.1, str(folder / gradient))
    _train_rank(rank, *given)


@pytest.mark.parametrize("gradient", ["all", "batch"])
def test_measured_ranks_free_the_trainer_before_they_leave_the_group(folder, gradient):
    run_ranks(functools.partial(train_as_rank, gradient), [2], folder)
    tokens, seconds, counted = json.loads((folder / gradient / "measured.json").read_text())
    assert min(tokens, seconds, counted) > 0


def test_checkpoint_has_weights_and_two_moments(folder):
    cost = estimate(folder, "1xl4")
    assert cost.checkpoint_bytes == 4 * cost.parameters + 8 * cost.trained_parameters
    assert np.isfinite(cost.checkpoint_bytes)
