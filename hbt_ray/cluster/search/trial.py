"""One trial: the function that Ray Tune runs, and the trial's folder."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from ray import tune

from hbt_ray.cluster.runtime import configure_task
from hbt_ray.cluster.search.algorithms import TUNE_ALGORITHMS
from hbt_ray.cluster.search.algorithms.base import METRICS, SCORE, STEP
from hbt_ray.cluster.training.train_run import train_run
from hbt_ray.config import RunConfig, WrittenVariables, keep_written_variables, replace_in
from hbt_ray.errors import StorageError
from hbt_ray.search.config import SearchConfig
from hbt_ray.search.dev_set import dev_set, dev_set_metrics
from hbt_ray.search.objectives import score
from hbt_ray.search.results import objective_values
from hbt_ray.training.checkpoint_metrics import Measurement, evaluated_steps, load_checkpoint_metrics
from hbt_ray.training.run_dir import RunDir, run_dir_of
from hbt_ray.training.task import ContrastiveTask
from hbt_ray.utils.atomic_write import atomic_write_text
from hbt_ray.utils.digests import with_checksum, without_checksum

FINISHED = "finished"  # in the folder of a trial that was trained to the end: the steps of its evaluations
_EVALUATED = "evaluated"


class _BranchEnded(Exception):
    """Ends the training of a branch at its last step."""


def trial_dir(out: Path, config: RunConfig, name: str) -> RunDir:
    """Return the run folder of a trial: `trials/<name>` in the search's folder."""
    return run_dir_of(config, out / "trials" / name, out)


def is_finished(run_dir: RunDir, config: RunConfig) -> bool:
    """Return True if a trial, whose run is `config`, was trained to the end.

    A scheduler ends a trial when it reports its last step, before it can write FINISHED.
    """
    return (run_dir.path / FINISHED).exists() or config.train.steps in evaluated_steps(run_dir.checkpoint_metrics)


def trial_evaluations(run_dir: RunDir) -> list[Measurement]:
    """Return the evaluations of a trial.

    Raises:
        StorageError: one is damaged, or one that the finished trial had is missing.
    """
    evaluations = load_checkpoint_metrics(run_dir.checkpoint_metrics, can_repeat=False)
    marker = run_dir.path / FINISHED
    try:
        text = marker.read_text(encoding="utf-8") if marker.exists() else ""
        listed = list(without_checksum(text)[_EVALUATED]) if text else []  # empty in an earlier version
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{marker} is damaged ({error}); write another --out") from None
    missing = [step for step in listed if step not in dict(evaluations)]
    if missing:
        raise StorageError(
            f"{run_dir.checkpoint_metrics} has not the metrics of step {missing[0]}; write another --out"
        )
    return evaluations


def run_trial(
    params: dict[str, object],
    *,
    search: SearchConfig,
    out: str,
    stores: Mapping[str, str],
    models: Mapping[str, str],
    threads: int,
    variables: WrittenVariables,
) -> None:
    """Train a trial, evaluate it on the dev set and report to Tune; resume it from its newest checkpoint.

    Args:
        params: of the trial, in Tune.
        search: its settings.
        out: the search's folder.
        stores: `store_key` of a run -> its token store.
        models: `model_key` of a run -> its initial encoder.
        threads: of torch.
        variables: of the driver, see `written_variables`.
    """
    configure_task(threads)
    keep_written_variables(variables)
    algorithm = TUNE_ALGORITHMS[search.algorithm]
    trial = algorithm.identify(search, params, tune.get_context().get_trial_id())
    config = trial.config(search.run)
    run_dir = trial_dir(Path(out), config, trial.name)
    run_dir.write_config(config)
    algorithm.start_trial(run_dir, params)
    store, model = stores[config.store_key], models[config.model_key]
    dev = dev_set(search.dev, store, config)

    def report(step: int, metrics: dict[str, float]) -> None:
        values = objective_values(search, metrics)
        result: dict[str, object] = {
            STEP: step,
            METRICS: metrics,
            SCORE: score(values, search.objectives, len(dev.passages)),
            **values,
        }
        tune.report(result)
        if step == trial.until and step < config.train.steps:
            raise _BranchEnded

    every = trial.until or search.measure_every or config.train.steps
    config = _checkpoint_at_evaluations(config, every)
    task = ContrastiveTask(config, model, functools.partial(dev_set_metrics, dev=search.dev, store=store))
    try:
        train_run(task, store, run_dir, every=every, on_metrics=report)
    except _BranchEnded:
        return
    evaluated = {_EVALUATED: evaluated_steps(run_dir.checkpoint_metrics)}
    atomic_write_text(run_dir.path / FINISHED, with_checksum(evaluated))


def _checkpoint_at_evaluations(config: RunConfig, every: int) -> RunConfig:
    """Return the run with a checkpoint due at each evaluation: at a divisor of `every`, or at `every`."""
    checkpoint_every = min(config.train.checkpoint_every, every)
    if every % checkpoint_every:
        checkpoint_every = every
    return replace_in(config, "train.checkpoint_every", checkpoint_every)
