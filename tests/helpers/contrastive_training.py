"""A trainer of the tiny encoder and batches of the tiny corpus."""

from __future__ import annotations

from pathlib import Path

from hbt_ray.config import LossConfig, TrainConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.sampling.collate import build_batch
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer
from tests.helpers import tiny_corpus

PAIRS = 8
UNCLIPPED = 1e6
MIXES = [
    {"strategy": "x-y"},
    {"strategy": "x-x", "hard_negatives": 1},
    {"strategy": "one-to-k", "positive_languages": 3},
    {"strategy": "one-to-k", "hard_negatives": 1},
    {"strategy": "hybrid", "second_questions": True},
    {"strategy": "x-x", "hard_negatives": 1, "second_questions": True},
]


def make_stores_and_encoder(folder: Path) -> Path:
    """Write an encoder and two stores; `store-monolingual` also has items in one language only."""
    tiny_corpus.make_store(folder / "store", negatives=1)
    tiny_corpus.make_store(folder / "store-monolingual", negatives=1, english_only=30)
    tiny_corpus.make_encoder(folder / "encoder")
    return folder


def make_trainer(
    folder: Path, dropout: float = 0.1, attention: str = "auto", consistency: float = 0.0, **train
) -> ContrastiveTrainer:
    """Build a trainer of the folder's encoder; `train` replaces settings."""
    defaults = {"steps": 10, "global_batch_pairs": PAIRS, "chunk_pairs": 4, "precision": "fp32", "learning_rate": 1e-2}
    encoder = tiny_corpus.make_encoder(folder / "encoder", dropout, attention=attention)
    return ContrastiveTrainer(
        encoder, TrainConfig(**defaults | train), seed=5, loss=LossConfig(consistency=consistency)
    )


def batch(folder: Path, step: int, rank: int = 0, num_ranks: int = 1, **mix) -> PairBatch:
    """Build a rank's slice of a batch; with query translations, of `store-monolingual`."""
    store = TokenStore.open(folder / ("store-monolingual" if mix.get("second_questions") else "store"))
    return build_batch(tiny_corpus.make_sampler(store, PAIRS, **mix).batch(step), store, rank, num_ranks)
