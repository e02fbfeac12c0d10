"""Buffer the metrics that MLflow has not accepted yet, in memory and in a file."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hbt_ray.errors import TrackingError
from hbt_ray.utils.limits import load_json

logger = logging.getLogger(__name__)

METRICS_PER_REQUEST = 1000  # MLflow accepts no more
PAUSE = 15  # after a failure, in multiples of the time it took: a minute if MLflow did not answer within 4 seconds


class MetricPoint(NamedTuple):
    """A value of a metric, with the fields of `mlflow.entities.Metric` in their order."""

    name: str
    value: float
    timestamp_ms: int
    step: int


SendFn = Callable[[Sequence[MetricPoint]], None]  # raises TrackingError if MLflow does not accept the points


@dataclass
class MetricBuffer:
    """The points of a run that were logged and not sent, in the order logged. Can be pickled.

    1. `log` appends new points to the pending ones and sends all of them, except in the `PAUSE` after a failure: a
       store that does not answer would take seconds of every step.
    2. Where they are not sent, or MLflow does not accept them, the new points are appended to `file` as well, so that
       they survive this process.
    3. Once everything is sent, the file is deleted.
    4. `load`, in the next process of the run, makes the points of the file pending again.
    """

    run_id: str
    file: Path | None = None  # None: in memory only
    _pending: list[MetricPoint] = field(default_factory=list, repr=False)
    _pause_ends_s: float = field(default=0.0, repr=False)

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"_pause_ends_s": 0.0}  # another machine has another clock

    def log(self, points: Sequence[MetricPoint], send: SendFn, *, at_once: bool = False) -> None:
        """Add points and send all pending ones, `at_once` also in a pause; log a warning, once, if that fails."""
        was_late = bool(self._pending)
        self._pending += points
        began_s = time.monotonic()
        if began_s < self._pause_ends_s and not at_once:
            self._append_to_file(points)
            return
        try:
            self._send_pending(send)
        except TrackingError as error:
            failed_s = time.monotonic()
            self._pause_ends_s = failed_s + PAUSE * (failed_s - began_s)
            self._append_to_file(points)
            if not was_late:
                logger.warning("%s. Metrics are kept until it answers.", error)
        else:
            if was_late and self.file:
                self.file.unlink(missing_ok=True)

    def load(self) -> None:
        """Make the points pending that an earlier process of this run could not send."""
        if self.file is None or not self.file.exists():
            return
        damaged = 0
        for line in self.file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                run_id, *values = _parse(line)
            except (ValueError, TypeError):  # or cut short when its writer was killed
                damaged += 1
                continue
            if run_id == self.run_id:  # not of a run that used the folder before
                self._pending.append(MetricPoint(*values))
        if damaged:
            logger.warning("%s has %d damaged lines, which are not sent", self.file, damaged)

    def _send_pending(self, send: SendFn) -> None:
        while self._pending:
            batch = self._pending[:METRICS_PER_REQUEST]
            send(batch)
            del self._pending[: len(batch)]

    def _append_to_file(self, points: Sequence[MetricPoint]) -> None:
        if self.file is None:
            return
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.writelines(_line([self.run_id, *point]) for point in points)
        except OSError as error:  # a full disk
            logger.warning("%s cannot be written (%s). Metrics are kept in memory.", self.file, error.strerror)


def _line(values: list[object]) -> str:
    """Return the line of a run's id and a point; the last value is a digest of the others."""
    return json.dumps([*values, _digest(values)]) + "\n"


def _parse(line: str) -> list[Any]:
    """Return a run's id and the fields of a point. Lines of earlier versions have no digest.

    Raises:
        ValueError: the line is not as it was written.
        TypeError: it is no list.
    """
    values = list(load_json(line))
    num_values = 1 + len(MetricPoint._fields)
    if len(values) == num_values + 1 and values.pop() != _digest(values):
        raise ValueError("its digest does not match")
    if len(values) != num_values:
        raise ValueError("it has another number of values")
    return values


def _digest(values: list[object]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
