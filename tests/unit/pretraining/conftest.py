"""Stores and trainers of small pretrainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hbt_ray.config import PretrainConfig, PretrainRunConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.pretraining.batch import TokenBlockBatch
from hbt_ray.pretraining.block_sampler import TextBlockSampler
from hbt_ray.pretraining.mlm_trainer import MaskedLMTrainer
from hbt_ray.pretraining.task import PretrainingTask, make_pretraining_task
from hbt_ray.training.run_dir import run_dir_of
from tests.helpers import tiny_corpus

OBJECTIVES = ("mlm", "tlm", "contrastive")


@pytest.fixture(autouse=True)
def few_counted_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimate token frequencies from little text."""
    monkeypatch.setattr("hbt_ray.pretraining.collate.COUNTED_TOKENS", 1000)


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a store for each objective."""
    folders = {objective: tmp_path_factory.mktemp(objective) / "store" for objective in OBJECTIVES}
    for objective, folder in folders.items():
        tiny_corpus.make_text_store(folder, tiny_corpus.pretrain_config(objective=objective))
    return folders


def make_task(config: PretrainRunConfig, stores: dict[str, Path], folder: Path) -> PretrainingTask[Any]:
    """Return the task of a configuration, in a run's folder."""
    return make_pretraining_task(config, stores[config.pretrain.objective], run_dir_of(config, folder))


def make_masked_trainer(
    config: PretrainRunConfig, stores: dict[str, Path], folder: Path
) -> tuple[MaskedLMTrainer, TokenBlockBatch]:
    """Return a trainer of masked tokens, and its first batch."""
    task = make_task(config, stores, folder)
    [blocks] = task.batches(TokenStore.open(stores[config.pretrain.objective]), range(1))
    trainer = task.build_trainer("cpu")
    assert isinstance(trainer, MaskedLMTrainer)
    return trainer, blocks


@pytest.fixture(scope="session")
def token_store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Return a store of 60 items in three shards."""
    folder = tmp_path_factory.mktemp("texts")
    tiny_corpus.make_store(folder, items=60, shards=3)
    return TokenStore.open(folder)


def make_sampler(
    store: TokenStore, languages: tuple[str, ...] | None = None, seed: int = 3, **settings: Any
) -> TextBlockSampler:
    """Return a sampler of 8 blocks of 32 tokens, with settings of pretraining as keywords."""
    defaults = {"block_tokens": 32, "global_batch_blocks": 8, "chunk_blocks": 2}
    return TextBlockSampler(store.manifest, PretrainConfig(**defaults | settings), seed=seed, languages=languages)
