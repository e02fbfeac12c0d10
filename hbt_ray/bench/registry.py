"""Registry of the benchmark's parts, the settings they share, and the runner of a selection of them."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hbt_ray.bench.result import BenchResult, describe_result, write_results
from hbt_ray.errors import HbtError, UserError

# Part -> "module:function" of its `BenchFunction`. Imported only when the part runs, in this order.
BENCHES = {
    "measures": "hbt_ray.bench.evaluation:bench_retrieval_metrics",
    "feed": "hbt_ray.bench.data_feed:bench_feed",
    "train_step": "hbt_ray.bench.training:bench_train_step",
    "gemm_share": "hbt_ray.bench.training:bench_gemm_fraction",
    "grad_cache_memory": "hbt_ray.bench.training:bench_grad_cache_memory",
    "grad_cache_overhead": "hbt_ray.bench.grad_cache:bench_grad_cache_overhead",
    "vocabulary_state": "hbt_ray.bench.vocabulary:bench_vocabulary_state",
    "train_step_e5": "hbt_ray.bench.vocabulary:bench_train_step_e5",
    "embed": "hbt_ray.bench.embedding:bench_embedding",
    "exact_search": "hbt_ray.bench.exact_search:bench_exact_search",
    "scale": "hbt_ray.bench.scaling_model:bench_scaling",
    "mixture_search": "hbt_ray.bench.mixture_search:bench_mixture_search",
    "feed_40m": "hbt_ray.bench.data_feed:bench_feed_of_large_store",
    "train_under_ray": "hbt_ray.cluster.bench.training:bench_train_under_ray",
    "two_workers": "hbt_ray.cluster.bench.training:bench_two_workers",
    "vocabulary_step": "hbt_ray.cluster.bench.training:bench_vocabulary_step",
    "reproducible": "hbt_ray.cluster.bench.training:bench_reproducible",
    "prepare": "hbt_ray.cluster.bench.prepare:bench_prepare",
    "prepare_scale": "hbt_ray.cluster.bench.prepare_scale:bench_prepare_scale",
    "start_up": "hbt_ray.cluster.bench.startup:bench_startup",
    "search": "hbt_ray.cluster.bench.sharded_search:bench_sharded_search",
}


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """Settings of a benchmark run; every part gets the same and ignores the fields it does not need."""

    out: Path  # the folder of bench.json; scratch files are stored below it while a part runs
    model: str | None = None  # folder or hub name of the encoder to time; None: a random one of MiniLM's size
    xquad: str | None = None  # folder of XQuAD-R; None: the same number of random texts or vectors
    rounds: int = 5  # of each contestant, alternating
    quick: bool = False  # sizes at which every part ends in seconds: checks that it runs, not how fast
    multilingual: str | None = None  # as `model`, with a large vocabulary; None: of multilingual-e5-small's size
    assume: Mapping[str, float] = field(default_factory=dict)  # overrides of `scaling_model.Assumptions`


BenchFunction = Callable[[BenchSettings], BenchResult]


@dataclass(frozen=True, slots=True)
class BenchOutcome:
    """Results of the parts that ran, and the reasons of those that did not."""

    results: dict[str, BenchResult]
    skipped: dict[str, str]  # part -> reason, a sentence
    failed: dict[str, str]  # part -> error message


def check_parts(names: Sequence[str]) -> None:
    """Raise UserError if a part does not exist."""
    for name in names:
        if name not in BENCHES:
            near = difflib.get_close_matches(name, BENCHES, 1, 0.5)
            meant = f"did you mean {near[0]!r}? There" if near else "there"
            raise UserError(f"there is no part {name!r}; {meant} are {', '.join(BENCHES)}")


def run_parts(names: Sequence[str], settings: BenchSettings, report: Callable[[str], None] = print) -> BenchOutcome:
    """Run parts one after the other; write each result to `bench.json` as soon as it is computed.

    Args:
        names: the parts. Empty: all parts; those whose libraries are not installed are skipped, and a part that fails
            does not stop the others.
        settings: of every part.
        report: called with one line for each part.

    Raises:
        UserError: a part does not exist, or a part given by name fails or needs a library that is not installed.
    """
    check_parts(names)
    outcome = BenchOutcome({}, {}, {})
    for name in names or BENCHES:
        try:
            result = load_part(name)(settings)
        except ImportError as error:
            if error.name is not None and error.name.startswith("hbt_ray"):
                raise
            reason = f"{name} needs {error.name or error}; pip install 'hbt_ray[bench]'"
            if names:
                raise UserError(reason) from None
            outcome.skipped[name] = reason
            report(f"skipped: {reason}")
        except HbtError as error:
            if names:
                raise
            outcome.failed[name] = str(error)
            report(f"failed: {name}: {error}")
        else:
            outcome.results[name] = result
            write_results({name: result}, settings.out)
            report(describe_result(name, result))
    return outcome


def load_part(name: str) -> BenchFunction:
    """Import a part's function. Raise ImportError if a library that it needs is not installed."""
    module, _, function = BENCHES[name].partition(":")
    found: BenchFunction = getattr(importlib.import_module(module), function)
    return found
