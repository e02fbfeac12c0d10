"""With `train.reproducible` weights and moments have the same bits on any number of ranks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.distributed.launch import run_ranks
from tests.helpers.slow import SLOW_TESTS

NUM_RANKS = (1, 2, 3, 4, 6) if SLOW_TESTS else (1, 3, 4)
STEPS = 40 if SLOW_TESTS else 3
PAIRS, CHUNK = 12, 2  # 6 chunks: four ranks do not divide them
CASES = {
    "hybrid": {"loss": {"consistency": 0.5, "symmetric": True}},
    "negatives": {"mix": {"strategy": "x-y", "hard_negatives": 2}, "train": {"gradient_accumulation": 2}},
    "caching": {"mix": {"strategy": "one-to-k"}, "train": {"gradient_caching": True}},
    "teacher": {"loss": {"distillation": {"weight": 1.0}}, "train": {"embedding_gradient": "batch"}},
}


def digest_of(rank: int, num_ranks: int, folder: Path, case: str) -> str:
    """Train on one rank; return a digest of the losses, weights and moments."""
    import hashlib

    from hbt_ray.config import LossConfig, TrainConfig, build
    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.sampling.collate import build_batch_with_global_ids
    from hbt_ray.training.contrastive_trainer import ContrastiveTrainer
    from tests.helpers import tiny_corpus

    settings = CASES[case]
    store = TokenStore.open(folder / "store")
    loss_settings = dict(settings.get("loss", {}))
    if "distillation" in loss_settings:
        loss_settings["distillation"] = {**loss_settings["distillation"], "teacher": str(folder / "teacher")}
    loss = build(LossConfig, loss_settings)
    train = build(
        TrainConfig,
        {
            "global_batch_pairs": PAIRS,
            "chunk_pairs": CHUNK,
            "precision": "fp32",
            "learning_rate": 1e-3,
            "reproducible": True,
            **settings.get("train", {}),
        },
    )
    encoder = tiny_corpus.make_encoder(folder / "encoder", dropout=0.1)
    teacher = tiny_corpus.make_encoder(folder / "teacher", dropout=0.0, seed=2) if loss.distillation else None
    trainer = ContrastiveTrainer(encoder, train, seed=1, loss=loss, teacher=teacher)
    sampler = tiny_corpus.make_sampler(
        store, PAIRS, second_questions=loss.requires_translations, **settings.get("mix", {})
    )
    digest = hashlib.sha256()
    per_step = train.gradient_accumulation
    for step in range(STEPS):
        specs = [sampler.batch(number) for number in range(step * per_step, (step + 1) * per_step)]
        batches = [build_batch_with_global_ids(spec, store, rank, num_ranks, CHUNK) for spec in specs]
        result = trainer.step(step, batches)
        digest.update(repr((result.loss, result.gradient_norm, result.skipped)).encode())
    digest.update(repr(trainer.validation_loss(batches)).encode())
    for tensor in (*encoder.state_dict().values(), *trainer.optimizer_state().values()):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _rank_main(rank: int, num_ranks: int, port: int, folder: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    found = [digest_of(rank, num_ranks, Path(folder), case) for case in CASES]
    Path(f"{folder}/{num_ranks}-{rank}.txt").write_text("\n".join(found))
    dist.barrier()
    os._exit(0)


@pytest.fixture(scope="module")
def digests(tmp_path_factory) -> dict[tuple[int, int], list[str]]:
    """Return, by number of ranks and rank, the digest of every case."""
    from tests.helpers import tiny_corpus

    folder = tmp_path_factory.mktemp("ranks")
    tiny_corpus.make_store(folder / "store", negatives=2, english_only=60, components=3)
    tiny_corpus.make_encoder(folder / "encoder")
    tiny_corpus.make_encoder(folder / "teacher", seed=2)
    run_ranks(_rank_main, NUM_RANKS, folder)
    return {(n, rank): (folder / f"{n}-{rank}.txt").read_text().split() for n in NUM_RANKS for rank in range(n)}


@pytest.mark.parametrize("case", range(len(CASES)), ids=list(CASES))
def test_weights_moments_and_losses_are_the_same_bits(digests, case):
    found = {of_rank[case] for of_rank in digests.values()}
    assert len(found) == 1
