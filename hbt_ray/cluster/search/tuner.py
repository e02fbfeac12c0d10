"""Run the trials of a search with Ray Tune."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ray import tune

from hbt_ray.cluster.errors import find_hbt_error, unwrap_ray_errors
from hbt_ray.cluster.resources import ResourceRequest
from hbt_ray.cluster.search.algorithms import TUNE_ALGORITHMS
from hbt_ray.cluster.search.algorithms.base import Params
from hbt_ray.cluster.search.progress_callback import TuneProgressCallback, without_tracking
from hbt_ray.cluster.search.trial import is_finished, run_trial, trial_dir, trial_evaluations
from hbt_ray.config import written_variables
from hbt_ray.search.candidates import Candidate
from hbt_ray.search.config import SearchConfig
from hbt_ray.search.results import State, Trial

TUNE = "tune"  # folder of Ray Tune's state
SNAPSHOT_S = 5  # between writes of that state


def run_trials(
    config: SearchConfig,
    candidates: Sequence[Candidate],
    folder: Path,
    request: ResourceRequest,
    stores: Mapping[str, str],
    models: Mapping[str, str],
    progress: TuneProgressCallback,
) -> list[Trial]:
    """Run every trial, or resume those of a search that was stopped.

    Args:
        config: of the search.
        candidates: that are known before the first trial.
        folder: of the search.
        request: resources of each trial, and how many run at a time.
        stores: see `run_trial`.
        models: see `run_trial`.
        progress: shows and tracks the trials.

    Raises:
        KeyboardInterrupt: the search was stopped, and can be resumed.
        ClusterError: Ray failed.
    """
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", str(SNAPSHOT_S))
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    trainable = tune.with_resources(
        tune.with_parameters(
            run_trial,
            search=without_tracking(config),
            out=str(folder),
            stores=stores,
            models=models,
            threads=request.threads,
            variables=written_variables(),
        ),
        tune.PlacementGroupFactory([request.resources]),
    )
    state = str(folder / TUNE)
    if tune.Tuner.can_restore(state):
        tuner = tune.Tuner.restore(state, trainable, resume_unfinished=True, restart_errored=True)
    else:
        algorithm = TUNE_ALGORITHMS[config.algorithm]
        tuner = tune.Tuner(
            trainable,
            param_space=algorithm.param_space(config, candidates),
            tune_config=algorithm.tune_config(config, request.max_concurrent),
            run_config=tune.RunConfig(
                name=TUNE,
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=config.max_failures),
                callbacks=[progress],
                verbose=0,
            ),
        )
    # PopulationBasedTraining draws from the global generators.
    random.seed(config.seed)
    np.random.seed(config.seed)
    with unwrap_ray_errors("searching"):
        results = tuner.fit()
    trials = [_trial_of(config, folder, result.config, result.path, result.error) for result in results]
    # Tuner.fit() catches KeyboardInterrupt and returns as usual, with unfinished trials.
    if any(trial.status not in ("TERMINATED", "ERROR") for trial in results._experiment_analysis.trials):
        raise KeyboardInterrupt
    return trials


def _trial_of(config: SearchConfig, folder: Path, params: Params, path: str, error: Exception | None) -> Trial:
    algorithm = TUNE_ALGORITHMS[config.algorithm]
    trial = algorithm.identify(config, params, Path(path).name)
    run_dir = trial_dir(folder, config.run, trial.name)
    state: State = "stopped"
    if is_finished(run_dir, config.run):
        state = "finished"
    elif error is not None:
        state = "failed"
    return Trial(
        name=trial.name,
        candidate=trial.candidate,
        seed=trial.seed,
        state=state,
        evaluations=trial_evaluations(run_dir),
        alphas=algorithm.alphas(run_dir),
        reason="" if error is None else str(find_hbt_error(error) or str(error).strip().splitlines()[-1]),
    )
