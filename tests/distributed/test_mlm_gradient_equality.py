"""Loss and gradient of every pretraining objective on 2 and 3 ranks equal those of one process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.distributed.launch import run_ranks
from tests.helpers.slow import SLOW_TESTS

NUM_RANKS = (1, 2, 3) if SLOW_TESTS else (1, 3)
OBJECTIVES = ("mlm", "tlm", "contrastive")


def _rank_main(rank: int, num_ranks: int, port: int, folder: str) -> None:
    """Run every objective on one rank; rank 0 saves the results."""
    import torch.distributed as dist

    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.pretraining import collate
    from hbt_ray.pretraining.task import make_pretraining_task
    from hbt_ray.training.run_dir import run_dir_of
    from tests.helpers import tiny_corpus

    torch.set_num_threads(1)
    collate.COUNTED_TOKENS = 1000  # enough for these short texts
    tasks = []
    # Made before the process group, as by a driver: in a group only one rank would save the initial encoder.
    for objective in OBJECTIVES:
        config = tiny_corpus.pretrain_config(objective=objective)
        folder_of_rank = run_dir_of(config, Path(folder) / f"{num_ranks}-{rank}-{objective}")
        tasks.append(make_pretraining_task(config, Path(folder) / objective, folder_of_rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    found = []
    for objective, task in zip(OBJECTIVES, tasks, strict=True):
        trainer = task.build_trainer("cpu")
        trainer.model.train()
        [batch] = task.batches(TokenStore.open(Path(folder) / objective), range(5, 6), rank, num_ranks)
        total = trainer.backward(batch).clone()
        dist.all_reduce(total)
        gradient = torch.cat([p.grad.flatten() for p in trainer.checkpointed_module.parameters() if p.grad is not None])
        found.append((float(total) / num_ranks, gradient))
    if rank == 0:
        torch.save(found, f"{folder}/{num_ranks}.pt")
    dist.barrier()
    os._exit(0)  # destroying the gloo group while DDP's threads run may hang


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return, by number of ranks, (loss, gradient) of every objective."""
    from tests.helpers import tiny_corpus

    folder = tmp_path_factory.mktemp("ranks")
    for objective in OBJECTIVES:
        tiny_corpus.make_text_store(folder / objective, tiny_corpus.pretrain_config(objective=objective))
    run_ranks(_rank_main, NUM_RANKS, folder)
    return {n: torch.load(folder / f"{n}.pt", weights_only=True) for n in NUM_RANKS}


@pytest.mark.parametrize("num_ranks", NUM_RANKS[1:])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_ranks_have_the_loss_and_gradient_of_one_process(found, num_ranks, objective):
    case = OBJECTIVES.index(objective)
    one_loss, one_gradient = found[1][case]
    loss, gradient = found[num_ranks][case]
    assert abs(loss - one_loss) < 1e-6 * abs(one_loss)
    # Only the order of float32 sums differs.
    assert 0 < (gradient - one_gradient).norm() < 1e-5 * one_gradient.norm()
