"""Ray Tune told what a search is: how its points are drawn, which trials are stopped, how many there is room for."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.samplers import NSGAIISampler, TPESampler
from ray import tune
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, PopulationBasedTraining, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Repeater
from ray.tune.search.optuna import OptunaSearch

from hbt_ray.cluster.errors import find_hbt_error, unwrap_ray_errors
from hbt_ray.cluster.resources import ResourceRequest
from hbt_ray.cluster.search.progress_callback import TuneProgressCallback
from hbt_ray.cluster.search.trial import SCORE, STEP, came_to_its_end, named, read_alphas, trial_folder, trial_main
from hbt_ray.search.candidates import Candidate, rounded
from hbt_ray.search.config import SearchConfig, SearchDimension
from hbt_ray.search.objectives import find_objective_metric
from hbt_ray.search.results import State, Trial
from hbt_ray.training.checkpoint_metrics import load_checkpoint_metrics

TUNE = "tune"  # folder of what Ray Tune keeps


def try_all(
    config: SearchConfig,
    points: Sequence[Candidate],
    folder: Path,
    room: ResourceRequest,
    stores: Mapping[str, str],
    models: Mapping[str, str],
    watch: TuneProgressCallback,
) -> list[Trial]:
    """Runs every trial, or goes on with those of a search that was stopped.

    Args:
        stores, models: as those of `trial_main`.

    Raises:
        KeyboardInterrupt: the search was stopped, and can be gone on with.
        ClusterError: Ray failed.
    """
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "5")  # seconds between notes of how far the search is
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    trainable = tune.with_resources(
        tune.with_parameters(
            trial_main, search=config, out=str(folder), stores=stores, models=models, threads=room.threads
        ),
        tune.PlacementGroupFactory([room.resources]),
    )
    place = str(folder / TUNE)
    if tune.Tuner.can_restore(place):
        tuner = tune.Tuner.restore(place, trainable, resume_unfinished=True, restart_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=_param_space(config, points),
            tune_config=_tune_config(config, room),
            run_config=tune.RunConfig(
                name=TUNE,
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=config.max_failures),
                callbacks=[watch],
                verbose=0,
            ),
        )
    random.seed(config.seed)  # by which a population is explored
    np.random.seed(config.seed)
    with unwrap_ray_errors("searching"):
        results = tuner.fit()
    trials = [_trial(config, folder, result.config, result.path, result.error) for result in results]
    # Tune takes Ctrl-C for itself, and returns as if nothing had been.
    if any(trial.status not in ("TERMINATED", "ERROR") for trial in results._experiment_analysis.trials):
        raise KeyboardInterrupt
    return trials


def _trial(config: SearchConfig, folder: Path, params: Mapping[str, Any], path: str, error: Exception | None) -> Trial:
    own = named(config, params, Path(path).name)
    place = trial_folder(folder, config.run, own.name)
    state: State = "stopped"
    if came_to_its_end(place, config.run):
        state = "finished"
    elif error is not None:
        state = "failed"
    reason = "" if error is None else str(find_hbt_error(error) or str(error).strip().splitlines()[-1])
    return Trial(
        own.name, own.point, own.seed, state, load_checkpoint_metrics(place.measured), read_alphas(place), reason
    )


def _dirname(trial: Any) -> str:
    """A trial's folder in Tune is called by its id, by which `named` knows it."""
    return str(trial.trial_id)


def _param_space(config: SearchConfig, points: Sequence[Candidate]) -> dict[str, Any]:
    if config.algorithm == "pbt":
        return {"mix.alpha": tune.grid_search([point.values["mix.alpha"] for point in points])}
    if config.algorithm in ("tpe", "nsga2"):
        return {key: _domain(axis) for key, axis in config.space.items()}
    tried = [{"values": dict(point.values), "seed": seed} for point in points for seed in config.seeds]
    return {"trial": tune.grid_search(tried)}


def _domain(axis: SearchDimension) -> Any:
    if axis.values is not None:
        return tune.choice(list(axis.values))
    if axis.integers:
        return tune.randint(axis.integers[0], axis.integers[1] + 1)
    if axis.loguniform:
        return tune.loguniform(*axis.loguniform)
    assert axis.uniform
    return tune.uniform(*axis.uniform)


def _tune_config(config: SearchConfig, room: ResourceRequest) -> Any:
    if config.algorithm not in ("tpe", "nsga2"):
        return tune.TuneConfig(
            scheduler=_scheduler(config),
            # The members of a population wait for each other: each must have begun.
            max_concurrent_trials=None if config.algorithm == "pbt" else room.max_concurrent,
            # A member that goes on in the process of another one may end with that one's thread (Ray 2.60).
            reuse_actors=config.algorithm != "pbt",
            trial_dirname_creator=_dirname,
        )
    searcher: Any
    if config.algorithm == "tpe":
        # Half of the trials teach it before it models them; what each of them draws is a function of the seed.
        sampler = TPESampler(seed=config.seed, n_startup_trials=max(config.configurations // 2, 1))
        searcher = OptunaSearch(metric=SCORE, mode="max", sampler=sampler)
        searcher = ConcurrencyLimiter(searcher, max_concurrent=max(room.max_concurrent // len(config.seeds), 1))
        if len(config.seeds) > 1:
            searcher = Repeater(searcher, repeat=len(config.seeds))
    else:
        genetic = NSGAIISampler(seed=config.seed, population_size=max(config.configurations // 3, 2))
        names = list(config.objectives)
        modes = ["max" if find_objective_metric(name).higher_is_better else "min" for name in names]
        searcher = ConcurrencyLimiter(OptunaSearch(metric=names, mode=modes, sampler=genetic), room.max_concurrent)
    return tune.TuneConfig(
        search_alg=searcher,
        scheduler=_scheduler(config),
        num_samples=config.configurations * len(config.seeds),
        reuse_actors=True,
        trial_dirname_creator=_dirname,
    )


def _scheduler(config: SearchConfig) -> TrialScheduler | None:
    grace = config.grace_steps or config.every
    of_score: dict[str, Any] = {"time_attr": STEP, "metric": SCORE, "mode": "max"}
    if config.algorithm == "pbt":
        low, high = _bounds(config.space["mix.alpha"])
        return PopulationBasedTraining(
            **of_score,
            perturbation_interval=config.every,
            hyperparam_mutations={"mix.alpha": tune.uniform(low, high)},
            custom_explore_fn=functools.partial(_within, low, high),
            synch=True,
            log_config=False,
        )
    if config.stopping == "asha":
        return ASHAScheduler(
            **of_score,
            max_t=config.run.train.steps,
            grace_period=grace,
            reduction_factor=1 / config.keep_share,
        )
    if config.stopping == "median":
        return MedianStoppingRule(**of_score, grace_period=grace, min_samples_required=2)
    return None


def _bounds(axis: SearchDimension) -> tuple[float, float]:
    bounds = axis.uniform or axis.loguniform or axis.integers
    if bounds:
        return float(bounds[0]), float(bounds[1])
    values = [float(value) for value in axis.values or ()]
    return min(values), max(values)


def _within(low: float, high: float, params: dict[str, Any]) -> dict[str, Any]:
    """A perturbed alpha that is one still."""
    return params | {"mix.alpha": rounded(min(max(params["mix.alpha"], low), high))}
