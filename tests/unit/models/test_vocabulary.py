"""Training the word embeddings of tokens that occur gives the bytes of a training with all of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch import nn

from hbt_ray.config import PretrainRunConfig, RunConfig, build
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import CheckpointError, ConfigError
from hbt_ray.models.encoder import load_for_training
from hbt_ray.models.vocabulary import OccurringEmbedding, keep_occurring, occurring_embedding, occurring_fault
from hbt_ray.training import contrastive_trainer
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer, build_contrastive_trainer
from hbt_ray.training.local_runner import train_locally
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.training.task import ContrastiveTask
from tests.helpers import small_vocabulary
from tests.helpers.small_vocabulary import config_of, saved

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = "0.model.embeddings.word_embeddings"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return small_vocabulary.write_inputs(tmp_path_factory.mktemp("vocabulary"))


# The ids


@given(st.data())
def test_rows_of_kept_ids_are_those_of_the_whole_table(data):
    size = data.draw(st.integers(1, 40))
    ids = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1))))
    padding = data.draw(st.sampled_from([None, *ids.tolist()]))
    table = nn.Embedding(size, 3, padding_idx=padding)
    occurring = OccurringEmbedding(table, ids)
    text = torch.tensor(data.draw(st.lists(st.sampled_from(ids.tolist()), min_size=1)))
    assert torch.equal(occurring(text), table(text))
    occurring(text).sum().backward()
    table(text).sum().backward()
    assert torch.equal(occurring.weight.grad, table.weight.grad[ids])
    for other in sorted(set(range(size)) - set(ids.tolist())):
        with pytest.raises(ValueError, match=f"the token id {other} occurs in no text of the store"):
            occurring(torch.tensor([[ids[0], other]]))


@given(st.integers(1, 5), st.floats(0, 1), st.sets(st.integers(0, 8), min_size=1))
def test_decay_replayed_has_the_bytes_of_adamw_over_all_rows(steps, weight_decay, kept):
    ids = np.array(sorted(kept))
    table = nn.Embedding(9, 16)
    initial = nn.Embedding(9, 16, _weight=table.weight.detach().clone())
    occurring = OccurringEmbedding(initial, ids)
    both = [
        torch.optim.AdamW(x.parameters(), lr=0.0, weight_decay=weight_decay, fused=True) for x in (table, occurring)
    ]
    for step in range(steps):
        for embedding, optimizer in zip((table, occurring), both, strict=True):
            optimizer.param_groups[0]["lr"] = (step + 1) / 70
            optimizer.zero_grad()
            embedding(torch.from_numpy(ids)).pow(3).sum().backward()
            optimizer.step()
        occurring.record_decay((step + 1) / 70, weight_decay)
    occurring.restore(initial)
    assert torch.equal(initial.weight, table.weight)


def test_store_names_the_ids_of_questions_passages_and_negatives(folder):
    store = TokenStore.open(folder / "store")
    expected = set()
    for split in ("train", "validation"):
        rows = np.arange(store.manifest.sources["x"].shards[split][0].items)
        for language in small_vocabulary.STORE_LANGUAGES:
            expected |= set(store.take("x", "question", language, rows, split)[0].tolist())
            expected |= set(store.take("x", "passage", language, rows, split)[0].tolist())
            expected |= set(store.take_negatives("x", language, rows, 1, split)[0].tolist())
    assert store.token_ids().tolist() == sorted(expected)


# Equality with all rows


def task_of(config: RunConfig, folder: Path) -> ContrastiveTask:
    def evaluate(encoder: Any, _: RunConfig) -> dict[str, float]:
        words = encoder[0].model.get_input_embeddings().weight.detach()
        return {"rows": float(len(words)), "sum": float(words.double().sum())}

    return ContrastiveTask(config, str(folder / "encoder"), evaluate)


def train(
    config: RunConfig, folder: Path, out: Path, stop_at: int | None = None, every: int | None = None
) -> list[Any]:
    """Train in `out`, until a step or the end; return the steps and their metrics."""
    seen: list[Any] = []

    def on_metrics(step: int, metrics: dict[str, float]) -> None:
        seen.append((step, metrics))
        if stop_at is not None and step >= stop_at:
            raise KeyboardInterrupt

    run = run_dir_of(config, out)
    try:
        train_locally(task_of(config, folder), folder / "store", run, on_metrics=on_metrics, every=every)
    except KeyboardInterrupt:
        assert stop_at is not None
    return seen


def exported(config: RunConfig, folder: Path, out: Path, step: int = 50) -> dict[str, str]:
    return small_vocabulary.exported(config, folder, out / "checkpoints", step, out / f"model-{step}")


@pytest.fixture(scope="module")
def dense(folder) -> Path:
    """Return the folder of a run of 50 steps that trained all rows."""
    train(config_of(folder, "all"), folder, folder / "dense")
    return folder / "dense"


def test_exported_files_have_the_bytes_of_training_all_rows(folder, dense, tmp_path):
    config = config_of(folder, "occurring")
    train(config, folder, tmp_path)
    assert exported(config, folder, tmp_path) == exported(config, folder, dense)
    all_rows, rows = (load_file(saved(x / "checkpoints", 50) / "weights.safetensors") for x in (dense, tmp_path))
    assert len(rows[f"{WORDS}.weight"]) < len(all_rows[f"{WORDS}.weight"]) / 2
    assert len(rows[f"{WORDS}.ids"]) == len(rows[f"{WORDS}.weight"])
    assert len(rows[f"{WORDS}.decay_factors"]) == 50


CASES: dict[str, dict[str, Any]] = {
    "padded": {"model": {"attention": "sdpa"}},
    "gradient caching": {"train": {"gradient_caching": True, "gradient_accumulation": 2, "schedule": "cosine"}},
    "no weight decay": {"train": {"weight_decay": 0.0, "schedule": "constant"}},
    "hard negatives, bf16": {"mix": {"hard_negatives": 1}, "train": {"precision": "bf16", "validation_every": 10}},
    "distillation": {"loss": {"distillation": {"teacher": "encoder"}}},
}


@pytest.mark.parametrize("case", CASES)
def test_other_settings_have_the_bytes_of_training_all_rows(folder, tmp_path, monkeypatch, case):
    monkeypatch.chdir(folder)  # where the teacher is
    files = []
    for vocabulary in ("all", "occurring"):
        sections = {**CASES[case], "train": {"steps": 15, **CASES[case].get("train", {})}}
        config = config_of(folder, vocabulary, **sections)
        train(config, folder, tmp_path / vocabulary)
        files.append(exported(config, folder, tmp_path / vocabulary, 15))
    assert files[0] == files[1]


@pytest.mark.parametrize(("before", "after"), [("occurring", "occurring"), ("all", "occurring"), ("occurring", "all")])
def test_a_run_resumed_with_either_setting_has_the_same_bytes(folder, dense, tmp_path, before, after):
    train(config_of(folder, before), folder, tmp_path, stop_at=27)
    resumed = config_of(folder, after)
    train(resumed, folder, tmp_path)
    for step in (20, 30, 50):
        assert exported(resumed, folder, tmp_path, step) == exported(resumed, folder, dense, step)
    expected, found = (load_file(saved(x / "checkpoints", 50) / "optimizer.safetensors") for x in (dense, tmp_path))
    rows = load_file(saved(tmp_path / "checkpoints", 50) / "weights.safetensors").get(f"{WORDS}.ids", slice(None))
    for name in (f"exp_avg/encoder.{WORDS}.weight", f"exp_avg_sq/encoder.{WORDS}.weight"):
        assert np.array_equal(found[name], expected[name][rows])


def test_an_extended_run_has_the_bytes_of_a_long_one(folder, tmp_path):
    constant = {"schedule": "constant"}
    for steps in (10, 20):
        extended = config_of(folder, "occurring", train=constant | {"steps": steps, "warmup_share": 5 / steps})
        train(extended, folder, tmp_path / "extended")
    long = config_of(folder, "all", train=constant | {"steps": 20, "warmup_share": 0.25})
    train(long, folder, tmp_path / "long")
    assert exported(long, folder, tmp_path / "extended", 20) == exported(long, folder, tmp_path / "long", 20)


def with_nonfinite_steps(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    loss = ContrastiveTrainer.loss
    monkeypatch.setattr(
        ContrastiveTrainer, "loss", lambda self, batch: loss(self, batch) * (np.nan if batch.step in steps else 1.0)
    )


def test_skipped_steps_decay_nothing(folder, tmp_path, monkeypatch):
    with_nonfinite_steps(monkeypatch, 3, 12)
    files = []
    for vocabulary in ("all", "occurring"):
        config = config_of(folder, vocabulary, train={"steps": 15, "non_finite_allowed": 2})
        train(config, folder, tmp_path / vocabulary)
        files.append(exported(config, folder, tmp_path / vocabulary, 15))
    assert files[0] == files[1]
    factors = load_file(saved(tmp_path / "occurring/checkpoints", 15) / "weights.safetensors")[f"{WORDS}.decay_factors"]
    assert len(factors) == 13


def test_unknown_skipped_steps_are_refused(folder, tmp_path, monkeypatch):
    with_nonfinite_steps(monkeypatch, 3)
    allowed = {"non_finite_allowed": 2}
    train(config_of(folder, "all", train=allowed), folder, tmp_path, stop_at=12)
    with pytest.raises(
        CheckpointError,
        match=r"steps were skipped or had other learning rates than this run's; write train\.vocabulary=all",
    ):
        train(config_of(folder, "occurring", train=allowed), folder, tmp_path)


def test_a_checkpoint_of_other_ids_is_refused(folder, tmp_path):
    config = config_of(folder, "occurring")
    train(config, folder, tmp_path, stop_at=12)
    store = SimpleNamespace(token_ids=lambda: np.arange(40))
    trainer = build_contrastive_trainer(config, folder / "encoder", "cpu", store)
    with pytest.raises(CheckpointError, match="word embeddings of other tokens than those that occur in the store"):
        CheckpointManager(run_dir_of(config, tmp_path).checkpoints).resume(trainer)


def test_evaluations_while_training_use_all_rows(folder, tmp_path):
    steps = {"steps": 15}
    seen = [train(config_of(folder, x, train=steps), folder, tmp_path / x, every=10) for x in ("all", "occurring")]
    assert seen[0] == seen[1]
    assert [step for step, _ in seen[0]] == [10, 15]


# Where it is done, and where not


def rows_of(config: RunConfig, folder: Path) -> int:
    trainer = build_contrastive_trainer(config, folder / "encoder", "cpu", TokenStore.open(folder / "store"))
    return trainer.encoder[0].model.get_input_embeddings().num_embeddings


def test_auto_keeps_all_rows_where_a_bit_could_change(folder):
    config = config_of(folder, "auto")
    assert rows_of(config, folder) < rows_of(config_of(folder, "all"), folder) / 2
    settings = {"global_batch_pairs": 12, "chunk_pairs": 4, "workers": 3}
    assert rows_of(config_of(folder, "auto", train=settings), folder) == rows_of(config_of(folder, "all"), folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda encoder: encoder.requires_grad_(False), "its word embeddings are not trained"),
        (
            lambda encoder: setattr(encoder[1], "head", encoder[0].model.get_input_embeddings()),
            "they are also 1.head.weight",
        ),
        (lambda encoder: keep_occurring(encoder, np.arange(9)), "no plain table of word embeddings"),
    ],
)
def test_an_encoder_that_needs_all_rows_is_refused_by_its_reason(folder, change, reason):
    config = config_of(folder, "occurring")
    encoder = load_for_training(config.model, config.text, folder / "encoder")
    assert occurring_fault(encoder) is None
    change(encoder)
    assert reason in str(occurring_fault(encoder))


def test_a_model_without_a_table_of_words_is_refused_by_one_sentence(folder, monkeypatch):
    monkeypatch.setattr(contrastive_trainer, "occurring_fault", lambda _: "the model has no plain table")
    with pytest.raises(
        ConfigError, match=r"^train\.vocabulary=occurring is not possible: the model has no plain table; w"
    ):
        rows_of(config_of(folder, "occurring"), folder)


def test_adapters_leave_nothing_to_keep(folder):
    pytest.importorskip("peft")
    lora = {"lora": {"rank": 2}}
    assert rows_of(config_of(folder, "auto", model=lora), folder) == rows_of(config_of(folder, "all"), folder)
    with pytest.raises(
        ConfigError, match=r"with model\.lora word embeddings are not trained; write train\.vocabulary=all"
    ):
        config_of(folder, "occurring", model=lora)


def test_pretraining_refuses_the_setting_by_name():
    with pytest.raises(ConfigError, match=r"pretrain.* vocabulary is a setting of train: the head .* is tied"):
        build(PretrainRunConfig, {"pretrain": {"vocabulary": "occurring"}})


def test_a_trainer_without_a_store_has_all_rows(folder):
    assert (
        occurring_embedding(
            build_contrastive_trainer(config_of(folder, "occurring"), folder / "encoder", "cpu").encoder
        )
        is None
    )
