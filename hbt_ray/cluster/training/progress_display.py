"""Showing progress on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_EVERY_S = 10.0  # if the output is not a terminal


class ProgressDisplay(Protocol):
    """Shows how far a training is, and notices."""

    def update(self, step: int, metrics: str) -> None:
        """Show the last finished step and its metrics."""

    def notice(self, text: str) -> None:
        """Show a line that stays. What comes before it no longer counts for the time left."""

    def close(self) -> None:
        """Show nothing more."""


def progress_display(steps: int) -> ProgressDisplay:
    """Return the display that suits stderr, for a training of `steps` steps."""
    return BarDisplay(steps) if sys.stderr.isatty() else LineDisplay(steps)


class LineDisplay:
    """Prints a line every `LINE_EVERY_S` seconds, at the last step and for each notice."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._printed_s = 0.0
        self._first: tuple[float, int] | None = None  # time and step of the first update, for the time left

    def update(self, step: int, metrics: str) -> None:
        """Print the step, its metrics and the time left, if it is time for a line."""
        now_s = time.monotonic()
        if self._first is None:
            self._first = (now_s, step)
        first_s, first_step = self._first
        if step < self.steps and now_s - self._printed_s < LINE_EVERY_S:
            return
        left = ""
        if step > first_step:
            left_s = (now_s - first_s) / (step - first_step) * (self.steps - step)
            left = f"  {int(left_s // 60)}:{int(left_s % 60):02d} left"
        self._print(f"step {step}/{self.steps}  {metrics}{left}")

    def notice(self, text: str) -> None:
        """Print the text."""
        self._print(text)
        self._first = None

    def close(self) -> None:
        """Do nothing: every line is complete."""

    def _print(self, line: str) -> None:
        self._printed_s = time.monotonic()
        print(line, file=sys.stderr, flush=True)


class BarDisplay:
    """A progress bar with the time left, drawn by rich."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._progress: Progress | None = None
        self._bar: TaskID | None = None

    def update(self, step: int, metrics: str) -> None:
        """Move the bar; the first update starts it, so that a resumed run's earlier steps do not count as fast ones."""
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                BarColumn(bar_width=20),
                TextColumn("{task.description}", markup=False),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._progress.start()
        if self._bar is None:
            self._bar = self._progress.add_task(metrics, total=self.steps, completed=step)
        self._progress.update(self._bar, completed=step, description=metrics)

    def notice(self, text: str) -> None:
        """Print the text above the bar, which starts anew at the next update."""
        if self._progress is None:
            print(text, file=sys.stderr, flush=True)
            return
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        if self._bar is not None:
            self._progress.remove_task(self._bar)
            self._bar = None

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._progress is not None:
            self._progress.stop()
