"""The parts of the benchmark by name, and running some of them."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hbt_ray.bench.result import BenchResult, describe_result, write_results
from hbt_ray.bench.settings import BenchSettings
from hbt_ray.errors import UserError

# Where each part's function is, `(settings: BenchSettings) -> Figure`; imported when the part runs. The order is that
# in which they run.
BENCHES = {
    "measures": "hbt_ray.bench.evaluation:measures",
    "feed": "hbt_ray.bench.data_feed:feed",
    "train_step": "hbt_ray.bench.training:train_step",
    "gemm_share": "hbt_ray.bench.training:gemm_share",
    "grad_cache_memory": "hbt_ray.bench.training:grad_cache_memory",
    "embed": "hbt_ray.bench.embedding:embed",
    "scale": "hbt_ray.bench.scaling_model:scale",
    "feed_40m": "hbt_ray.bench.data_feed:feed_40m",
    "train_under_ray": "hbt_ray.cluster.bench.training:train_under_ray",
    "two_workers": "hbt_ray.cluster.bench.training:two_workers",
    "prepare": "hbt_ray.cluster.bench.prepare:prepare",
    "start_up": "hbt_ray.cluster.bench.startup:start_up",
    "search": "hbt_ray.cluster.bench.sharded_search:search",
}


@dataclass(frozen=True, slots=True)
class BenchOutcome:
    """What came of the parts that were asked for."""

    figures: dict[str, BenchResult]
    skipped: dict[str, str]  # part -> why, a sentence
    failed: dict[str, str]  # likewise


def check_parts(names: Sequence[str]) -> None:
    """Raises UserError where there is no such part."""
    for name in names:
        if name not in BENCHES:
            near = difflib.get_close_matches(name, BENCHES, 1, 0.5)
            meant = f"did you mean {near[0]!r}? There" if near else "there"
            raise UserError(f"there is no part {name!r}; {meant} are {', '.join(BENCHES)}")


def run_parts(names: Sequence[str], settings: BenchSettings, tell: Callable[[str], None] = print) -> BenchOutcome:
    """Runs parts one after the other; `bench.json` has each figure as soon as it is there.

    Args:
        names: of parts; none stands for all, of which those are skipped whose libraries are not installed, and the
            others go on where one fails.
        tell: is given a line for each part.

    Raises:
        UserError: there is no such part, or one that was named fails or lacks a library.
    """
    check_parts(names)
    outcome = BenchOutcome({}, {}, {})
    for name in names or BENCHES:
        try:
            figure = part_function(name)(settings)
        except ImportError as error:
            if error.name is not None and error.name.startswith("hbt_ray"):
                raise
            sentence = f"{name} needs {error.name or error}; pip install 'hbt_ray[bench]'"
            if names:
                raise UserError(sentence) from None
            outcome.skipped[name] = sentence
            tell(f"skipped: {sentence}")
        except UserError as error:
            if names:
                raise
            outcome.failed[name] = str(error)
            tell(f"failed: {name}: {error}")
        else:
            outcome.figures[name] = figure
            write_results({name: figure}, settings.out)
            tell(describe_result(name, figure))
    return outcome


def part_function(name: str) -> Callable[[BenchSettings], BenchResult]:
    """A part's function. Raises ImportError where a library that it needs is not installed."""
    module, _, function = BENCHES[name].partition(":")
    found: Callable[[BenchSettings], BenchResult] = getattr(importlib.import_module(module), function)
    return found
