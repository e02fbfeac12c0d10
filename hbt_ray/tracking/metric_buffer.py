"""Buffer the metrics that MLflow has not accepted yet, in memory and in a file."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hbt_ray.errors import TrackingError

logger = logging.getLogger(__name__)

METRICS_PER_REQUEST = 1000  # MLflow accepts no more


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

    1. `log` appends new points to the pending ones and sends all of them.
    2. If MLflow does not accept them, the new points are appended to `file` as well, so that they survive this process.
    3. Once everything is sent, the file is deleted.
    4. `load`, in the next process of the run, makes the points of the file pending again.
    """

    run_id: str
    file: Path | None = None  # None: in memory only
    _pending: list[MetricPoint] = field(default_factory=list, repr=False)

    def log(self, points: Sequence[MetricPoint], send: SendFn) -> None:
        """Add points and send all pending ones; log a warning, once, if that fails."""
        was_late = bool(self._pending)
        self._pending += points
        try:
            self._send_pending(send)
        except TrackingError as error:
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
        for line in self.file.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # a line cut short when its writer was killed
                run_id, *values = json.loads(line)
                if run_id == self.run_id:  # not of a run that used the folder before
                    self._pending.append(MetricPoint(*values))

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
                file.writelines(json.dumps([self.run_id, *point]) + "\n" for point in points)
        except OSError as error:  # a full disk
            logger.warning("%s cannot be written (%s). Metrics are kept in memory.", self.file, error.strerror)
