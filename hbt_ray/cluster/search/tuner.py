"""Run the trials of a search with Ray Tune."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ray import tune

from hbt_ray.cluster.errors import find_hbt_error, unwrap_ray_errors
from hbt_ray.cluster.resources import ResourceRequest
from hbt_ray.cluster.search.algorithms import TUNE_ALGORITHMS
from hbt_ray.cluster.search.algorithms.base import Params
from hbt_ray.cluster.search.progress_callback import TuneProgressCallback, without_tracking
from hbt_ray.cluster.search.trial import is_finished, run_trial, trial_dir, trial_evaluations
from hbt_ray.config import written_variables
from hbt_ray.errors import ConfigError
from hbt_ray.search.candidates import Candidate
from hbt_ray.search.config import SearchConfig
from hbt_ray.search.results import State, Trial

TUNE = "tune"  # folder of Ray Tune's state
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
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
    with _no_write_by_others(), unwrap_ray_errors("searching"):
        if tune.Tuner.can_restore(str(folder / TUNE)):
            tuner = restore(folder / TUNE, trainable)
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
        results = tuner.fit()
    trials = [_trial_of(config, folder, result.config, result.path, result.error) for result in results]
    # Tuner.fit() catches KeyboardInterrupt and returns as usual, with unfinished trials.
    if any(trial.status not in ("TERMINATED", "ERROR") for trial in results._experiment_analysis.trials):
        raise KeyboardInterrupt
    return trials


@contextlib.contextmanager
def _no_write_by_others() -> Iterator[None]:
    """Write files that only this user can write, whatever the umask; else `check_trusted` would refuse them later."""
    before = os.umask(0)
    os.umask(before | _OTHERS_WRITE)
    try:
        yield
    finally:
        os.umask(before)


def restore(state: Path, trainable: object) -> tune.Tuner:
    """Load the state of a search that was stopped, the folder `tune`.

    Raises:
        ConfigError: another user may have written it, or it is of another version.
    """
    check_trusted(state)
    try:
        # Not restart_errored, which gives failed trials other ids: unknown to searchers, and in names of tpe's folders.
        return tune.Tuner.restore(str(state), trainable, resume_unfinished=True, resume_errored=True)
    except Exception as error:  # of what was pickled: of any class
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ConfigError(
            f"the search in {state.parent} cannot be resumed, as one of another version of hbt_ray or Ray ({reason}); "
            "write another --out, or delete it"
        ) from error


def check_trusted(state: Path) -> None:
    """Check that only this user, or root, can have written what is unpickled: that can run any code.

    As sshd does it with its keys: owner and mode of the folder and of the files in it. What another user puts in the
    place of the folder belongs to that user, so the folders above need no check.

    Raises:
        ConfigError: another user can have written it.
    """
    for path in (state, *(path for path in state.iterdir() if not path.is_dir())):
        found = path.lstat()
        code = f"{path}, and resuming a search runs the code that it holds; if you trust it"
        if found.st_uid not in (os.geteuid(), 0):
            raise ConfigError(f"another user owns {code}, chown {state} and its files, or write another --out")
        if found.st_mode & _OTHERS_WRITE:
            raise ConfigError(f"other users may write {code}, chmod go-w {state} {state}/*, or write another --out")


def _trial_of(config: SearchConfig, folder: Path, params: Params, path: str, error: Exception | None) -> Trial:
    algorithm = TUNE_ALGORITHMS[config.algorithm]
    trial = algorithm.identify(config, params, Path(path).name)
    run = trial.config(config.run)
    run_dir = trial_dir(folder, run, trial.name)
    state: State = "stopped"
    if is_finished(run_dir, run):
        state = "finished"
    elif error is not None:
        state = "failed"
    return Trial(
        name=trial.name,
        candidate=trial.candidate,
        seed=trial.seed,
        state=state,
        evaluations=trial_evaluations(run_dir),
        mixtures=trial.mixtures,
        first_step=trial.first_step,
        reason="" if error is None else str(find_hbt_error(error) or str(error).strip().splitlines()[-1]),
    )
