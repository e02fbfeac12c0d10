"""Deciding from the ranks' heartbeats whether a step takes too long, and which ranks it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hbt_ray.cluster.training.messages import Heartbeat
from hbt_ray.utils.activity import Phase

SILENT_AFTER_S = 4.0  # without a heartbeat; they come every second
STACKS_WAIT_S = 1.5  # after the timeout: by then the ranks have sent their stacks


@dataclass(frozen=True, slots=True)
class RankStatus:
    """A rank's last heartbeat, and the seconds since it arrived."""

    heartbeat: Heartbeat
    silent_s: float

    @property
    def step_s(self) -> float:
        """Seconds that the step has taken until now."""
        return self.heartbeat.step_s + self.silent_s

    @property
    def description(self) -> str:
        """The phase, and whether heartbeats are missing."""
        phase = f"in {self.heartbeat.phase}"
        return phase if self.silent_s < SILENT_AFTER_S else f"{phase} (no heartbeat for {self.silent_s:.0f} s)"


class StepWatchdog:
    """Reports each step that takes longer than `timeout_s`, once, when the stacks of its ranks have arrived.

    >>> watchdog = StepWatchdog(timeout_s=30, stacks_file="stacks.txt")
    >>> waiting = RankStatus(Heartbeat(rank=0, step=12, phase=Phase.ALL_REDUCE, step_s=32), silent_s=0.5)
    >>> stopped = RankStatus(Heartbeat(rank=1, step=12, phase=Phase.COMPUTE, step_s=1), silent_s=31.5)
    >>> for part in watchdog.check([waiting, stopped]).split(": "):
    ...     print(part)
    step 12 has taken 32 s
    rank 1 is in forward/backward (no heartbeat for 32 s), rank 0 is in all-reduce; stacks in stacks.txt
    >>> watchdog.check([waiting, stopped])
    """

    def __init__(self, timeout_s: float, stacks_file: str) -> None:
        self.timeout_s = timeout_s
        self.stacks_file = stacks_file
        self._reported_step = -1

    def check(self, ranks: Sequence[RankStatus]) -> str | None:
        """Return a line for the user if the current step has taken too long and was not reported; else None.

        The current step is the latest of any rank: the last heartbeat of a silent rank may name an earlier one.
        """
        if not ranks:
            return None
        latest = max(ranks, key=lambda rank: (rank.heartbeat.step, rank.step_s))
        step = latest.heartbeat.step
        if latest.step_s <= self.timeout_s + STACKS_WAIT_S or step == self._reported_step:
            return None
        self._reported_step = step
        subject = f"step {step}" if step else "the workers' start"
        return f"{subject} has taken {latest.step_s:.0f} s: {_describe(ranks)}; stacks in {self.stacks_file}"


def _describe(ranks: Sequence[RankStatus]) -> str:
    """Describe the ranks by what they are in: first those that others may wait for, last those that wait."""
    groups: dict[str, list[RankStatus]] = {}
    for rank in sorted(ranks, key=_suspicion):
        groups.setdefault(rank.description, []).append(rank)
    return ", ".join(f"{_name(group)} {description}" for description, group in groups.items())


def _suspicion(rank: RankStatus) -> tuple[bool, bool, int]:
    silent = rank.silent_s >= SILENT_AFTER_S
    return not silent, rank.heartbeat.phase in (Phase.ALL_REDUCE, Phase.REPORT), rank.heartbeat.rank


def _name(group: Sequence[RankStatus]) -> str:
    numbers = sorted(rank.heartbeat.rank for rank in group)
    if len(numbers) == 1:
        return f"rank {numbers[0]} is"
    return f"ranks {', '.join(map(str, numbers))} are"
