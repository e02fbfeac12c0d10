"""Population Based Training over alpha: the scheduler, and how a member takes over another one's checkpoint.

Tune hands a checkpoint folder from one trial, a member of the population, to another. The folder holds:

    step-*/          our checkpoint
    measured.json    the evaluations up to it
    alphas.json      (first batch, alpha) of the schedule that led to it

1. At each evaluation a member reports such a folder with its metrics (`report`).
2. The scheduler lets bad members continue from the folder of a good one, with a perturbed alpha.
3. A member that starts or resumes replaces its checkpoints, evaluations and schedule by those of the folder that it
   received and, if alpha changed, extends the schedule from the checkpoint on (`start_trial`).
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from hbt_ray.cluster.search.algorithms.base import (
    SCORE_BY_STEP,
    Params,
    TrialIdentity,
    TuneAlgorithm,
    trial_dirname,
)
from hbt_ray.config import RunConfig
from hbt_ray.errors import StorageError
from hbt_ray.search.candidates import Candidate, round_drawn, with_alphas
from hbt_ray.search.config import SearchConfig, SearchDimension
from hbt_ray.training.checkpoint import CheckpointManager, step_name
from hbt_ray.training.checkpoint_metrics import load_checkpoint_metrics, save_checkpoint_metrics
from hbt_ray.training.run_dir import RunDir
from hbt_ray.utils.atomic_write import atomic_write_text
from hbt_ray.utils.digests import JsonObject, with_checksum, without_checksum

KEY = "mix.alpha"
ALPHAS = "alphas.json"  # in a member's folder, and in the folder that is handed over
EVALUATIONS = "measured.json"


class TunePBT(TuneAlgorithm):
    """Ray Tune's PopulationBasedTraining; each trial is a member of the population."""

    # The scheduler remembers the members' reports and would count a repeated one as more training.
    replays_reports = False

    def param_space(self, search: SearchConfig, candidates: Sequence[Candidate]) -> dict[str, object]:
        return {KEY: tune.grid_search([candidate.values[KEY] for candidate in candidates])}

    def identify(self, search: SearchConfig, params: Params, trial_id: str) -> TrialIdentity:
        # Parameters do not identify a member: they become another's when it takes over that one's checkpoint.
        member = f"member={int(trial_id.rpartition('_')[2])}"
        return TrialIdentity(member, Candidate({KEY: params[KEY]}), search.seeds[0])

    def tune_config(self, search: SearchConfig, max_concurrent: int) -> tune.TuneConfig:
        return tune.TuneConfig(
            scheduler=self.scheduler(search),
            # Members wait for each other, so all of them must have started.
            max_concurrent_trials=None,
            # A member that continues in the process of another one may end with that one's thread (Ray 2.60).
            reuse_actors=False,
            trial_dirname_creator=trial_dirname,
        )

    def scheduler(self, search: SearchConfig) -> PopulationBasedTraining:
        low, high = _min_and_max(search.space[KEY])
        return PopulationBasedTraining(
            **SCORE_BY_STEP,
            perturbation_interval=search.every,
            hyperparam_mutations={KEY: tune.uniform(low, high)},
            custom_explore_fn=functools.partial(_clip_alpha, low, high),
            synch=True,
            log_config=False,
        )

    def start_trial(self, config: RunConfig, run_dir: RunDir, params: Params) -> RunConfig:
        _take_over_checkpoint(run_dir)
        return with_alphas(config, _extend_schedule(run_dir, float(params[KEY]), config))

    def report(self, step: int, result: dict[str, object], run_dir: RunDir) -> None:
        with tempfile.TemporaryDirectory() as folder:
            _write_checkpoint(run_dir, step, Path(folder))
            tune.report(result, checkpoint=tune.Checkpoint.from_directory(folder))

    def logged_values(self, params: Params) -> dict[str, float]:
        return {"alpha": float(params[KEY])}

    def alphas(self, run_dir: RunDir) -> list[tuple[int, float]]:
        file = run_dir.path / ALPHAS
        has_begun = file.exists() or run_dir.checkpoint_metrics.names()  # a trial is evaluated after it has a schedule
        return [(batch, alpha) for batch, alpha in _read(file, "alphas")] if has_begun else []


def _write_checkpoint(run_dir: RunDir, step: int, folder: Path) -> None:
    """Write everything that another member needs to continue from this one's checkpoint."""
    checkpoint = run_dir.checkpoints / step_name(step)
    if checkpoint.exists():
        checkpoint.download(folder / step_name(step))
    evaluations = [
        evaluation for evaluation in load_checkpoint_metrics(run_dir.checkpoint_metrics) if evaluation[0] <= step
    ]
    (folder / EVALUATIONS).write_text(with_checksum({"evaluations": evaluations}))
    shutil.copy(run_dir.path / ALPHAS, folder / ALPHAS)


def _take_over_checkpoint(run_dir: RunDir) -> None:
    """Replace this member's state by what Tune handed to it, if anything: its last checkpoint, or a better one's."""
    handed_over = tune.get_checkpoint()
    if handed_over is None:
        return
    with handed_over.as_directory() as folder:
        for state in (run_dir.checkpoints, run_dir.checkpoint_metrics):
            state.delete()
        for checkpoint in sorted(Path(folder).glob("step-*")):
            target = run_dir.checkpoints / checkpoint.name
            if target.local:
                shutil.copytree(checkpoint, target.local)
            else:
                target.upload(checkpoint, last="complete.json")
        for step, metrics in _read(Path(folder, EVALUATIONS), "evaluations"):
            save_checkpoint_metrics(run_dir.checkpoint_metrics, step, metrics)
        shutil.copy(Path(folder, ALPHAS), run_dir.path / ALPHAS)


def _extend_schedule(run_dir: RunDir, alpha: float, config: RunConfig) -> list[tuple[int, float]]:
    """Write and return the schedule, with a new alpha from the newest checkpoint on."""
    alphas = TunePBT().alphas(run_dir) or [(0, alpha)]
    steps = CheckpointManager(run_dir.checkpoints).steps()
    batch = (steps[-1] if steps else 0) * config.train.gradient_accumulation
    if alphas[-1][1] != alpha:
        alphas = [point for point in alphas if point[0] < batch] + [(batch, alpha)]
    atomic_write_text(run_dir.path / ALPHAS, with_checksum({"alphas": alphas}))
    return alphas


def _read(file: Path, key: str) -> list[Any]:
    """Read a list that this module has written. Raise StorageError if it is not as it was written."""
    try:
        values: list[Any] = without_checksum(file.read_text())[key]
        if not all(isinstance(value, list) and len(value) == 2 for value in values):
            raise ValueError("it holds no list of pairs")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{file} is damaged ({error}); write another --out") from None
    return values


def _min_and_max(dimension: SearchDimension) -> tuple[float, float]:
    if dimension.bounds:
        return float(dimension.bounds[0]), float(dimension.bounds[1])
    values = [float(value) for value in dimension.values or ()]
    return min(values), max(values)


def _clip_alpha(low: float, high: float, params: JsonObject) -> JsonObject:
    """Keep a perturbed alpha within the searched range."""
    return params | {KEY: round_drawn(min(max(params[KEY], low), high))}
