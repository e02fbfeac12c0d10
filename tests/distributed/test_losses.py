"""Loss and gradient of every loss term and of LoRA on 2, 3 and 4 ranks equal those of one process.

Three ranks do not divide the batch: the first rank has twice the pairs of the others.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.launch import run_ranks
from tests.helpers.slow import SLOW_TESTS

NUM_RANKS = (1, 2, 3, 4) if SLOW_TESTS else (1, 3)
TEACHER = {"weight": 0.7, "temperature": 0.1}
CASES: dict[str, dict[str, Any]] = {  # settings of the loss, of LoRA and of training
    "symmetric": {"loss": {"symmetric": True}, "negatives": 2},
    "matryoshka": {"loss": {"matryoshka": [4, 8]}},
    "distillation": {"loss": {"distillation": TEACHER}, "negatives": 2},
    "lora": {"lora": {"rank": 2, "dropout": 0.2}},
    "all": {
        "loss": {"symmetric": True, "matryoshka": [4, 8], "distillation": TEACHER},
        "lora": {"rank": 2, "dropout": 0.2, "targets": ["query", "dense"]},
        "negatives": 2,
    },
}
CASES["all, gradient caching"] = {**CASES["all"], "train": {"gradient_caching": True}}
CASES["all, kept activations"] = {**CASES["all"], "train": {"gradient_caching": True, "kept_activations_mib": 1000}}
CASES["all, bf16"] = {**CASES["all"], "train": {"precision": "bf16"}}
CASES["all, consistency, one-to-k, gradient caching"] = {
    **CASES["all, gradient caching"],
    "loss": {**CASES["all"]["loss"], "consistency": 0.5},
    "strategy": "one-to-k",
}


def _rank_main(rank: int, num_ranks: int, port: int, folder: str) -> None:
    """Run every case on one rank; rank 0 saves the results."""
    import torch.distributed as dist

    from hbt_ray.config import build_config
    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.models.lora import adapter_weights
    from hbt_ray.sampling.collate import build_batch
    from hbt_ray.training.contrastive_trainer import build_contrastive_trainer
    from tests.helpers import tiny_corpus

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    store = TokenStore.open(Path(folder) / "store")
    found = {}
    for name, case in CASES.items():
        loss = dict(case.get("loss", {}))
        if "distillation" in loss:
            loss["distillation"] = {**TEACHER, "teacher": f"{folder}/teacher"}
        config = build_config(
            {
                "text": tiny_corpus.TEXT.model_dump(),
                "model": {"dropout": 0.1, "lora": case.get("lora")},
                "train": {"global_batch_pairs": 8, "chunk_pairs": 2, "precision": "fp32", **case.get("train", {})},
                "loss": loss,
            }
        )
        trainer = build_contrastive_trainer(config, f"{folder}/encoder", "cpu")
        generator = torch.Generator().manual_seed(3)
        for weight in adapter_weights(trainer.encoder).values():  # B is 0 at first, and A has no gradient then
            weight.copy_(torch.randn(weight.shape, generator=generator) / 4)
        trainer.model.train()
        mix = {"strategy": case.get("strategy", "x-x"), "hard_negatives": case.get("negatives", 0)}
        plan = tiny_corpus.make_sampler(store, second_questions="consistency" in loss, **mix)
        batches = [build_batch(plan.batch(step), store, rank, num_ranks, 2) for step in (5, 6)]
        # Two batches of one step: only the second's gradient makes the ranks agree.
        total = sum(trainer.backward(batch, 0.5, last) for batch, last in zip(batches, (False, True), strict=True))
        dist.all_reduce(total)
        gradient = torch.cat([p.grad.flatten() for p in trainer.encoder.parameters() if p.grad is not None])
        found[name] = (float(total) / num_ranks, gradient)
    if rank == 0:
        torch.save(found, f"{folder}/{num_ranks}.pt")
    dist.barrier()
    os._exit(0)  # destroying the process group while DDP's threads run may hang


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return, by number of ranks, (loss, gradient) of every case."""
    from tests.helpers import tiny_corpus

    folder = tmp_path_factory.mktemp("ranks")
    tiny_corpus.make_store(folder / "store", negatives=2, components=6)
    tiny_corpus.make_encoder(folder / "encoder")
    tiny_corpus.make_encoder(folder / "teacher", seed=9)
    run_ranks(_rank_main, NUM_RANKS, folder)
    return {n: torch.load(folder / f"{n}.pt", weights_only=True) for n in NUM_RANKS}


@pytest.mark.parametrize("num_ranks", NUM_RANKS[1:])
@pytest.mark.parametrize("case", CASES)
def test_ranks_have_the_loss_and_gradient_of_the_joined_batch(found, num_ranks, case):
    one_loss, one_gradient = found[1][case]
    loss, gradient = found[num_ranks][case]
    # Only the order of float32 sums differs; a gradient through bfloat16 is rounded where it is added up.
    assert abs(loss - one_loss) < 1e-6 * abs(one_loss)
    assert (gradient - one_gradient).norm() < (1e-5 if "bf16" not in case else 1e-2) * one_gradient.norm()


def test_each_case_has_a_different_gradient(found):
    one = {case: gradient for case, (_, gradient) in found[1].items()}
    assert all(gradient.norm() > 0 for gradient in one.values())
    whole = [one[case] for case in CASES if "lora" not in case and "all" not in case]
    assert len({float(gradient.norm()) for gradient in whole}) == len(whole)
    assert len(one["lora"]) < len(whole[0])
    assert (one["all"] - one["all, gradient caching"]).norm() < 1e-5 * one["all"].norm()


@pytest.mark.parametrize("num_ranks", NUM_RANKS)
def test_kept_activations_change_no_bit_of_the_gradient(found, num_ranks):
    loss, gradient = found[num_ranks]["all, gradient caching"]
    kept_loss, kept_gradient = found[num_ranks]["all, kept activations"]
    assert kept_loss == loss
    assert torch.equal(kept_gradient, gradient)
