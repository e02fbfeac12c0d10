"""The results of a search: means over seeds, Pareto front, knee and best candidate; `best.yaml` and the other files."""

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
from hbt_ray.search.candidates import Candidate, Mixture, with_mixtures
from hbt_ray.search.config import SearchConfig
from hbt_ray.training.checkpoint_metrics import Measurement

SUMMARY = "summary.json"  # put in place last
State = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate with one seed."""

    name: str
    candidate: Candidate
    seed: int
    state: State
    evaluations: Sequence[Measurement]  # on the dev set, in the order of their steps
    mixtures: Sequence[Mixture] = ()  # of branch: those that led to its weights
    first_step: int = 0  # of branch: the step of its parent
    reason: str = ""  # why it failed

    @property
    def step(self) -> int:
        """The optimizer step of the last evaluation."""
        return self.evaluations[-1][0] if self.evaluations else 0

    @property
    def steps_trained(self) -> int:
        """Optimizer steps up to the last evaluation, without those of its parent."""
        return max(self.step - self.first_step, 0)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last evaluation."""
        return self.evaluations[-1][1]


@dataclass(frozen=True, slots=True)
class CandidateResult:
    """A candidate that is ranked. The fields are those in `summary.json`."""

    name: str
    values: Mapping[str, Any]
    seeds: tuple[int, ...]
    mean: Mapping[str, float]  # by objective, over the seeds
    deviation: Mapping[str, float]  # sample standard deviation; 0 for one seed
    score: float
    on_front: bool


@dataclass(frozen=True, slots=True)
class SearchResults:
    """The candidates of which the most seeds finished: means over fewer seeds are not comparable."""

    ranked: tuple[CandidateResult, ...]  # the best score first
    best: CandidateResult
    knee: CandidateResult
    steps: int  # optimizer steps of all trials together
    test: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # candidate -> metric -> by seed
    untrained: Mapping[str, float] = field(default_factory=dict)  # objectives of the encoder before training
    incomplete: tuple[str, ...] = ()  # candidates of which fewer seeds finished

    @property
    def warnings(self) -> list[str]:
        """Say which candidates are not ranked, and where the choice is worse than the untrained encoder."""
        seeds, incomplete = len(self.best.seeds), ", ".join(self.incomplete)
        not_ranked = [f"not ranked, because fewer than {seeds} of their seeds finished: {incomplete}"]
        return (not_ranked if self.incomplete else []) + [
            f"{self.best.name} is worse within a language than the untrained encoder: {name} "
            f"{self.best.mean[name]:.3f} against {value:.3f}; weigh {name} more in objectives, or train longer"
            for name, value in self.untrained.items()
            if name.startswith("mono/") and name in self.best.mean and self._is_worse(name, value)
        ]

    def _is_worse(self, name: str, untrained: float) -> bool:
        better = objectives.find_objective_metric(name).higher_is_better
        return self.best.mean[name] < untrained if better else self.best.mean[name] > untrained

    @property
    def chosen(self) -> list[CandidateResult]:
        """The candidates to evaluate on the test benchmarks: the best one and the knee."""
        return list({result.name: result for result in (self.best, self.knee)}.values())

    def roles_of(self, result: CandidateResult) -> list[str]:
        """Return "choice" for the best candidate, "knee" for the knee, both, or nothing."""
        roles = {"choice": self.best, "knee": self.knee}
        return [role for role, chosen in roles.items() if chosen.name == result.name]


def objective_values(search: SearchConfig, metrics: Mapping[str, float]) -> dict[str, float]:
    """Select the objectives from a trial's metrics."""
    full_names = {name: f"{search.dev_name}/{name}" for name in search.objectives}
    return {name: metrics[full] for name, full in full_names.items() if full in metrics}


def finished_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that were trained to the end."""
    return [trial for trial in trials if trial.state == "finished" and trial.evaluations]


def search_results(search: SearchConfig, trials: Sequence[Trial], passages: int) -> SearchResults:
    """Compute the results of finished trials.

    1. Average the objectives of each candidate over its seeds, of those of which the most seeds finished.
    2. Find the Pareto front and its knee among these means.
    3. Rank the candidates by their score, in which each objective is scaled by its range on the front.

    Args:
        search: its settings.
        trials: all of them.
        passages: of the dev set.

    Raises:
        UserError: no trial finished.
    """
    by_candidate: dict[str, dict[int, Trial]] = {}  # name -> seed -> trial
    for trial in finished_trials(trials):
        # The values of a training with branches change, so each of its last branches is a candidate.
        name = trial.name if trial.mixtures else trial.candidate.name
        by_candidate.setdefault(name, {}).setdefault(trial.seed, trial)
    if not by_candidate:
        reasons = "; ".join(dict.fromkeys(trial.reason for trial in trials if trial.reason)) or "all were stopped early"
        raise UserError(f"no trial came to its end: {reasons}")
    most = max(map(len, by_candidate.values()))
    complete = {name: by_seed for name, by_seed in sorted(by_candidate.items()) if len(by_seed) == most}
    results = [_candidate_result(search, name, list(by_seed.values())) for name, by_seed in complete.items()]
    values = objectives.scaled_objectives([result.mean for result in results], list(search.objectives), passages)
    front = objectives.pareto_front(values)
    scores = objectives.compromise_scores(values, list(search.objectives.values()))
    knee = objectives.knee(values)
    marked = [
        replace(result, score=float(score), on_front=bool(on_front))
        for result, score, on_front in zip(results, scores, front, strict=True)
    ]
    ranked = tuple(sorted(marked, key=lambda result: (-result.score, not result.on_front, result.name)))
    steps = sum(trial.steps_trained for trial in trials)
    incomplete = tuple(name for name in sorted(by_candidate) if name not in complete)
    return SearchResults(ranked, ranked[0], marked[knee], steps, incomplete=incomplete)


def _candidate_result(search: SearchConfig, name: str, trials: Sequence[Trial]) -> CandidateResult:
    by_seed = sorted(trials, key=lambda trial: trial.seed)
    rows = [objective_values(search, trial.metrics) for trial in by_seed]
    spread = {key: mean_and_deviation([row[key] for row in rows]) for key in rows[0]}
    mean = {key: mean for key, (mean, _) in spread.items()}
    return CandidateResult(
        name,
        dict(by_seed[0].candidate.values),
        tuple(trial.seed for trial in by_seed),
        mean,
        {key: deviation for key, (_, deviation) in spread.items()},
        score=0.0,  # which needs the other candidates
        on_front=False,
    )


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation of one value or more; the latter is 0 for one value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def trial_config(search: SearchConfig, trial: Trial) -> RunConfig:
    """Return the run of a trial; of branch with the schedule of mixtures that was found."""
    config = trial.candidate.config(search.run, trial.seed)
    return with_mixtures(config, trial.mixtures) if trial.mixtures else config


def best_config(search: SearchConfig, result: CandidateResult, trials: Sequence[Trial]) -> RunConfig:
    """Return the run of a candidate with its first seed."""
    finished = [trial for trial in finished_trials(trials) if result.name in (trial.name, trial.candidate.name)]
    return trial_config(search, min(finished, key=lambda trial: trial.seed))


def write_results(search: SearchConfig, results: SearchResults, trials: Sequence[Trial], folder: Path) -> None:
    """Write `best.yaml`, `trials.parquet` and `SUMMARY`.

    Their contents depend only on the trials, not on when they ran or how often they were restarted.
    """
    (folder / "best.yaml").write_text(dump_config(best_config(search, results.best, trials)), encoding="utf-8")
    pq.write_table(trials_table(search, trials), folder / "trials.parquet")
    summary = {
        "objectives": search.objectives,
        "dev": search.dev_name,
        "steps": results.steps,
        "best": results.best.name,
        "knee": results.knee.name,
        "front": [result.name for result in results.ranked if result.on_front],
        "configurations": [asdict(result) for result in results.ranked],
        "test": results.test,
        "untrained": dict(results.untrained),
        "incomplete": results.incomplete,
        "warnings": results.warnings,
        "trials": {
            state: sorted(trial.name for trial in trials if trial.state == state)
            for state in ("finished", "stopped", "failed")
        },
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def trials_table(search: SearchConfig, trials: Sequence[Trial]) -> pa.Table:
    """Return a table with a row for each evaluation of each trial.

    Columns: trial, seed, state, step, the searched settings (JSON unless a number), and every metric.
    """
    rows: list[dict[str, object]] = []
    for trial in sorted(trials, key=lambda trial: trial.name):
        for step, metrics in trial.evaluations:
            searched = {
                key: value if isinstance(value, int | float) else json.dumps(value)
                for key, value in trial.candidate.values.items()
            }
            rows.append(
                {"trial": trial.name, "seed": trial.seed, "state": trial.state, "step": step, **searched, **metrics}
            )
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return pa.table({column: pa.array([row.get(column) for row in rows]) for column in columns})
