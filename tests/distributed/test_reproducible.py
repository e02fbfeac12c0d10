"""With `train.reproducible` weights and moments have the same bits on any number of ranks."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.launch import run_ranks
from tests.helpers.slow import SLOW_TESTS

NUM_RANKS = (1, 2, 3, 4, 6) if SLOW_TESTS else (1, 3, 4)
STAGES = (1, 3, 2)  # ranks of a run's first, second and last third of the steps
STEPS = 40 if SLOW_TESTS else 3
PAIRS, CHUNK = 12, 2  # 6 chunks: four ranks do not divide them
CASES: dict[str, dict[str, Any]] = {
    "hybrid": {"loss": {"consistency": 0.5, "symmetric": True}},
    "negatives": {"mix": {"strategy": "x-y", "hard_negatives": 2}, "train": {"gradient_accumulation": 2}},
    "caching": {"mix": {"strategy": "one-to-k"}, "train": {"gradient_caching": True}},
    "teacher": {"loss": {"distillation": {"weight": 1.0}}, "train": {"embedding_gradient": "batch"}},
    # A row is no whole number of vector registers.
    "rows of a large table": {"encoder": "width-20", "rows_per_token": 0, "train": {"max_gradient_norm": 0.1}},
}


def train(rank: int, num_ranks: int, folder: Path, case: str, stage: int | None) -> tuple[list[str], str]:
    """Train on one rank; return what every step returns, and a digest of the weights and moments.

    Args:
        rank: of this process.
        num_ranks: in its group.
        folder: has the store and the encoders.
        case: one of CASES.
        stage: train this third of the steps, from the state that the stage before it saved. None: all steps.
    """
    import hashlib
    from unittest.mock import patch

    from safetensors.torch import load_file, save_file

    from hbt_ray.config import LossConfig, TrainConfig, build
    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.sampling.collate import build_batch_with_global_ids
    from hbt_ray.training import row_gradient
    from hbt_ray.training.contrastive_trainer import ContrastiveTrainer
    from tests.helpers import tiny_corpus

    settings = CASES[case]
    store = TokenStore.open(folder / "store")
    loss_settings = dict(settings.get("loss", {}))
    if "distillation" in loss_settings:
        loss_settings["distillation"] = {**loss_settings["distillation"], "teacher": str(folder / "teacher")}
    loss = build(LossConfig, loss_settings)
    train_settings = build(
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
    encoder = tiny_corpus.make_encoder(folder / settings.get("encoder", "encoder"), dropout=0.1)
    teacher = tiny_corpus.make_encoder(folder / "teacher", dropout=0.0, seed=2) if loss.distillation else None
    rows_per_token = settings.get("rows_per_token", row_gradient.MIN_ROWS_PER_TOKEN)
    with patch.object(row_gradient, "MIN_ROWS_PER_TOKEN", rows_per_token):
        trainer = ContrastiveTrainer(encoder, train_settings, seed=1, loss=loss, teacher=teacher)
    sampler = tiny_corpus.make_sampler(
        store, PAIRS, second_questions=loss.requires_translations, **settings.get("mix", {})
    )
    steps = range(STEPS) if stage is None else range(stage * STEPS // 3, (stage + 1) * STEPS // 3)
    if stage:
        encoder.load_state_dict(load_file(folder / f"{case}-{stage - 1}-weights"))
        trainer.load_optimizer_state(load_file(folder / f"{case}-{stage - 1}-moments"))
    results = []
    per_step = train_settings.gradient_accumulation
    for step in steps:
        specs = [sampler.batch(number) for number in range(step * per_step, (step + 1) * per_step)]
        batches = [build_batch_with_global_ids(spec, store, rank, num_ranks, CHUNK) for spec in specs]
        result = trainer.step(step, batches)
        results.append(repr((result.loss, result.gradient_norm, result.skipped)))
    if steps[-1] == STEPS - 1:
        results.append(repr(trainer.validation_loss(batches)))
    state = {"weights": encoder.state_dict(), "moments": trainer.optimizer_state()}
    if stage is not None and rank == 0:
        for name, tensors in state.items():
            save_file(tensors, folder / f"{case}-{stage}-{name}")
    digest = hashlib.sha256()
    for tensors in state.values():
        for name in sorted(tensors):
            digest.update(tensors[name].numpy().tobytes())
    return results, digest.hexdigest()


def _rank_main(rank: int, num_ranks: int, port: int, folder: str, stage: int | None = None) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    found = {case: train(rank, num_ranks, Path(folder), case, stage) for case in CASES}
    Path(f"{folder}/{num_ranks}-{rank}-{stage}.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return the folder with what every rank of every group found."""
    from hbt_ray.config import ModelConfig, SmallEncoderConfig
    from hbt_ray.models.encoder import init_encoder, save_encoder
    from tests.helpers import tiny_corpus

    folder = tmp_path_factory.mktemp("ranks")
    tiny_corpus.make_store(folder / "store", negatives=2, english_only=60, components=3)
    tiny_corpus.make_encoder(folder / "encoder")
    tiny_corpus.make_encoder(folder / "teacher", seed=2)
    model = ModelConfig(small=SmallEncoderConfig(layers=1, width=20, heads=2))
    save_encoder(init_encoder(model, tiny_corpus.TEXT, tiny_corpus.tokenizer(), seed=1), folder / "width-20")
    for sizes in [(size,) for size in NUM_RANKS] if SLOW_TESTS else [NUM_RANKS]:
        run_ranks(_rank_main, sizes, folder)
    for stage, size in enumerate(STAGES):
        run_ranks(partial(_rank_main, stage=stage), [size], folder)
    return folder


def found(folder: Path, case: str, num_ranks: int, rank: int, stage: int | None = None) -> tuple[list[str], str]:
    """Return what `train` returned on a rank."""
    results, digest = json.loads((folder / f"{num_ranks}-{rank}-{stage}.json").read_text())[case]
    return results, digest


@pytest.mark.parametrize("case", CASES)
def test_weights_moments_and_losses_are_the_same_bits(folder, case):
    reference = found(folder, case, 1, 0)
    assert len(reference[0]) == STEPS + 1
    assert all(found(folder, case, size, rank) == reference for size in NUM_RANKS for rank in range(size))


@pytest.mark.parametrize("case", CASES)
def test_run_that_is_resized_has_the_bits_of_one_rank(folder, case):
    results = [found(folder, case, size, 0, stage) for stage, size in enumerate(STAGES)]
    assert [step for steps, _ in results for step in steps] == found(folder, case, 1, 0)[0]
    assert [found(folder, case, STAGES[-1], rank, len(STAGES) - 1)[1] for rank in range(STAGES[-1])] == [
        found(folder, case, 1, 0)[1]
    ] * STAGES[-1]
