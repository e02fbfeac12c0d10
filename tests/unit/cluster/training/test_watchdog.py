import pytest

from hbt_ray.cluster.training.messages import Heartbeat
from hbt_ray.cluster.training.watchdog import RankStatus, StepWatchdog
from hbt_ray.config import load_config
from hbt_ray.training.resume import changed_settings
from hbt_ray.utils.activity import Phase


def rank(number: int, step: int, phase: Phase, step_s: float, silent_s: float = 0.5) -> RankStatus:
    return RankStatus(Heartbeat(number, step, phase, step_s), silent_s)


def check(*ranks: RankStatus, timeout_s: float = 10) -> str | None:
    return StepWatchdog(timeout_s, "stacks.txt").check(ranks)


def test_watchdog_names_the_rank_that_the_others_wait_for_first():
    line = check(rank(0, 5, Phase.ALL_REDUCE, 12), rank(1, 5, Phase.DATA, 12), rank(2, 5, Phase.ALL_REDUCE, 12))
    assert line == (
        "step 5 has taken 12 s: rank 1 is in wait for data, ranks 0, 2 are in all-reduce; stacks in stacks.txt"
    )


def test_watchdog_counts_the_silence_of_a_rank_that_was_stopped():
    line = check(rank(0, 5, Phase.COMPUTE, 1, silent_s=11))
    assert line is not None
    assert "rank 0 is in forward/backward (no heartbeat for 11 s)" in line


def test_watchdog_reads_the_step_from_the_rank_that_is_ahead():
    stopped_in_an_earlier_step = rank(1, 3, Phase.COMPUTE, 0, silent_s=60)
    assert check(stopped_in_an_earlier_step, rank(0, 5, Phase.ALL_REDUCE, 2)) is None
    line = check(stopped_in_an_earlier_step, rank(0, 5, Phase.ALL_REDUCE, 12))
    assert line is not None
    assert line.startswith("step 5 has taken 12 s: rank 1 is")


@pytest.mark.parametrize(("step_s", "silent_s", "overdue"), [(11, 0, False), (11, 1, True)])
def test_watchdog_reports_a_step_only_after_the_timeout(step_s, silent_s, overdue):
    assert (check(rank(0, 1, Phase.COMPUTE, step_s, silent_s)) is not None) == overdue


def test_watchdog_reports_each_step_once():
    watchdog = StepWatchdog(10, "stacks.txt")
    assert watchdog.check([rank(0, 1, Phase.SAVE, 13)])
    assert watchdog.check([rank(0, 1, Phase.SAVE, 12)]) is None
    assert watchdog.check([rank(0, 2, Phase.SAVE, 13)])


def test_watchdog_reports_a_start_that_takes_too_long():
    line = check(rank(0, 0, Phase.RESTORE, 12))
    assert line == "the workers' start has taken 12 s: rank 0 is in restore; stacks in stacks.txt"


def test_watchdog_is_silent_without_ranks():
    assert check() is None


def test_timeouts_do_not_change_what_a_run_computes():
    timeouts = ["train.step_timeout_s=5", "train.collective_timeout_s=60"]
    assert changed_settings(load_config(), load_config(None, timeouts)) == []
