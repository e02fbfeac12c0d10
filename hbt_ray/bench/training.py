"""Speed of a training step, its fraction of the device's matrix product speed, and the memory of a large batch."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from hbt_ray.bench.fixtures import MAX_TOKENS, Pairs, bench_encoder, monolingual_batches, tokenize_pairs
from hbt_ray.bench.registry import BenchSettings
from hbt_ray.bench.result import BenchResult
from hbt_ray.bench.timing import Contestant, RoundFunction, compare_alternating, scratch_folder
from hbt_ray.config import ModelConfig, Precision, TextConfig, TrainConfig
from hbt_ray.models.encoder import default_device, load_for_training, load_pretrained
from hbt_ray.models.packed_attention import transformer_of
from hbt_ray.models.precision import has_bf16_arithmetic
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer

PAIRS = 32
DIFFERENT_BATCHES = 24
PEER_TRAINER = "sentence-transformers' trainer"
SCALE = 20.0  # 1 / the temperature of both trainers


def bench_train_step(settings: BenchSettings) -> BenchResult:
    """Compare pairs per second with sentence-transformers' trainer and MultipleNegativesRankingLoss.

    Both train the same encoder with its dropout, on the same batches in the same order, in the same precision.
    """
    steps = 2 if settings.quick else 6
    with encoder_of(settings) as encoder:
        bf16 = has_bf16_arithmetic(default_device())
        arguments = (encoder, settings.xquad, PAIRS, steps, bf16)
        return compare_alternating(
            Contestant(make_training_round, arguments),
            Contestant(make_baseline_round, arguments),
            unit="pairs/s",
            rounds=settings.rounds,
            details={
                "peer_is": PEER_TRAINER,
                "precision": "bf16" if bf16 else "fp32",
                "pairs": PAIRS,
                "tokens_per_step": round(_tokens_per_step(encoder, settings.xquad)),
            },
        )


def bench_gemm_fraction(settings: BenchSettings) -> BenchResult:
    """Compare the model FLOP/s of training, without padding, with those of a matrix product in the same precision.

    A token counts as 6 operations for each weight of the transformer's linear layers (Kaplan et al. 2020, arXiv
    2001.08361, section 2.1): two forward, four backward. Attention's products are not counted.
    """
    steps = 2 if settings.quick else 6
    with encoder_of(settings) as encoder:
        bf16 = has_bf16_arithmetic(default_device())
        result = compare_alternating(
            Contestant(make_flop_round, (encoder, settings.xquad, PAIRS, steps, bf16)),
            Contestant(make_matmul_round, (bf16, 0.1 if settings.quick else 2.0)),
            unit="FLOP/s",
            rounds=settings.rounds,
        )
    details = {"peer_is": "a square matrix product", "precision": "bf16" if bf16 else "fp32"}
    return replace(result, details=details | dict(result.details))


def bench_grad_cache_memory(settings: BenchSettings) -> BenchResult:
    """Compare the peak memory of a step of 2,048 pairs with gradient caching with one of 64 pairs without.

    Memory is everything that the process held. Detail `gradient_apart`: `gradient_caching_error`.
    """
    many, few, compared = (64, 16, 16) if settings.quick else (2048, 64, 128)
    with encoder_of(settings) as encoder:
        bf16 = has_bf16_arithmetic(default_device())
        speed = compare_alternating(
            Contestant(make_training_round, (encoder, settings.xquad, many, 1, bf16, True)),
            Contestant(make_training_round, (encoder, settings.xquad, few, 1, bf16)),
            unit="pairs/s",
            rounds=1,
            warm_up=0,
        )
        error = gradient_caching_error(encoder, settings.xquad, compared)
    value, baseline = speed.details["peak_mib"], speed.details["peer_peak_mib"]
    ratio = value / baseline
    details = {
        "peer_is": f"a step of {few} pairs without caching",
        "pairs": many,
        "gradient_apart": float(f"{error:.2g}"),
        "pairs_compared": compared,
        "pairs_per_s": round(speed.value, 2),
        "peer_pairs_per_s": round(speed.baseline, 2),
    }
    return BenchResult(value, "MiB", baseline, ratio, (ratio, ratio), details)


def make_training_round(
    encoder: str, xquad: str | None, pairs: int, steps: int, bf16: bool, caching: bool = False, kept_mib: int = 0
) -> RoundFunction:
    """Return a function that trains the next `steps` batches of `pairs` pairs."""
    trainer = make_trainer(encoder, pairs, "bf16" if bf16 else "fp32", caching, kept_mib)
    batches = [tokenize_pairs(trainer.encoder, batch, 0) for batch in pair_batches(xquad, pairs)]
    step_numbers = count()

    def run_round() -> float:
        for number in [next(step_numbers) for _ in range(steps)]:
            trainer.step(number, [replace(batches[number % len(batches)], step=number)])
        return steps * pairs

    return run_round


def make_flop_round(encoder: str, xquad: str | None, pairs: int, steps: int, bf16: bool) -> RoundFunction:
    """Return a function that trains as that of `make_training_round` does, and returns operations rather than pairs."""
    train = make_training_round(encoder, xquad, pairs, steps, bf16)
    weights = count_linear_weights(encoder)
    model = load_pretrained(encoder)
    tokens = [_count_tokens(model, batch) for batch in pair_batches(xquad, pairs)]
    step_numbers = count()

    def run_round() -> float:
        train()
        return 6.0 * weights * sum(tokens[next(step_numbers) % len(tokens)] for _ in range(steps))

    return run_round


def make_baseline_round(encoder: str, xquad: str | None, pairs: int, steps: int, bf16: bool) -> RoundFunction:
    """Return a function that lets sentence-transformers' trainer do its next `steps` steps.

    The trainer sees the same batches in the same order. It runs in a thread and waits, by two semaphores, at the end
    of every round.
    """
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback, TrainerState

    batches = pair_batches(xquad, pairs)

    class SequentialBatches(DefaultBatchSampler):
        def __iter__(self) -> Iterator[list[int]]:
            rows = list(range(pairs * len(batches)))
            yield from (rows[first : first + pairs] for first in range(0, len(rows), pairs))

    round_requested, round_done = threading.Semaphore(0), threading.Semaphore(0)
    failures: list[BaseException] = []

    class PauseBetweenRounds(TrainerCallback):
        def on_step_begin(self, args: object, state: TrainerState, control: object, **_: object) -> None:
            if state.global_step % steps == 0:
                round_requested.acquire()

        def on_step_end(self, args: object, state: TrainerState, control: object, **_: object) -> None:
            if state.global_step % steps == 0:
                round_done.release()

    model = SentenceTransformer(encoder, device=default_device())
    model.max_seq_length = MAX_TOKENS
    output_folder = tempfile.TemporaryDirectory()  # the trainer makes one, though nothing is saved
    arguments = SentenceTransformerTrainingArguments(
        output_dir=output_folder.name,
        per_device_train_batch_size=pairs,
        max_steps=10_000_000,
        learning_rate=TrainConfig().learning_rate,
        bf16=bf16,
        use_cpu=default_device() == "cpu",
        batch_sampler=SequentialBatches,
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
                "question": [text for batch in batches for text in batch.questions],
                "passage": [text for batch in batches for text in batch.passages],
            }
        ),
        loss=MultipleNegativesRankingLoss(model, scale=SCALE),
        callbacks=[PauseBetweenRounds()],
    )
    threads = torch.get_num_threads()

    def train() -> None:
        torch.set_num_threads(threads)  # OpenMP keeps the number per thread
        try:
            trainer.train()
        except BaseException as error:
            failures.append(error)
            round_done.release()

    threading.Thread(target=train, daemon=True).start()

    # The default argument keeps the folder until the function is deleted.
    def run_round(output_folder: tempfile.TemporaryDirectory[str] = output_folder) -> float:
        round_requested.release()
        round_done.acquire()
        if failures:
            raise failures[0]
        return steps * pairs

    return run_round


def make_matmul_round(bf16: bool, seconds: float) -> RoundFunction:
    """Return a function that multiplies large square matrices for `seconds`, and returns the operations."""
    device = torch.device(default_device())
    size = 2048 if device.type == "cpu" else 8192
    dtype = torch.bfloat16 if bf16 else torch.float32
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def run_round() -> float:
        products = 0
        ends_s = time.perf_counter() + seconds
        while time.perf_counter() < ends_s:
            for _ in range(4):
                left @ right
            if device.type == "cuda":
                torch.cuda.synchronize()
            products += 4
        return 2.0 * size**3 * products

    return run_round


def count_linear_weights(encoder: str) -> int:
    """Count the weights that every token is multiplied with: of the linear layers inside the transformer's layers."""
    model = transformer_of(load_pretrained(encoder))
    layers = (
        module for name, module in model.named_modules() if isinstance(module, nn.Linear) and "pooler" not in name
    )
    return sum(layer.weight.numel() for layer in layers)


def gradient_caching_error(encoder: str, xquad: str | None, pairs: int) -> float:
    """Return the relative difference, by norm, of gradients with and without caching; float32, dropout on."""
    gradients = []
    for caching in (False, True):
        trainer = make_trainer(encoder, pairs, "fp32", caching)
        trainer.model.train()
        trainer.backward(tokenize_pairs(trainer.encoder, pair_batches(xquad, pairs)[0], 0))
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.dual.parameters() if p.grad is not None]))
    return float((gradients[0] - gradients[1]).norm() / gradients[0].norm())


def make_trainer(
    encoder: str, pairs: int, precision: Precision, caching: bool, kept_mib: int = 0
) -> ContrastiveTrainer:
    """Return a trainer of batches of `pairs` pairs."""
    text = TextConfig(query_prefix="", passage_prefix="", max_query_tokens=MAX_TOKENS, max_passage_tokens=MAX_TOKENS)
    train = TrainConfig(
        global_batch_pairs=pairs,
        precision=precision,
        temperature=1 / SCALE,
        gradient_caching=caching,
        kept_activations_mib=kept_mib,
        warmup_share=0,
    )
    return ContrastiveTrainer(load_for_training(ModelConfig(), text, encoder, device=default_device()), train, seed=0)


def pair_batches(xquad: str | None, pairs: int) -> list[Pairs]:
    """Return different batches of `pairs` pairs, each in one language."""
    return monolingual_batches(xquad, DIFFERENT_BATCHES if pairs == PAIRS else 2, pairs)


def _count_tokens(encoder: SentenceTransformer, pairs: Pairs) -> int:
    batch = tokenize_pairs(encoder, pairs, 0)
    return int(batch.query_lengths.sum() + batch.passage_lengths.sum())


def _tokens_per_step(encoder: str, xquad: str | None) -> float:
    model = load_pretrained(encoder)
    return sum(_count_tokens(model, batch) for batch in pair_batches(xquad, PAIRS)) / DIFFERENT_BATCHES


@contextmanager
def encoder_of(settings: BenchSettings) -> Iterator[str]:
    """Yield the folder or hub name of the encoder to train."""
    with scratch_folder(settings.out / "training") as scratch:
        yield bench_encoder(settings.model, scratch, quick=settings.quick)
