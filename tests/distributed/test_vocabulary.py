"""On two ranks, too, training the word embeddings of tokens that occur gives the bytes of training all of them."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from tests.distributed.launch import run_ranks
from tests.helpers.small_vocabulary import config_of, exported, write_inputs

STEPS, RESUMED_FROM = 50, 20
NAMES = ("all", "occurring", "resumed")


def _rank_main(rank: int, num_ranks: int, port: int, folder: str) -> None:
    """Train with all rows, with those that occur, and with those that occur after a restart in the middle."""
    import torch.distributed as dist

    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.training.checkpoint import CheckpointManager
    from hbt_ray.training.contrastive_trainer import build_contrastive_trainer
    from hbt_ray.training.task import ContrastiveTask
    from hbt_ray.training.train_state import TrainState
    from hbt_ray.utils.storage import StoragePath

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    store = TokenStore.open(Path(folder) / "store")
    for name, vocabulary, restart in (("all", "all", 0), ("occurring", "auto", 0), ("resumed", "auto", RESUMED_FROM)):
        config = config_of(Path(folder), vocabulary, train={"workers": num_ranks})
        checkpoints = CheckpointManager(StoragePath.of(Path(folder) / name))
        for first, last in ((0, restart), (restart, STEPS)) if restart else ((0, STEPS),):
            trainer = build_contrastive_trainer(config, f"{folder}/encoder", "cpu", store)
            assert checkpoints.resume(trainer).step == first
            task = ContrastiveTask(config, f"{folder}/encoder", lambda *_: {})
            for batch in task.batches(store, range(first, last), rank, num_ranks):
                trainer.step(batch.step, [batch])
            dist.barrier()  # every rank has read the checkpoint before
            if rank == 0:
                checkpoints.save(trainer, TrainState(last), {})
            dist.barrier()
    os._exit(0)  # destroying the process group while DDP's threads run may hang


def test_two_ranks_export_the_bytes_of_training_all_rows(tmp_path):
    write_inputs(tmp_path)
    run_ranks(_rank_main, [2], tmp_path)
    config = config_of(tmp_path, "auto")
    files = {name: exported(config, tmp_path, tmp_path / name, STEPS, tmp_path / f"model-{name}") for name in NAMES}
    assert files["occurring"] == files["resumed"] == files["all"]
    sizes = {name: (tmp_path / name / f"step-{STEPS:09}" / "weights.safetensors").stat().st_size for name in NAMES}
    assert sizes["occurring"] == sizes["resumed"] < sizes["all"]
