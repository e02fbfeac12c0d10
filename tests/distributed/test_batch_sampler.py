"""Hybrid batches inside sentence-transformers' trainer on 1 and 2 ranks: the plan's, also after a resume."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from tests.distributed.launch import run_ranks
from tests.helpers import tiny_corpus
from tests.helpers.slow import SLOW_TESTS

RANK_PAIRS, STEPS, SAVED = 4, 28, 24  # 168 rows: with two ranks an epoch has 21 batches, so step 24 is in the second
LAYOUTS: dict[str, tuple[int, dict[str, bool]]] = {"two ranks": (2, {})}  # name -> ranks, settings of the data loader
if SLOW_TESTS:
    LAYOUTS |= {"one rank": (1, {}), "two ranks, split batches": (2, {"split_batches": True})}


def _train(folder: Path, name: str, resume: bool) -> list[list[tuple[str, str]]]:
    """Train from the start or from the saved step; return the (question, passage) pairs of each batch of this rank."""
    from sentence_transformers import SentenceTransformer, SentenceTransformerModelCardData, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as TrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from hbt_ray import HybridBatchSampler, HybridDataset

    num_ranks, loader = LAYOUTS[name]
    split = loader.get("split_batches", False)
    card = SentenceTransformerModelCardData(generate_widget_examples=False)
    model = SentenceTransformer(str(folder / "encoder"), device="cpu", model_card_data=card)
    arguments = TrainingArguments(
        output_dir=str(folder / name),
        per_device_train_batch_size=RANK_PAIRS * num_ranks if split else RANK_PAIRS,
        accelerator_config=loader,
        batch_sampler=partial(HybridBatchSampler, alpha=0.5, num_ranks=1 if split else None),
        seed=3,
        max_steps=STEPS,
        save_steps=SAVED,
        use_cpu=True,
        ddp_backend="gloo" if num_ranks > 1 else None,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(
        model,
        arguments,
        train_dataset=HybridDataset(tiny_corpus.trainer_rows(), name="numbers"),
        loss=MultipleNegativesRankingLoss(model),
    )
    seen: list[list[tuple[str, str]]] = []
    collate = trainer.data_collator

    def record(rows: list[dict[str, str]]) -> dict[str, object]:
        seen.append([(row["anchor"], row["positive"]) for row in rows])
        return collate(rows)

    record.valid_label_columns = collate.valid_label_columns  # type: ignore[attr-defined]
    trainer.data_collator = record
    trainer.train(resume_from_checkpoint=str(folder / name / f"checkpoint-{SAVED}") if resume else None)
    return seen


def _rank_main(rank: int, num_ranks: int, port: int, folder: str) -> None:
    """Train with each layout, resume each, and save what this rank saw."""
    torch.set_num_threads(1)
    if num_ranks > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(num_ranks))
    of_layouts = [name for name in LAYOUTS if LAYOUTS[name][0] == num_ranks]
    seen = {(name, resume): _train(Path(folder), name, resume) for name in of_layouts for resume in (False, True)}
    torch.save(seen, f"{folder}/{num_ranks}-{rank}.pt")
    os._exit(0)  # destroying the process group while DDP's threads run may hang


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trainer")
    tiny_corpus.make_store(folder / "store", shards=1)
    tiny_corpus.make_encoder(folder / "encoder")
    run_ranks(_rank_main, {num_ranks for num_ranks, _ in LAYOUTS.values()}, folder)
    return folder


def _planned(folder: Path, num_ranks: int) -> list[list[list[tuple[str, str]]]]:
    """Return the pairs that `hbt plan` writes, by step and rank."""
    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.sampling.inspect import SamplerTrace, write_trace

    store = TokenStore.open(folder / "store")
    sampler = tiny_corpus.make_sampler(store, RANK_PAIRS * num_ranks)
    write_trace(SamplerTrace(sampler, store, 0, STEPS, num_ranks, 1, 1), folder / f"plan-{num_ranks}")
    planned: list[list[list[tuple[str, str]]]] = [[[] for _ in range(num_ranks)] for _ in range(STEPS)]
    for pair in pq.read_table(folder / f"plan-{num_ranks}" / "plan.parquet").to_pylist():
        item = int(pair["item_id"].removeprefix("item-"))
        texts = tiny_corpus.question(pair["query_language"], item), tiny_corpus.passage(pair["passage_language"], item)
        planned[pair["step"]][pair["rank"]].append(texts)
    return planned


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_trainer_sees_the_plans_batches_from_its_first_step_on(folder, name, resume):
    num_ranks, first = LAYOUTS[name][0], SAVED if resume else 0
    planned = _planned(folder, num_ranks)[first:]
    for rank in range(num_ranks):
        seen = torch.load(folder / f"{num_ranks}-{rank}.pt", weights_only=True)[name, resume]
        assert seen[: STEPS - first] == [step[rank] for step in planned]


def test_a_hundred_steps_have_the_losses_of_our_trainer(folder, tmp_path, one_thread):
    """Without dropout, and with the same optimizer; no two items of the corpus share a text, which only ours masks."""
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as TrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from hbt_ray import HybridBatchSampler, HybridDataset
    from hbt_ray.config import LossConfig, TrainConfig
    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.sampling.collate import build_batch
    from hbt_ray.training.contrastive_trainer import ContrastiveTrainer
    from hbt_ray.training.lr_schedule import learning_rate

    train = TrainConfig(steps=100, global_batch_pairs=8, precision="fp32", learning_rate=5e-3, temperature=0.05)
    ours = ContrastiveTrainer(
        tiny_corpus.make_encoder(folder / "encoder", dropout=0.0), train, seed=5, loss=LossConfig()
    )
    store = TokenStore.open(folder / "store")
    planned = tiny_corpus.make_sampler(store, 8)
    expected = [float(ours.step(step, [build_batch(planned.batch(step), store)]).loss) for step in range(100)]

    model = SentenceTransformer(str(folder / "encoder"), device="cpu")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == is_matrix] for is_matrix in (True, False))
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=train.learning_rate, weight_decay=train.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(step, train) / train.learning_rate
    )
    trainer = SentenceTransformerTrainer(
        model,
        TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=8,
            batch_sampler=partial(HybridBatchSampler, alpha=0.5),
            prompts={"anchor": tiny_corpus.TEXT.query_prefix, "positive": tiny_corpus.TEXT.passage_prefix},
            seed=3,
            max_steps=100,
            logging_steps=1,
            save_strategy="no",
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=HybridDataset(tiny_corpus.trainer_rows(), name="numbers"),
        loss=MultipleNegativesRankingLoss(model, scale=1 / train.temperature),
        optimizers=(optimizer, schedule),
    )
    trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 100
    assert max(abs(loss - other) for loss, other in zip(losses, expected, strict=True)) < 1e-3
