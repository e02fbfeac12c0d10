"""Progress of long work: code reports its stages, and a display shows them on stderr.

Work that may take seconds runs in a `stage`, or iterates over `track`. That costs an assignment and shows nothing by
itself. While `show_progress` is active, a thread shows the active stages: bars on a terminal; elsewhere a line
every 5 seconds, of each stage in turn. A stage that was shown leaves a line with its duration when it ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from hbt_ray.utils.display_text import wrap_for

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")

POLL_S = 0.25
BAR_AFTER_S = 0.5  # so that short stages do not flicker
LINE_EVERY_S = 5.0


@dataclass(slots=True, eq=False)
class Stage:
    """A piece of work that is in progress."""

    name: str  # what is done, such as "embedding passages"
    total: int | None = None  # units in all; None: not known
    unit: str = ""  # in the plural, such as "texts"
    done: int = 0
    detail: str = ""  # shown after the numbers
    began_s: float = field(default_factory=lambda: time.monotonic())
    ended_s: float | None = None
    leaves_line: bool = True  # when it ends after it was shown
    starts_slowly: bool = False  # the first units take longer than others, and do not count for the rate
    estimate_after: int = 1  # units that must be done before a time left is shown
    _counted_from: tuple[float, int] = field(init=False)  # time, and units done, since which the rate is computed
    _moved_s: float = field(init=False)  # when the number of units changed last

    def __post_init__(self) -> None:
        self.restart_rate()

    def advance(self, units: int = 1, detail: str | None = None) -> None:
        """Count more units as done."""
        self.move_to(self.done + units, detail)

    def move_to(self, done: int, detail: str | None = None) -> None:
        """Set the number of units that are done."""
        if done != self.done:
            self.done, self._moved_s = done, time.monotonic()
            if self.starts_slowly:
                self.starts_slowly = False
                self.restart_rate()
        if detail is not None:
            self.detail = detail

    def restart_rate(self) -> None:
        """Compute the rate and the time left from now on only: what was done before was slower or faster."""
        self._moved_s = time.monotonic()
        self._counted_from = (self._moved_s, self.done)

    def seconds_left(self) -> float | None:
        """Return the estimate of the seconds left; None: not known, or more have passed than it said."""
        since_s, before = self._counted_from
        counted = self.done - before
        if self.total is None or counted < self.estimate_after:
            return None
        left_s = (self.total - self.done) * (self._moved_s - since_s) / counted
        left_s -= time.monotonic() - self._moved_s
        return left_s if left_s > 0 else None

    def describe(self) -> str:
        """Return one line: name, units done, rate, detail and time left; or the seconds since the start."""
        now_s = time.monotonic()
        since_s, before = self._counted_from
        rate = (self.done - before) / max(now_s - since_s, 1e-9)
        left_s = self.seconds_left()
        parts = [self.name]
        if self.total is not None:
            parts.append(f"{self.done:,}/{self.total:,} {self.unit}".rstrip())
        elif self.unit:
            parts.append(f"{self.done:,} {self.unit}")
        if self.unit and rate > 0 and not self.detail:
            parts.append(f"{_rounded(rate)}/s")
        if self.detail:
            parts.append(self.detail)
        parts.append(f"{now_s - self.began_s:.0f} s" if left_s is None else f"{duration(left_s)} left")
        return "  ".join(parts)

    def describe_end(self) -> str:
        """Return one line: name, units done, seconds and detail."""
        seconds = (self.ended_s or time.monotonic()) - self.began_s
        units = f"{self.done:,} {self.unit} in " if self.unit and self.done else ""
        return f"{self.name}: {units}{seconds:.0f} s" + (f", {self.detail}" if self.detail else "")


_active: list[Stage] = []  # of this process, in the order of their starts
_lock = threading.Lock()


def active_stages() -> list[Stage]:
    """Return the stages that are in progress in this process, outer ones first."""
    with _lock:
        return list(_active)


def begin_stage(stage: Stage) -> None:
    """Add a stage to the active ones. Prefer `stage`, which also ends it."""
    with _lock:
        _active.append(stage)


def end_stage(stage: Stage, *, leaves_line: bool = True) -> None:
    """Remove a stage from the active ones; one that has ended already stays as it is.

    The display is updated if it was the last one, so that the output that follows does not begin behind a bar.
    """
    with _lock:
        if stage not in _active:
            return
        _active.remove(stage)
        stage.leaves_line, stage.ended_s = leaves_line, time.monotonic()
        is_last = not _active
    # A forked process has a copy of the display, without its thread.
    if is_last and _display is not None and _display.pid == os.getpid():
        _display.update(active_stages())


@contextlib.contextmanager
def stage(name: str, total: int | None = None, unit: str = "", *, done: int = 0) -> Iterator[Stage]:
    """Report that the block's work is in progress.

    Args:
        name: what is done, such as "embedding passages".
        total: units of work in all; None: not known.
        unit: in the plural, such as "texts"; "": nothing is counted.
        done: units that an earlier call did.
    """
    begun = Stage(name, total, unit, done)
    begin_stage(begun)
    try:
        yield begun
    except BaseException:
        end_stage(begun, leaves_line=False)
        raise
    end_stage(begun)


def track(items: Iterable[T], name: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Yield the items of a stage that counts them; arguments as of `stage`, `total` by default their number."""
    if total is None and isinstance(items, Sequence):
        total = len(items)
    with stage(name, total, unit) as current:
        for item in items:
            yield item
            current.advance()


@contextlib.contextmanager
def show_progress() -> Iterator[None]:
    """Show the active stages on stderr while the block runs. Does nothing inside another such block."""
    global _display
    if _display_lock.locked():
        yield
        return
    with _display_lock:
        display = _display = _BarDisplay() if sys.stderr.isatty() else _LineDisplay()
        try:
            with repeated(lambda: display.update(active_stages()), POLL_S):
                yield
        finally:
            _display = None
            display.update(active_stages())
            display.close()


_display_lock = threading.Lock()
_display: _Display | None = None  # of the active `show_progress`


@contextlib.contextmanager
def repeated(call: Callable[[], object], every_s: float) -> Iterator[None]:
    """Call a function in a thread, again and again while the block runs; it has returned when the block ends."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(every_s):
            call()

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _Display(ABC):
    """Prints a line for each stage that was shown and has ended."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._seen: dict[int, Stage] = {}
        self._updating = threading.Lock()  # by the thread of the display, or by the one that ends a stage

    def update(self, stages: Sequence[Stage]) -> None:
        """Show the stages as they are now."""
        with self._updating:
            active = {id(one): one for one in stages}
            for key, one in list(self._seen.items()):
                if key not in active:
                    del self._seen[key]
                    self.remove(one)
                    if one.leaves_line and (one.ended_s or 0.0) - one.began_s >= LINE_EVERY_S:
                        print_line(one.describe_end())
            self._seen |= active
            self.show(stages)

    @abstractmethod
    def show(self, stages: Sequence[Stage]) -> None:
        """Show the active stages."""

    @abstractmethod
    def remove(self, one: Stage) -> None:
        """Show a stage no longer."""

    @abstractmethod
    def close(self) -> None:
        """Show nothing more."""


class _LineDisplay(_Display):
    """Prints a line of a stage every `LINE_EVERY_S`: of the one whose last line is the oldest."""

    def __init__(self) -> None:
        super().__init__()
        self._next_line_s = time.monotonic() + LINE_EVERY_S
        self._shown_s: dict[int, float] = {}  # id of a stage -> time of its last line

    def show(self, stages: Sequence[Stage]) -> None:
        now_s = time.monotonic()
        if stages and now_s >= self._next_line_s:
            oldest = min(stages, key=lambda one: self._shown_s.get(id(one), one.began_s))
            self._shown_s[id(oldest)], self._next_line_s = now_s, now_s + LINE_EVERY_S
            print_line(oldest.describe())

    def remove(self, one: Stage) -> None:
        self._shown_s.pop(id(one), None)

    def close(self) -> None:
        pass  # every line is complete


class _BarDisplay(_Display):
    """Draws a bar for each stage with rich; they vanish when no stage is active."""

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._bars: dict[int, TaskID] = {}

    def show(self, stages: Sequence[Stage]) -> None:
        now_s = time.monotonic()
        shown = [one for one in stages if now_s - one.began_s >= BAR_AFTER_S]
        if not shown:
            self.close()
            return
        if self._progress is None:
            self._progress = _rich_progress()
            self._progress.start()
        for one in shown:
            if id(one) not in self._bars:
                self._bars[id(one)] = self._progress.add_task("", total=one.total)
            self._progress.update(
                self._bars[id(one)], completed=one.done, total=one.total, description=one.describe(), refresh=False
            )

    def remove(self, one: Stage) -> None:
        bar = self._bars.pop(id(one), None)
        if self._progress is not None and bar is not None:
            self._progress.remove_task(bar)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._bars = None, {}


def _rich_progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    # Of stdout nothing is redirected: it holds results only.
    return Progress(BarColumn(bar_width=12), text, console=Console(stderr=True), transient=True, redirect_stdout=False)


def print_line(line: str) -> None:
    """Print a line for the user on stderr, above the bars if there are any."""
    print(wrap_for(sys.stderr, line), file=sys.stderr, flush=True)


def _rounded(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def duration(seconds: float) -> str:
    """Return a time as minutes and seconds, with hours if there are any.

    >>> duration(75), duration(3661)
    ('1:15', '1:01:01')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
