"""What came of a search: every configuration's means over its seeds, the front, the knee and the choice by weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hbt_ray.config import RunConfig, dump_config
from hbt_ray.errors import UserError
from hbt_ray.search import objectives
from hbt_ray.search.candidates import Candidate, with_alphas
from hbt_ray.search.config import SearchConfig
from hbt_ray.training.checkpoint_metrics import Measurement

State = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration with one seed."""

    name: str
    point: Candidate
    seed: int
    state: State
    measured: Sequence[Measurement]
    alphas: Sequence[tuple[int, float]] = ()  # of pbt: alpha from each batch on
    reason: str = ""  # why it failed

    @property
    def step(self) -> int:
        """Optimizer steps that are known to be done."""
        return self.measured[-1][0] if self.measured else 0

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured last."""
        return self.measured[-1][1]


@dataclass(frozen=True, slots=True)
class Result:
    """A configuration that was trained to the end, with at least one seed."""

    name: str
    values: Mapping[str, Any]
    seeds: tuple[int, ...]
    mean: Mapping[str, float]  # by objective, over the seeds
    deviation: Mapping[str, float]  # sample standard deviation; 0 for one seed
    score: float
    on_front: bool


@dataclass(frozen=True, slots=True)
class SearchResults:
    """All configurations that were trained to the end, the best score first."""

    results: tuple[Result, ...]
    best: Result
    knee: Result
    steps: int  # optimizer steps of all trials together
    test: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # configuration -> metric -> by seed

    @property
    def chosen(self) -> list[Result]:
        """What is measured on the test benchmarks: the choice by weights, and the knee."""
        return list({result.name: result for result in (self.best, self.knee)}.values())


def objective_values(search: SearchConfig, metrics: Mapping[str, float]) -> dict[str, float]:
    """The objectives among a trial's metrics."""
    named = {name: f"{search.dev_name}/{name}" for name in search.objectives}
    return {name: metrics[metric] for name, metric in named.items() if metric in metrics}


def finished_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Those that were trained to the end."""
    return [trial for trial in trials if trial.state == "finished" and trial.measured]


def outcome_of(search: SearchConfig, trials: Sequence[Trial], passages: int) -> SearchResults:
    """What finished trials come to.

    Args:
        passages: of the dev set.

    Raises:
        UserError: no trial was trained to the end.
    """
    finished: dict[str, dict[int, Trial]] = {}  # by configuration and seed
    for trial in finished_trials(trials):
        own = finished.setdefault(trial.name if trial.alphas else trial.point.name, {})
        own.setdefault(trial.seed, trial)
    if not finished:
        reasons = "; ".join(dict.fromkeys(trial.reason for trial in trials if trial.reason)) or "all were stopped early"
        raise UserError(f"no trial came to its end: {reasons}")
    results = [_result(search, name, list(own.values()), passages) for name, own in sorted(finished.items())]
    values = objectives.matrix([result.mean for result in results], list(search.objectives), passages)
    front = objectives.pareto_front(values)
    knee = objectives.knee(values)
    marked = [replace(result, on_front=bool(on_front)) for result, on_front in zip(results, front, strict=True)]
    ordered = tuple(sorted(marked, key=lambda result: (-result.score, result.name)))
    return SearchResults(ordered, ordered[0], marked[knee], sum(trial.step for trial in trials))


def _result(search: SearchConfig, name: str, trials: Sequence[Trial], passages: int) -> Result:
    own = sorted(trials, key=lambda trial: trial.seed)
    measured = [objective_values(search, trial.metrics) for trial in own]
    spread = {key: mean_and_deviation([values[key] for values in measured]) for key in measured[0]}
    mean = {key: mean for key, (mean, _) in spread.items()}
    return Result(
        name,
        dict(own[0].point.values),
        tuple(trial.seed for trial in own),
        mean,
        {key: deviation for key, (_, deviation) in spread.items()},
        objectives.score(mean, search.objectives, passages),
        on_front=False,
    )


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Of one value or more; the sample standard deviation, 0 for one."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def best_config(search: SearchConfig, result: Result, trials: Sequence[Trial]) -> RunConfig:
    """The run of a configuration with its first seed; of pbt with the schedule of alpha that was found."""
    config = Candidate(result.values).config(search.run, result.seeds[0])
    alphas = next((trial.alphas for trial in trials if trial.name == result.name), ())
    return with_alphas(config, alphas) if alphas else config


def write_outcome(search: SearchConfig, outcome: SearchResults, trials: Sequence[Trial], folder: Path) -> None:
    """Leaves `best.yaml`, `trials.parquet` and, written last, `summary.json`.

    What they say depends on the trials alone, not on when they ran or how often they were started.
    """
    (folder / "best.yaml").write_text(dump_config(best_config(search, outcome.best, trials)), encoding="utf-8")
    pq.write_table(trials_table(search, trials), folder / "trials.parquet")
    summary = {
        "objectives": search.objectives,
        "dev": search.dev_name,
        "steps": outcome.steps,
        "best": outcome.best.name,
        "knee": outcome.knee.name,
        "front": [result.name for result in outcome.results if result.on_front],
        "configurations": [asdict(result) for result in outcome.results],
        "test": outcome.test,
        "trials": {
            state: sorted(trial.name for trial in trials if trial.state == state)
            for state in ("finished", "stopped", "failed")
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def trials_table(search: SearchConfig, trials: Sequence[Trial]) -> pa.Table:
    """A row for every measurement.

    Columns: trial, seed, state, step, what was searched (JSON where it is no number), and every metric.
    """
    rows: list[dict[str, Any]] = []
    for trial in sorted(trials, key=lambda trial: trial.name):
        for step, metrics in trial.measured:
            alphas = {"mix.alpha": alpha_at(trial.alphas, step)} if trial.alphas else {}
            searched = {
                key: value if isinstance(value, int | float) else json.dumps(value)
                for key, value in {**trial.point.values, **alphas}.items()
            }
            rows.append(
                {"trial": trial.name, "seed": trial.seed, "state": trial.state, "step": step, **searched, **metrics}
            )
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return pa.table({column: pa.array([row.get(column) for row in rows]) for column in columns})


def alpha_at(alphas: Sequence[tuple[int, float]], batch: int) -> float:
    """The alpha that leads to a batch: that of the last point before it.

    >>> alpha_at([(0, 0.5), (50, 0.7)], 50), alpha_at([(0, 0.5), (50, 0.7)], 51)
    (0.5, 0.7)
    """
    return [alpha for first, alpha in alphas if first < batch or first == 0][-1]
