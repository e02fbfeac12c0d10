"""Time that gradient caching adds to a step, with as many activations kept as memory holds."""

from __future__ import annotations

from dataclasses import replace

from hbt_ray.bench.fixtures import tokenize_pairs
from hbt_ray.bench.registry import BenchSettings
from hbt_ray.bench.result import BenchResult
from hbt_ray.bench.timing import Contestant, compare_alternating, peak_mib
from hbt_ray.bench.training import encoder_of, make_trainer, make_training_round, pair_batches
from hbt_ray.models.encoder import default_device
from hbt_ray.models.precision import has_bf16_arithmetic
from hbt_ray.training.grad_cache import count_saved_bytes
from hbt_ray.utils.process import run_in_subprocess

MEMORY = (2.0, 1.2)  # of a step of FEW pairs without caching, everything that its process holds
MANY, FEW = 256, 64


def bench_grad_cache_overhead(settings: BenchSettings) -> BenchResult:
    """Compare pairs per second with gradient caching, in twice the memory of a quarter of the pairs, and without.

    Details: `overhead`, the time that caching adds, as a fraction; `at_1.2` has the same for 1.2 times the memory.
    """
    many, few = (32, 16) if settings.quick else (MANY, FEW)
    with encoder_of(settings) as encoder:
        bf16 = has_bf16_arithmetic(default_device())
        peak, activations = run_in_subprocess(step_memory, encoder, settings.xquad, few, bf16)
        plain = (encoder, settings.xquad, many, 1, bf16)
        results = {}
        for factor in MEMORY:
            kept_mib = int(factor * peak - (peak - activations))
            results[factor] = compare_alternating(
                Contestant(make_training_round, (*plain, True, kept_mib)),
                Contestant(make_training_round, plain),
                unit="pairs/s",
                rounds=settings.rounds,
                details={"kept_mib": kept_mib},
            )
    twice, less = (
        replace(result, details={"overhead": 1 / result.ratio - 1, **result.details}) for result in results.values()
    )
    details = {
        "peer_is": f"a step of {many} pairs without caching",
        "pairs": many,
        "few_pairs": few,
        "few_peak_mib": peak,
        **twice.details,
        "at_1.2": less.as_json(),
    }
    return replace(twice, details=details)


def step_memory(encoder: str, xquad: str | None, pairs: int, bf16: bool) -> tuple[float, float]:
    """Return the peak memory of this process after two steps without caching, and what autograd saves, both in MiB."""
    make_training_round(encoder, xquad, pairs, 2, bf16)()
    peak = peak_mib()
    trainer = make_trainer(encoder, pairs, "bf16" if bf16 else "fp32", caching=False)
    batch = tokenize_pairs(trainer.encoder, pair_batches(xquad, pairs)[0], 0)
    trainer.model.train()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in trainer.dual.parameters()}
    with count_saved_bytes(parameters) as saved:
        trainer.loss(batch)
    return peak, sum(saved.values()) / 2**20
