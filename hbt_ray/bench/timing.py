"""Two sides timed in turns, each in a process of its own: they share neither memory nor threads."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_ray.bench.result import BenchResult, of_rounds
from hbt_ray.errors import UserError

Work = Callable[[], float]  # does one round's work and returns how much it was, such as a number of steps


@dataclass(frozen=True, slots=True)
class Contestant:
    """What one side runs: `prepare(*arguments)` is called once in its process, and what it returns once a round.

    Both must be importable by name, since the process starts from nothing.
    """

    prepare: Callable[..., Work]
    arguments: tuple[Any, ...] = ()
    threads: int | None = None  # of torch; None: as it chooses
    repeats: int = 1  # of the work in a round, of which the mean counts: for a side that is done sooner by far


@dataclass(frozen=True, slots=True)
class Round:
    work: float
    seconds: float


def compare_alternating(
    ours: Contestant,
    peer: Contestant,
    *,
    unit: str,
    rounds: int = 5,
    warm_up: int = 1,
    details: Mapping[str, Any] | None = None,
) -> BenchResult:
    """Work per second of two sides, a round of the one and a round of the other by turns; with each one's peak memory.

    Who begins changes from round to round, so that a machine that grows slower or faster favours neither.

    Args:
        unit: of the work, by the second, such as "steps/s"; "s" for seconds a round.
        warm_up: rounds of each that do not count.

    Raises:
        UserError: a side failed.
        ImportError: a side needs a library that is not installed.
    """
    with _started(ours) as one, _started(peer) as other:
        one.wait_until_prepared()
        other.wait_until_prepared()
        for _ in range(warm_up):
            one.round(), other.round()
        taken = [_round_of_both(one, other, peer_first=bool(number % 2)) for number in range(rounds)]
        memory = {"peak_mib": one.peak_mib(), "peer_peak_mib": other.peak_mib()}
    values, peers = ([_told(side, unit) for side in sides] for sides in zip(*taken, strict=True))
    return of_rounds(values, peers, unit, {**(details or {}), **memory})


def _round_of_both(ours: _Started, peer: _Started, *, peer_first: bool) -> tuple[Round, Round]:
    if peer_first:
        theirs = peer.round()
        return ours.round(), theirs
    return ours.round(), peer.round()


def _told(measured: Round, unit: str) -> float:
    return measured.seconds if unit == "s" else measured.work / measured.seconds


@dataclass(frozen=True, slots=True)
class _Missing:
    library: str | None
    reason: str


class _Started:
    """A side's process: it prepares while others do, then waits for its turn."""

    def __init__(self, side: Contestant) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, side), daemon=True)
        self._process.start()
        theirs.close()

    def wait_until_prepared(self) -> None:
        self._receive()

    def round(self) -> Round:
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
                f"a side of the benchmark ended before its turn, exit code {self._process.exitcode}"
            ) from None
        if isinstance(answer, _Missing):
            raise ImportError(answer.reason, name=answer.library)
        if isinstance(answer, str):
            raise UserError(f"a side of the benchmark failed: {answer}")
        return answer


@contextlib.contextmanager
def _started(side: Contestant) -> Iterator[_Started]:
    started = _Started(side)
    try:
        yield started
    finally:
        started.stop()


def _serve(pipe: Any, side: Contestant) -> None:
    try:
        if side.threads is not None:
            import torch

            torch.set_num_threads(side.threads)
        work = side.prepare(*side.arguments)
        pipe.send(())
        while True:
            try:
                asked = pipe.recv()
            except EOFError:
                return
            if asked == "memory":
                pipe.send(peak_mib())
                continue
            began_s = time.perf_counter()
            done = sum(work() for _ in range(side.repeats))
            pipe.send((done / side.repeats, (time.perf_counter() - began_s) / side.repeats))
    except ImportError as error:
        pipe.send(_Missing(error.name, str(error)))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def peak_mib() -> float:
    """The most memory that this process held, shared pages included."""
    with contextlib.suppress(OSError):
        # `ru_maxrss` would start from what the parent held when it started this process.
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8")):
            return int(found[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
