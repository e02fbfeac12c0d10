"""The parts of the benchmark by name, and running some of them."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hbt_ray.bench.figure import Figure, describe_figure, write_figures
from hbt_ray.bench.settings import BenchSettings
from hbt_ray.errors import UserError

# Where each part's function is, `(settings: BenchSettings) -> Figure`; imported when the part runs. The order is that
# in which they run.
PARTS = {
    "measures": "hbt_ray.bench.measures:measures",
    "feed": "hbt_ray.bench.feed:feed",
    "train_step": "hbt_ray.bench.training:train_step",
    "gemm_share": "hbt_ray.bench.training:gemm_share",
    "grad_cache_memory": "hbt_ray.bench.training:grad_cache_memory",
    "embed": "hbt_ray.bench.embedding:embed",
    "scale": "hbt_ray.bench.scale:scale",
    "feed_40m": "hbt_ray.bench.feed:feed_40m",
    "train_under_ray": "hbt_ray.cluster.bench.training:train_under_ray",
    "two_workers": "hbt_ray.cluster.bench.training:two_workers",
    "prepare": "hbt_ray.cluster.bench.preparing:prepare",
    "start_up": "hbt_ray.cluster.bench.starting:start_up",
    "search": "hbt_ray.cluster.bench.searching:search",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the parts that were asked for."""

    figures: dict[str, Figure]
    skipped: dict[str, str]  # part -> why, a sentence
    failed: dict[str, str]  # likewise


def check_parts(names: Sequence[str]) -> None:
    """Raises UserError where there is no such part."""
    for name in names:
        if name not in PARTS:
            near = difflib.get_close_matches(name, PARTS, 1, 0.5)
            meant = f"did you mean {near[0]!r}? There" if near else "there"
            raise UserError(f"there is no part {name!r}; {meant} are {', '.join(PARTS)}")


def run_parts(names: Sequence[str], settings: BenchSettings, tell: Callable[[str], None] = print) -> Outcome:
    """Runs parts one after the other; `bench.json` has each figure as soon as it is there.

    Args:
        names: of parts; none stands for all, of which those are skipped whose libraries are not installed, and the
            others go on where one fails.
        tell: is given a line for each part.

    Raises:
        UserError: there is no such part, or one that was named fails or lacks a library.
    """
    check_parts(names)
    outcome = Outcome({}, {}, {})
    for name in names or PARTS:
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
            write_figures({name: figure}, settings.out)
            tell(describe_figure(name, figure))
    return outcome


def part_function(name: str) -> Callable[[BenchSettings], Figure]:
    """A part's function. Raises ImportError where a library that it needs is not installed."""
    module, _, function = PARTS[name].partition(":")
    found: Callable[[BenchSettings], Figure] = getattr(importlib.import_module(module), function)
    return found
