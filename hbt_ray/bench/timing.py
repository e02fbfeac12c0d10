"""Timing of two contestants in alternating rounds, each in its own process: they share neither memory nor threads."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hbt_ray.bench.result import BenchResult, summarize_rounds
from hbt_ray.errors import UserError

RoundFunction = Callable[[], float]  # does the work of one round and returns its amount, such as a number of steps


@dataclass(frozen=True, slots=True)
class Contestant:
    """One of two things to time: `prepare(*arguments)` runs once in a new process, the function it returns every round.

    `prepare` must be importable by name, because the process is spawned.
    """

    prepare: Callable[..., RoundFunction]
    arguments: tuple[object, ...] = ()
    threads: int | None = None  # of torch; None: torch's default
    repeats: int = 1  # calls in a round, which counts with their mean; for a contestant that is much the faster one


@dataclass(frozen=True, slots=True)
class Round:
    """Amount of work done in a round, and the seconds it took."""

    work: float
    seconds: float

    def in_unit(self, unit: str) -> float:
        """Return seconds for the unit "s", otherwise work per second."""
        return self.seconds if unit == "s" else self.work / self.seconds


def compare_alternating(
    ours: Contestant,
    baseline: Contestant,
    *,
    unit: str,
    rounds: int = 5,
    warm_up: int = 1,
    details: Mapping[str, object] | None = None,
) -> BenchResult:
    """Compare the work per second and the peak memory of two contestants in alternating rounds.

    Which contestant begins changes from round to round, so that a machine that becomes slower or faster favours
    neither.

    Args:
        ours: the contestant whose speed is the result's `value`.
        baseline: the contestant it is compared with.
        unit: of the work, per second, such as "steps/s"; "s" for seconds per round.
        rounds: of each contestant.
        warm_up: rounds of each contestant that do not count.
        details: added to the result's details, before `peak_mib` and `peer_peak_mib`.

    Raises:
        UserError: a contestant failed.
        ImportError: a contestant needs a library that is not installed.
    """
    with _started(ours) as first, _started(baseline) as second:
        first.wait_until_prepared()
        second.wait_until_prepared()
        for _ in range(warm_up):
            first.run_round(), second.run_round()
        pairs = [_run_both(first, second, baseline_first=bool(number % 2)) for number in range(rounds)]
        memory = {"peak_mib": first.peak_mib(), "peer_peak_mib": second.peak_mib()}
    return summarize_rounds(
        [ours_round.in_unit(unit) for ours_round, _ in pairs],
        [baseline_round.in_unit(unit) for _, baseline_round in pairs],
        unit,
        {**(details or {}), **memory},
    )


def _run_both(ours: _ContestantProcess, baseline: _ContestantProcess, *, baseline_first: bool) -> tuple[Round, Round]:
    if baseline_first:
        baseline_round = baseline.run_round()
        return ours.run_round(), baseline_round
    return ours.run_round(), baseline.run_round()


@dataclass(frozen=True, slots=True)
class _MissingLibrary:
    library: str | None
    reason: str


class _ContestantProcess:
    """Process of a contestant: prepares concurrently with the other one, then runs a round on request."""

    def __init__(self, contestant: Contestant) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._process = context.Process(target=_serve, args=(child_pipe, contestant), daemon=True)
        self._process.start()
        child_pipe.close()

    def wait_until_prepared(self) -> None:
        self._receive()

    def run_round(self) -> Round:
        self._pipe.send("round")
        return Round(*self._receive())

    def peak_mib(self) -> float:
        self._pipe.send("memory")
        return float(self._receive())

    def stop(self) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()

    def _receive(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise UserError(
                f"a contestant of the benchmark ended before its round, exit code {self._process.exitcode}"
            ) from None
        if isinstance(answer, _MissingLibrary):
            raise ImportError(answer.reason, name=answer.library)
        if isinstance(answer, str):
            raise UserError(f"a contestant of the benchmark failed: {answer}")
        return answer


@contextlib.contextmanager
def _started(contestant: Contestant) -> Iterator[_ContestantProcess]:
    process = _ContestantProcess(contestant)
    try:
        yield process
    finally:
        process.stop()


def _serve(pipe: Connection, contestant: Contestant) -> None:
    """Prepare a contestant and answer requests until the pipe is closed. Runs in the contestant's process."""
    try:
        if contestant.threads is not None:
            import torch

            torch.set_num_threads(contestant.threads)
        run_once = contestant.prepare(*contestant.arguments)
        pipe.send(())
        while True:
            try:
                request = pipe.recv()
            except EOFError:
                return
            if request == "memory":
                pipe.send(peak_mib())
                continue
            began_s = time.perf_counter()
            work = sum(run_once() for _ in range(contestant.repeats))
            seconds = time.perf_counter() - began_s
            pipe.send((work / contestant.repeats, seconds / contestant.repeats))
    except ImportError as error:
        pipe.send(_MissingLibrary(error.name, str(error)))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def peak_mib() -> float:
    """Return this process's peak resident memory in MiB, shared pages included."""
    with contextlib.suppress(OSError):
        # `ru_maxrss` would start from the memory of the parent when it started this process.
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8")):
            return int(found[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@contextlib.contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder next to where `folder` would be, with its name and a suffix, and delete it afterwards."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as scratch:
        yield Path(scratch)
