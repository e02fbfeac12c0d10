"""Checkpoint and step of an encoder with a large vocabulary, in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import numpy as np

from hbt_ray.bench.fixtures import E5_SMALL, MAX_TOKENS, Pairs, bench_encoder, monolingual_batches, tokenize_pairs
from hbt_ray.bench.registry import BenchSettings
from hbt_ray.bench.result import BenchResult
from hbt_ray.bench.timing import Contestant, RoundFunction, compare_alternating, scratch_folder
from hbt_ray.bench.training import DIFFERENT_BATCHES, PEER_TRAINER, SCALE, make_baseline_round
from hbt_ray.config import ModelConfig, TextConfig, TrainConfig
from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.models.encoder import default_device, load_for_training
from hbt_ray.models.packed_attention import transformer_of
from hbt_ray.models.precision import has_bf16_arithmetic
from hbt_ray.models.vocabulary import keep_occurring, required_ids
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer

TEXT = TextConfig(query_prefix="", passage_prefix="", max_query_tokens=MAX_TOKENS, max_passage_tokens=MAX_TOKENS)
PAIRS = 32


def bench_vocabulary_state(settings: BenchSettings) -> BenchResult:
    """Compare the sizes of checkpoints: with the rows of XQuAD-R's tokens, in all its languages, and with all rows."""
    with scratch_folder(settings.out / "vocabulary") as scratch:
        encoder = bench_encoder(settings.multilingual, scratch, quick=settings.quick, shape=E5_SMALL)
        found = []
        for occurring in (True, False):
            trainer = make_trainer(encoder, settings.xquad, occurring=occurring)
            rows = int(transformer_of(trainer.encoder).get_input_embeddings().num_embeddings)
            found.append((checkpoint_mib(trainer), rows))
            del trainer
    (value, rows), (peer, peer_rows) = found
    ratio = value / peer
    details = {"peer_is": "the same with all rows of the word embeddings", "rows": rows, "peer_rows": peer_rows}
    return BenchResult(value, "MiB", peer, ratio, (ratio, ratio), details)


def bench_train_step_e5(settings: BenchSettings) -> BenchResult:
    """Compare pairs per second with sentence-transformers' trainer, as `train_step` does, on multilingual-e5-small.

    This project trains the rows of XQuAD-R's tokens, in all its languages, and exports all; the baseline trains all.
    """
    steps = 1 if settings.quick else 2
    with scratch_folder(settings.out / "vocabulary") as scratch:
        encoder = bench_encoder(settings.multilingual, scratch, quick=settings.quick, shape=E5_SMALL)
        bf16 = has_bf16_arithmetic(default_device())
        return compare_alternating(
            Contestant(make_step_round, (encoder, settings.xquad, steps)),
            Contestant(make_baseline_round, (encoder, settings.xquad, PAIRS, steps, bf16)),
            unit="pairs/s",
            rounds=settings.rounds,
            details={"peer_is": PEER_TRAINER, "precision": "bf16" if bf16 else "fp32", "pairs": PAIRS},
        )


def make_step_round(encoder: str, xquad: str | None, steps: int) -> RoundFunction:
    """Return a function that trains the next `steps` batches with the rows that occur, and returns their pairs."""
    trainer = make_trainer(encoder, xquad, occurring=True)
    batches = [tokenize_pairs(trainer.encoder, batch, 0) for batch in _batches(xquad)]
    step_numbers = count()

    def run_round() -> float:
        for step in [next(step_numbers) for _ in range(steps)]:
            trainer.step(step, [replace(batches[step % len(batches)], step=step)])
        return float(steps * PAIRS)

    return run_round


def make_trainer(encoder: str, xquad: str | None, *, occurring: bool) -> ContrastiveTrainer:
    """Return a trainer with the rows of the tokens that occur, or with all."""
    model = load_for_training(ModelConfig(), TEXT, encoder, device=default_device())
    if occurring:
        ids = [np.unique(np.concatenate(model.tokenizer(texts)["input_ids"])) for texts in _texts(xquad)]
        keep_occurring(model, np.unique(np.concatenate([*ids, required_ids(model)])))
    train = TrainConfig(global_batch_pairs=PAIRS, temperature=1 / SCALE, warmup_share=0)
    return ContrastiveTrainer(model, train, seed=0)


def checkpoint_mib(trainer: ContrastiveTrainer) -> float:
    """Return the size of a trainer's checkpoints: of all weights, and of two moments of those that are trained."""
    sizes = [parameter.numel() * (3 if parameter.requires_grad else 1) for parameter in trainer.encoder.parameters()]
    return 4 * sum(sizes) / 2**20


def _batches(xquad: str | None) -> list[Pairs]:
    return monolingual_batches(xquad, DIFFERENT_BATCHES, PAIRS)


def _texts(xquad: str | None) -> list[Sequence[str]]:
    """Return the texts of a store: XQuAD-R in all languages, or those of the batches if they are random."""
    if xquad is None:
        return [texts for batch in _batches(None) for texts in (batch.questions, batch.passages)]
    benchmark = load_benchmark("xquad-r", xquad)
    return [[query.text for query in benchmark.queries], [passage.text for passage in benchmark.passages]]
