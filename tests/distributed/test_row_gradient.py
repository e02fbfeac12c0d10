"""On several ranks, exchanging the rows of a step's tokens trains what exchanging the whole gradient does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.distributed.launch import run_ranks
from tests.helpers.small_vocabulary import config_of, write_inputs

STEPS, RESUMED_FROM = 20, 8
CASES = {  # settings of train, and the step of a restart
    "all": ({"embedding_gradient": "all"}, 0),
    "batch": ({"embedding_gradient": "batch"}, 0),
    "resumed": ({"embedding_gradient": "batch"}, RESUMED_FROM),
    "occurring": ({"embedding_gradient": "batch", "vocabulary": "occurring"}, 0),
    "bf16": ({"embedding_gradient": "batch", "embedding_exchange": "bf16"}, 0),
}
CACHED = {
    f"{name}, caching": {"embedding_gradient": name, "gradient_caching": True, "gradient_accumulation": 2, "steps": 4}
    for name in ("all", "batch")
}


def _rank_main(rank: int, num_ranks: int, port: int, folder: str) -> None:
    """Train in every way; rank 0 saves the weights and the numbers that were sent."""
    import torch.distributed as dist

    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.models.vocabulary import occurring_embedding
    from hbt_ray.training.checkpoint import CheckpointManager
    from hbt_ray.training.contrastive_trainer import build_contrastive_trainer
    from hbt_ray.training.task import ContrastiveTask
    from hbt_ray.training.train_state import TrainState
    from hbt_ray.utils.storage import StoragePath

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    store = TokenStore.open(Path(folder) / "store")
    all_reduce, sent = dist.all_reduce, []
    dist.all_reduce = lambda values, **how: (sent.append(values.nbytes), all_reduce(values, **how))[1]
    found = {}
    for name, (settings, restart) in (CASES | {name: (settings, 0) for name, settings in CACHED.items()}).items():
        train = {
            "vocabulary": "all",
            "workers": num_ranks,
            "chunk_pairs": 2,
            "steps": STEPS,
            "learning_rate": 1e-3,
        } | settings
        config = config_of(Path(folder), train.pop("vocabulary"), train=train)
        batches_per_step, steps = config.train.gradient_accumulation, config.train.steps
        checkpoints = CheckpointManager(StoragePath.of(Path(folder) / f"{name}-{num_ranks}"))
        sent.clear()
        for first, last in ((0, restart), (restart, steps)) if restart else ((0, steps),):
            trainer = build_contrastive_trainer(config, f"{folder}/encoder", "cpu", store)
            if first:
                assert checkpoints.resume(trainer).step == first
            task = ContrastiveTask(config, f"{folder}/encoder", lambda *_: {})
            batches = task.batches(store, range(first * batches_per_step, last * batches_per_step), rank, num_ranks)
            for step in range(first, last):
                trainer.step(step, [next(batches) for _ in range(batches_per_step)])
            dist.barrier()
            if rank == 0 and restart:
                checkpoints.save(trainer, TrainState(last), {})
            dist.barrier()
        words = occurring_embedding(trainer.encoder)
        weights = [p.detach() for p in trainer.encoder.parameters()]
        if words is not None:  # only its rows can be compared
            weights = [p[:0] if p is words.weight else p for p in weights]
        found[name] = torch.cat([p.flatten().clone() for p in weights]), words and words.weight.detach(), max(sent)
    if rank == 0:
        torch.save(found, f"{folder}/{num_ranks}.pt")
    dist.barrier()
    os._exit(0)  # destroying the process group while DDP's threads run may hang


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = write_inputs(tmp_path_factory.mktemp("rows"))
    run_ranks(_rank_main, [2, 4], folder)
    return {ranks: torch.load(folder / f"{ranks}.pt") for ranks in (2, 4)}


def apart(found, first: str, second: str) -> float:
    return float((found[first][0] - found[second][0]).abs().max())


def test_two_ranks_have_the_bytes_of_the_whole_exchange(found):
    assert apart(found[2], "batch", "all") == apart(found[2], "resumed", "all") == 0
    assert apart(found[2], "batch, caching", "all, caching") == 0


@pytest.mark.parametrize(
    ("first", "second"), [("batch", "all"), ("resumed", "all"), ("batch, caching", "all, caching")]
)
def test_four_ranks_differ_by_the_order_of_sums(found, first, second):
    """Gloo's sums over four ranks have no fixed order, so two trainings with the same settings differ as well.

    So the weights are compared as one vector: AdamW makes a visible difference of a single weight out of one in a
    gradient near 0.
    """
    difference = found[4][first][0] - found[4][second][0]
    assert difference.norm() < 1e-6 * found[4][second][0].norm()


@pytest.mark.parametrize("ranks", [2, 4])
def test_an_exchange_in_bf16_is_near(found, ranks):
    assert 0 < apart(found[ranks], "bf16", "all") < 0.02


@pytest.mark.parametrize("ranks", [2, 4])
def test_only_the_rows_of_the_tokens_are_sent(found, ranks):
    rows, rows_bf16 = found[ranks]["batch"][2], found[ranks]["bf16"][2]
    assert rows_bf16 == rows / 2
    assert rows < 100 * 16 * 4
