"""How fast a training step is, how near to the device's own speed, and what memory a large batch takes."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from torch import nn

from hbt_ray.bench.encoder import encoder_to_measure
from hbt_ray.bench.pairs import MAX_TOKENS, Pairs, as_batch, batches_of_pairs
from hbt_ray.bench.result import BenchResult
from hbt_ray.bench.scratch import scratch_folder
from hbt_ray.bench.settings import BenchSettings
from hbt_ray.bench.timing import Contestant, compare_alternating
from hbt_ray.config import ModelConfig, Precision, TextConfig, TrainConfig
from hbt_ray.models.encoder import default_device, load_for_training, load_pretrained
from hbt_ray.models.packed_attention import transformer_of
from hbt_ray.models.precision import has_bf16_arithmetic
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer

PAIRS = 32
DIFFERENT_BATCHES = 24
SCALE = 20.0  # 1 / the temperature of both


def train_step(settings: BenchSettings) -> BenchResult:
    """Pairs a second of a training step against sentence-transformers' trainer with MultipleNegativesRankingLoss.

    Both train the same encoder with its own dropout, on the same batches in the same order, in the same precision.
    """
    steps = 2 if settings.quick else 6
    with _measured_encoder(settings) as encoder:
        bf16 = has_bf16_arithmetic(default_device())
        arguments = (encoder, settings.xquad, PAIRS, steps, bf16)
        return compare_alternating(
            Contestant(our_steps, arguments),
            Contestant(peers_steps, arguments),
            unit="pairs/s",
            rounds=settings.rounds,
            details={
                "peer_is": "sentence-transformers' trainer",
                "precision": "bf16" if bf16 else "fp32",
                "pairs": PAIRS,
                "tokens_per_step": round(_tokens_per_step(encoder, settings.xquad)),
            },
        )


def gemm_share(settings: BenchSettings) -> BenchResult:
    """Model FLOP/s of training, without padding, against those of a matrix product alone, both in the same precision.

    A token counts as 6 operations for each weight of the transformer's linear layers (Kaplan et al. 2020, arXiv
    2001.08361, section 2.1): two forward, four backward. Attention's own products are not counted.
    """
    steps = 2 if settings.quick else 6
    with _measured_encoder(settings) as encoder:
        bf16 = has_bf16_arithmetic(default_device())
        figure = compare_alternating(
            Contestant(our_operations, (encoder, settings.xquad, PAIRS, steps, bf16)),
            Contestant(product_operations, (bf16, 0.1 if settings.quick else 2.0)),
            unit="FLOP/s",
            rounds=settings.rounds,
        )
    told = {"peer_is": "a square matrix product", "precision": "bf16" if bf16 else "fp32"}
    return replace(figure, details=told | dict(figure.details))


def grad_cache_memory(settings: BenchSettings) -> BenchResult:
    """Peak memory of a training step of 2,048 pairs with gradient caching, against one of 64 pairs without.

    Memory is all that the process held. As `gradient_apart`: how far the gradient of a batch with caching is from
    that of the same batch without, by their norms, in float32 with dropout.
    """
    many, few, compared = (64, 16, 16) if settings.quick else (2048, 64, 128)
    with _measured_encoder(settings) as encoder:
        bf16 = has_bf16_arithmetic(default_device())
        figure = compare_alternating(
            Contestant(our_steps, (encoder, settings.xquad, many, 1, bf16, True)),
            Contestant(our_steps, (encoder, settings.xquad, few, 1, bf16)),
            unit="pairs/s",
            rounds=1,
            warm_up=0,
        )
        apart = gradient_apart(encoder, settings.xquad, compared)
    value, peer = figure.details["peak_mib"], figure.details["peer_peak_mib"]
    told = {
        "peer_is": f"a step of {few} pairs without caching",
        "pairs": many,
        "gradient_apart": float(f"{apart:.2g}"),
        "pairs_compared": compared,
        "pairs_per_s": round(figure.value, 2),
        "peer_pairs_per_s": round(figure.peer, 2),
    }
    return BenchResult(value, "MiB", peer, value / peer, (value / peer, value / peer), told)


def our_steps(
    encoder: str, xquad: str | None, pairs: int, steps: int, bf16: bool, caching: bool = False
) -> Callable[[], float]:
    """Trains the next `steps` batches a round."""
    trainer = _trainer(encoder, pairs, "bf16" if bf16 else "fp32", caching)
    batches = [as_batch(trainer.encoder, own, 0) for own in _batches(xquad, pairs)]
    numbers = count()

    def work() -> float:
        for number in [next(numbers) for _ in range(steps)]:
            trainer.step(number, [replace(batches[number % len(batches)], step=number)])
        return steps * pairs

    return work


def our_operations(encoder: str, xquad: str | None, pairs: int, steps: int, bf16: bool) -> Callable[[], float]:
    """The same, and what it returns are operations."""
    work = our_steps(encoder, xquad, pairs, steps, bf16)
    weights = weights_of_linear_layers(encoder)
    model = load_pretrained(encoder)
    tokens = [_tokens_of(model, own) for own in _batches(xquad, pairs)]
    numbers = count()

    def count_operations() -> float:
        work()
        return 6.0 * weights * sum(tokens[next(numbers) % len(tokens)] for _ in range(steps))

    return count_operations


def peers_steps(encoder: str, xquad: str | None, pairs: int, steps: int, bf16: bool) -> Callable[[], float]:
    """Lets sentence-transformers' trainer do its next `steps` steps a round, on the same batches in the same order."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    own = _batches(xquad, pairs)

    class InOrder(DefaultBatchSampler):
        def __iter__(self) -> Iterator[list[int]]:
            rows = list(range(pairs * len(own)))
            yield from (rows[first : first + pairs] for first in range(0, len(rows), pairs))

    turn, done = threading.Semaphore(0), threading.Semaphore(0)
    failure: list[BaseException] = []

    class InTurns(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % steps == 0:
                turn.acquire()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % steps == 0:
                done.release()

    model = SentenceTransformer(encoder, device=default_device())
    model.max_seq_length = MAX_TOKENS
    folder = tempfile.TemporaryDirectory()  # it makes one, though nothing is saved
    arguments = SentenceTransformerTrainingArguments(
        output_dir=folder.name,
        per_device_train_batch_size=pairs,
        max_steps=10_000_000,
        learning_rate=TrainConfig().learning_rate,
        bf16=bf16,
        use_cpu=default_device() == "cpu",
        batch_sampler=InOrder,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(
            {
                "question": [text for batch in own for text in batch.questions],
                "passage": [text for batch in own for text in batch.passages],
            }
        ),
        loss=MultipleNegativesRankingLoss(model, scale=SCALE),
        callbacks=[InTurns()],
    )
    threads = torch.get_num_threads()

    def train() -> None:
        torch.set_num_threads(threads)  # OpenMP keeps their number by thread
        try:
            trainer.train()
        except BaseException as error:
            failure.append(error)
            done.release()

    threading.Thread(target=train, daemon=True).start()

    def work(folder: tempfile.TemporaryDirectory[str] = folder) -> float:  # which lives as long
        turn.release()
        done.acquire()
        if failure:
            raise failure[0]
        return steps * pairs

    return work


def product_operations(bf16: bool, seconds: float) -> Callable[[], float]:
    """Multiplies large square matrices for some seconds a round, and returns the operations."""
    device = torch.device(default_device())
    size = 2048 if device.type == "cpu" else 8192
    dtype = torch.bfloat16 if bf16 else torch.float32
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def work() -> float:
        products = 0
        ends_s = time.perf_counter() + seconds
        while time.perf_counter() < ends_s:
            for _ in range(4):
                one @ other
            if device.type == "cuda":
                torch.cuda.synchronize()
            products += 4
        return 2.0 * size**3 * products

    return work


def weights_of_linear_layers(encoder: str) -> int:
    """Those that every token is multiplied with: of the linear layers inside the transformer's layers."""
    model = transformer_of(load_pretrained(encoder))
    layers = (
        module for name, module in model.named_modules() if isinstance(module, nn.Linear) and "pooler" not in name
    )
    return sum(layer.weight.numel() for layer in layers)


def _trainer(encoder: str, pairs: int, precision: Precision, caching: bool) -> ContrastiveTrainer:
    text = TextConfig(query_prefix="", passage_prefix="", max_query_tokens=MAX_TOKENS, max_passage_tokens=MAX_TOKENS)
    train = TrainConfig(
        global_batch_pairs=pairs, precision=precision, temperature=1 / SCALE, gradient_caching=caching, warmup_share=0
    )
    return ContrastiveTrainer(load_for_training(ModelConfig(), text, encoder, device=default_device()), train, seed=0)


def gradient_apart(encoder: str, xquad: str | None, pairs: int) -> float:
    """How far a batch's gradient with caching is from that without, by its norm; float32, dropout on."""
    found = []
    for caching in (False, True):
        trainer = _trainer(encoder, pairs, "fp32", caching)
        trainer.model.train()
        trainer.backward(as_batch(trainer.encoder, _batches(xquad, pairs)[0], 0))
        found.append(torch.cat([p.grad.flatten() for p in trainer.dual.parameters() if p.grad is not None]))
    return float((found[0] - found[1]).norm() / found[0].norm())


def _batches(xquad: str | None, pairs: int) -> list[Pairs]:
    return batches_of_pairs(xquad, DIFFERENT_BATCHES if pairs == PAIRS else 2, pairs)


def _tokens_of(encoder: Any, pairs: Pairs) -> int:
    batch = as_batch(encoder, pairs, 0)
    return int(batch.query_lengths.sum() + batch.passage_lengths.sum())


def _tokens_per_step(encoder: str, xquad: str | None) -> float:
    model = load_pretrained(encoder)
    return sum(_tokens_of(model, own) for own in _batches(xquad, PAIRS)) / DIFFERENT_BATCHES


@contextmanager
def _measured_encoder(settings: BenchSettings) -> Iterator[str]:
    with scratch_folder(settings.out / "training") as scratch:
        yield encoder_to_measure(settings.model, scratch, quick=settings.quick)
