"""Loss and gradient of a batch on 2, 3 and 4 ranks equal those of one process.

Three ranks do not divide the batch: the first rank has twice the pairs of the others.
"""

from __future__ import annotations

import os
from dataclasses import astuple
from pathlib import Path

import pytest
import torch

from tests.distributed.launch import run_ranks
from tests.helpers.slow import SLOW_TESTS

NUM_RANKS = (1, 2, 3, 4) if SLOW_TESTS else (1, 3, 4)
STEP = 5
CASES = [  # hard negatives per pair, dropout, strategy, gradient caching, weight of consistency
    (0, 0.0, "x-x-mono", False, 0.0),
    (0, 0.1, "x-y", False, 0.0),
    (2, 0.0, "x-y", False, 0.0),
    (2, 0.1, "x-x", False, 0.0),
    (2, 0.1, "x-x", True, 0.0),
    (2, 0.1, "one-to-k", False, 0.0),
    (2, 0.1, "one-to-k", True, 0.0),
    (0, 0.1, "hybrid", False, 0.5),
    (2, 0.1, "x-x", False, 0.5),
    (2, 0.1, "x-x", True, 0.5),
    (0, 0.1, "one-to-k", False, 0.5),
    (0, 0.1, "one-to-k", True, 0.5),
]


def _rank_main(rank: int, num_ranks: int, port: int, folder: str) -> None:
    """Run every case on one rank; rank 0 saves the results."""
    import torch.distributed as dist

    from hbt_ray.config import LossConfig, TrainConfig
    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.sampling.collate import build_batch
    from hbt_ray.training.base_trainer import StepSignals
    from hbt_ray.training.contrastive_trainer import ContrastiveTrainer
    from tests.helpers import tiny_corpus

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    store = TokenStore.open(Path(folder) / "store")
    found = []
    for negatives, dropout, strategy, caching, consistency in CASES:
        plan = tiny_corpus.make_sampler(
            store, second_questions=consistency > 0, strategy=strategy, hard_negatives=negatives
        )
        encoder = tiny_corpus.make_encoder(Path(folder) / "encoder", dropout)
        train = TrainConfig(global_batch_pairs=8, chunk_pairs=2, precision="fp32", gradient_caching=caching)
        trainer = ContrastiveTrainer(encoder, train, seed=1, loss=LossConfig(consistency=consistency))
        trainer.model.train()
        batch = build_batch(plan.batch(STEP), store, rank, num_ranks, train.chunk_pairs)
        total = trainer.backward(batch).clone()
        dist.all_reduce(total)
        gradient = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
        found.append((float(total) / num_ranks, gradient))
    if rank == 0:
        torch.save(found, f"{folder}/{num_ranks}.pt")

    # One rank's gradient is not finite, and one rank raises a signal: all ranks learn of both.
    if rank == num_ranks - 1:
        next(p for p in encoder.parameters() if p.requires_grad).register_hook(lambda gradient: gradient * torch.nan)
    before = [p.detach().clone() for p in encoder.parameters()]
    result = trainer.step(5, [batch], StepSignals(request_checkpoint=rank == num_ranks - 1))
    stayed = all(torch.equal(p, was) for p, was in zip(encoder.parameters(), before, strict=True))
    Path(f"{folder}/{num_ranks}-{rank}.txt").write_text(f"{result.skipped} {stayed} {astuple(result.any_rank_signals)}")
    dist.barrier()
    os._exit(0)  # destroying the process group while DDP's threads run may hang


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def result_of_ranks(folder, found) -> dict[int, list[str]]:
    """Return, by number of ranks, the result of each rank for a step with a gradient that is not finite."""
    return {n: [(folder / f"{n}-{rank}.txt").read_text() for rank in range(n)] for n in NUM_RANKS}


@pytest.fixture(scope="module")
def found(folder):
    """Return, by number of ranks, (loss, gradient) of every case."""
    from tests.helpers import tiny_corpus

    tiny_corpus.make_store(folder / "store", negatives=2, english_only=60)
    tiny_corpus.make_encoder(folder / "encoder")
    run_ranks(_rank_main, NUM_RANKS, folder)
    return {n: torch.load(folder / f"{n}.pt", weights_only=True) for n in NUM_RANKS}


@pytest.mark.parametrize("num_ranks", NUM_RANKS[1:])
@pytest.mark.parametrize(
    "case",
    range(len(CASES)),
    ids=[f"negatives={n} dropout={d} {s} caching={c} consistency={w}" for n, d, s, c, w in CASES],
)
def test_ranks_have_the_loss_and_gradient_of_the_joined_batch(found, num_ranks, case):
    one_loss, one_gradient = found[1][case]
    loss, gradient = found[num_ranks][case]
    assert abs(loss - one_loss) < 1e-6 * abs(one_loss)
    # Only the order of float32 sums differs.
    assert (gradient - one_gradient).norm() < 1e-5 * one_gradient.norm()


@pytest.mark.parametrize("num_ranks", NUM_RANKS[1:])
@pytest.mark.parametrize("case", [case for case in range(len(CASES)) if CASES[case][3]])
def test_gradient_caching_on_ranks_equals_one_process_without(found, num_ranks, case):
    negatives, dropout, strategy, _, consistency = CASES[case]
    expected = found[1][CASES.index((negatives, dropout, strategy, False, consistency))][1]
    assert (found[num_ranks][case][1] - expected).norm() < 1e-5 * expected.norm()


def test_dropout_changes_the_gradient(found):
    assert found[1][0][1].norm() > 0
    assert not torch.equal(found[1][2][1], found[1][3][1])


def test_one_of_four_ranks_has_no_translated_query(folder, found):
    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.sampling.collate import build_batch
    from tests.helpers import tiny_corpus

    store = TokenStore.open(folder / "store")
    spec = tiny_corpus.make_sampler(store, second_questions=True, strategy="x-x", hard_negatives=2).batch(STEP)
    counts = [len(build_batch(spec, store, rank, 4, 2).translation_of) for rank in range(4)]
    assert min(counts) == 0
    assert 0 < sum(counts) < 8
    assert not torch.equal(found[1][3][1], found[1][8][1])


@pytest.mark.parametrize("num_ranks", NUM_RANKS)
def test_all_ranks_skip_a_nonfinite_gradient_and_learn_of_signals(found, result_of_ranks, num_ranks):
    assert result_of_ranks[num_ranks] == ["True True (True, False)"] * num_ranks
