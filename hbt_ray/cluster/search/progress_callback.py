"""A search as its driver sees it: a table in the terminal, and a run in MLflow for each trial."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from ray import tune
from rich.console import Console
from rich.live import Live
from rich.table import Table

from hbt_ray.cluster.search.trial import METRICS, STEP, came_to_its_end, named, trial_folder
from hbt_ray.cluster.tracked_run import print_status
from hbt_ray.errors import TrackingError
from hbt_ray.evaluation.metrics import display_name
from hbt_ray.evaluation.report import format_value
from hbt_ray.search.config import SearchConfig
from hbt_ray.search.results import State, objective_values
from hbt_ray.tracking import Tracker


class TuneProgressCallback(tune.Callback):
    """Plain values but for what is made anew where it is missing: Tune keeps a copy to go on from."""

    def __init__(self, search: SearchConfig, out: Path, uri: str, parent_run_id: str) -> None:
        self.search = search
        self.out = out
        self.uri = uri
        self.parent_run_id = parent_run_id
        self._begin()

    def _begin(self) -> None:
        self._trackers: dict[str, Tracker] = {}
        self._seen: dict[str, set[int]] = {}  # steps that a trial was tracked at since this driver began
        self._rows: dict[str, tuple[str, ...]] = {}
        self._live: Live | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {key: self.__dict__[key] for key in ("search", "out", "uri", "parent_run_id")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tracker(trial)
        self._show(trial, "running", {})

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if STEP not in result:
            return
        step, metrics = int(result[STEP]), dict(result[METRICS])
        tracker = self._tracker(trial)
        seen = self._seen.setdefault(trial.trial_id, set())
        if tracker is not None and step not in seen:
            told = metrics
            if self.search.algorithm == "pbt":
                told = metrics | {"alpha": float(trial.config["mix.alpha"])}
            tracker.log_metrics(told, step)
        seen.add(step)
        self._show(trial, "running", metrics, step)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        own = named(self.search, trial.config, trial.trial_id)
        ended = came_to_its_end(trial_folder(self.out, self.search.run, own.name), self.search.run)
        self._finish(trial, "finished" if ended else "stopped")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._finish(trial, "failed")

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _finish(self, trial: Any, state: State) -> None:
        result = trial.last_result or {}
        self._show(trial, state, dict(result.get(METRICS) or {}), int(result.get(STEP, 0)))
        tracker = self._tracker(trial)
        if tracker is None:
            return
        try:
            tracker.set_tags({"state": state})
            tracker.finish("FAILED" if state == "failed" else "FINISHED")
        except TrackingError as error:
            print_status(f"not tracked: {error}")

    def _tracker(self, trial: Any) -> Tracker | None:
        """The trial's run in MLflow; None where MLflow does not answer: the search is more important."""
        if trial.trial_id not in self._trackers:
            own = named(self.search, trial.config, trial.trial_id)
            config = own.point.config(self.search.run, own.seed)
            folder = trial_folder(self.out, config, own.name)
            folder.path.mkdir(parents=True, exist_ok=True)
            searched = {f"searched.{key}": value for key, value in own.point.values.items()}
            tags = {"mlflow.parentRunId": self.parent_run_id, "search": self.search.run.name, **searched}
            try:
                self._trackers[trial.trial_id] = Tracker.start(
                    self.uri,
                    config.tracking.experiment,
                    own.name,
                    config,
                    folder.tracking_id,
                    folder.path / "unsent_metrics.jsonl",
                    tags,
                )
            except TrackingError as error:
                print_status(f"not tracked: {error}")
                return None
        return self._trackers[trial.trial_id]

    def _show(self, trial: Any, state: State, metrics: dict[str, float], step: int = 0) -> None:
        own = named(self.search, trial.config, trial.trial_id)
        values = objective_values(self.search, metrics)
        shown = [format_value(f"/{name}", values.get(name)) for name in self.search.objectives]
        row = (own.name, f"{step}/{self.search.run.train.steps}", *shown, state)
        changed = self._rows.get(trial.trial_id) != row
        self._rows[trial.trial_id] = row
        if not sys.stderr.isatty():
            if changed:
                named_values = "  ".join(
                    f"{name} {value}" for name, value in zip(self.search.objectives, shown, strict=True)
                )
                print_status(f"{time.strftime('%H:%M:%S')}  {own.name}  step {row[1]}  {named_values}  {state}")
            return
        if self._live is None:
            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.start()
        self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        table = Table(title=f"search by {self.search.algorithm}")
        for number, heading in enumerate(("trial", "step", *map(display_name, self.search.objectives), "state")):
            table.add_column(heading, justify="left" if number == 0 else "right")
        for row in self._rows.values():
            table.add_row(*row)
        return table
