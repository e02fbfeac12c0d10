"""Show a search's progress in the terminal, and track each trial as an MLflow run."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ray import tune
from rich.console import Console
from rich.live import Live
from rich.table import Table

from hbt_ray.cluster.search.algorithms import TUNE_ALGORITHMS, TrialIdentity
from hbt_ray.cluster.search.algorithms.base import METRICS, STEP
from hbt_ray.cluster.search.trial import is_finished, trial_dir
from hbt_ray.cluster.tracked_run import start_tracker
from hbt_ray.config import TrackingConfig, replace_in
from hbt_ray.errors import TrackingError
from hbt_ray.evaluation.metrics import display_name, find_metric, tracked_metrics
from hbt_ray.evaluation.report import format_value
from hbt_ray.search.algorithms import ALGORITHMS
from hbt_ray.search.config import SearchConfig
from hbt_ray.search.results import State, objective_values
from hbt_ray.tracking import Tracker
from hbt_ray.utils.digests import JsonObject
from hbt_ray.utils.progress import duration, print_line
from hbt_ray.utils.terminal_table import fit_table

if TYPE_CHECKING:
    from ray.tune.experiment import Trial as TuneTrial


def without_tracking(search: SearchConfig) -> SearchConfig:
    """Return a search with the default tracking: neither trials nor the files of Tune need the store's URI."""
    return replace_in(search, "run.tracking", TrackingConfig())


class TuneProgressCallback(tune.Callback):
    """Show and track the trials of a search.

    Tune pickles this callback into a file of the experiment. Nothing of it is pickled: the class has what is of this
    call, the settings, which may have secrets, the folder, which may have been moved or copied since, and the tracking
    store; trackers and the live table are created again.
    """

    search: ClassVar[SearchConfig]
    experiment: ClassVar[str]
    out: ClassVar[Path]
    uri: ClassVar[str]
    parent_run_id: ClassVar[str]

    def __init__(self, search: SearchConfig, out: Path, uri: str, parent_run_id: str) -> None:
        type(self).search, type(self).experiment = without_tracking(search), search.run.tracking.experiment
        type(self).out, type(self).uri, type(self).parent_run_id = out, uri, parent_run_id
        self._reset()

    def _reset(self) -> None:
        self._algorithm = TUNE_ALGORITHMS[self.search.algorithm]
        self._trackers: dict[str, Tracker] = {}
        self._tracked_steps: dict[str, set[int]] = {}  # of each trial, since this driver started
        self._rows: dict[str, tuple[str, ...]] = {}
        self._values: dict[str, float] = {}  # of each trial, the newest of the first objective
        self._began_s = time.monotonic()
        self._live: Live | None = None

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        self._reset()  # the state of earlier versions has settings

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        self._tracker(trial)
        self._show(trial, "running", {})

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: JsonObject, **info: object
    ) -> None:
        if STEP not in result:
            return
        step, metrics = int(result[STEP]), dict(result[METRICS])
        tracker = self._tracker(trial)
        tracked_steps = self._tracked_steps.setdefault(trial.trial_id, set())
        if tracker is not None and step not in tracked_steps:
            objectives = {f"{self.search.dev_name}/{name}" for name in self.search.objectives}
            of_training = {name: v for name, v in metrics.items() if name.startswith("train/") or name in objectives}
            logged = tracked_metrics(metrics) | of_training
            tracker.log_metrics(logged, step)
        tracked_steps.add(step)
        self._show(trial, "running", metrics, step)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        identity = self._identify(trial)
        config = identity.config(self.search.run)
        run_dir = trial_dir(self.out, config, identity.name)
        self._finish(trial, "finished" if is_finished(run_dir, config) else "stopped")

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        self._finish(trial, "failed")

    def on_experiment_end(self, trials: list[TuneTrial], **info: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _identify(self, trial: TuneTrial) -> TrialIdentity:
        return self._algorithm.identify(self.search, trial.config, trial.trial_id)

    def _finish(self, trial: TuneTrial, state: State) -> None:
        result = trial.last_result or {}
        self._show(trial, state, dict(result.get(METRICS) or {}), int(result.get(STEP, 0)))
        tracker = self._tracker(trial)
        if tracker is None:
            return
        try:
            tracker.set_tags({"state": state})
            tracker.finish("FAILED" if state == "failed" else "FINISHED")
        except TrackingError as error:
            print_line(f"not tracked: {error}")

    def _tracker(self, trial: TuneTrial) -> Tracker | None:
        """Return the tracker of the trial's MLflow run; None, with a warning, while MLflow does not answer."""
        if trial.trial_id not in self._trackers:
            identity = self._identify(trial)
            config = identity.config(self.search.run)
            run_dir = trial_dir(self.out, config, identity.name)
            run_dir.path.mkdir(parents=True, exist_ok=True)
            searched = {f"searched.{key}": value for key, value in identity.candidate.values.items()}
            tags = {"mlflow.parentRunId": self.parent_run_id, "search": self.search.run.name, **searched}
            try:
                tracker = start_tracker(self.uri, self.experiment, identity.name, config, run_dir, tags)
            except TrackingError as error:
                print_line(f"not tracked: {error}")
                return None
            self._trackers[trial.trial_id] = tracker
        return self._trackers[trial.trial_id]

    def _show(self, trial: TuneTrial, state: State, metrics: dict[str, float], step: int = 0) -> None:
        """Update the live table; where stderr is no terminal, print a line if the trial's row changed."""
        identity = self._identify(trial)
        name, steps = identity.name, identity.config(self.search.run).train.steps
        values = objective_values(self.search, metrics)
        shown = [format_value(f"/{objective}", values.get(objective)) for objective in self.search.objectives]
        row = (name, f"{step}/{steps}", *shown, state)
        is_changed = self._rows.get(trial.trial_id) != row
        if (value := values.get(next(iter(self.search.objectives)))) is not None:
            self._values[trial.trial_id] = value
        self._rows[trial.trial_id] = row
        if not sys.stderr.isatty():
            if is_changed:
                pairs = zip(self.search.objectives, shown, strict=True)
                objectives = "  ".join(f"{objective} {value}" for objective, value in pairs)
                print_line(f"{time.strftime('%H:%M:%S')}  {name}  step {row[1]}  {objectives}  {state}")
                if state != "running":
                    print_line(f"{time.strftime('%H:%M:%S')}  {self._summary()}")
            return
        if self._live is None:
            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.start()
        self._live.update(fit_table(self._table(), self._live.console.width), refresh=True)

    def _summary(self) -> str:
        """Return how many trials have ended, the best so far by the first objective, and the time left."""
        ended = sum(row[-1] != "running" for row in self._rows.values())
        total = max(ALGORITHMS[self.search.algorithm].num_trials(self.search), len(self._rows))
        parts = [f"{ended} of {total} trials"]
        if self._values:
            objective = next(iter(self.search.objectives))
            choose = max if find_metric(f"/{objective}").higher_is_better else min
            best = choose(self._values, key=self._values.__getitem__)
            shown = format_value(f"/{objective}", self._values[best])
            parts.append(f"best {display_name(objective)} so far {shown} ({self._rows[best][0]})")
        if 0 < ended < total:
            parts.append(f"{duration((time.monotonic() - self._began_s) / ended * (total - ended))} left")
        return ", ".join(parts)

    def _table(self) -> Table:
        table = Table(title=f"search by {self.search.algorithm}", caption=self._summary())
        for number, heading in enumerate(("trial", "step", *map(display_name, self.search.objectives), "state")):
            table.add_column(heading, justify="left" if number == 0 else "right")
        for row in self._rows.values():
            table.add_row(*row)
        return table
