from __future__ import annotations

import pytest

from hbt_ray.utils.job_loop import run_jobs
from hbt_ray.utils.progress import Stage, active_stages


def test_jobs_start_in_order_and_no_more_than_the_limit():
    running: dict[int, str] = {}
    started: list[str] = []
    shown: list[str] = []
    stages: set[Stage] = set()

    def start(job) -> int:
        started.append(job[0])
        return len(started)

    def wait() -> list[int]:
        assert len(running) <= 2
        shown.append(active_stages()[0].detail)
        stages.add(active_stages()[0])
        return [max(running)]

    jobs = [(name, print, ()) for name in "abc"]
    ended = [key for key, _ in run_jobs(jobs, running, start, wait, description="jobs", max_concurrent=2)]
    assert (started, ended, running) == (["a", "b", "c"], ["b", "c", "a"], {})
    assert shown == ["a, b; next c", "a, c", "a"]
    assert [one.detail for one in stages] == [""]


def test_jobs_side_by_side_have_a_time_left_only_when_as_many_have_ended(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr("hbt_ray.utils.progress.time.monotonic", lambda: seconds[0])
    running: dict[int, str] = {}
    left = []

    def wait() -> list[int]:
        left.append(active_stages()[0].seconds_left())
        seconds[0] += 10
        return [min(running)]

    jobs = [(name, print, ()) for name in "abcd"]
    handles = iter(range(4))
    list(run_jobs(jobs, running, lambda job: next(handles), wait, description="jobs", max_concurrent=2))
    assert left == [None, None, 20, 10]


def test_jobs_that_run_at_an_error_are_left_to_the_caller():
    running: dict[int, str] = {}

    def fail() -> list[int]:
        raise ValueError("a job failed")

    jobs = [(name, print, ()) for name in "abc"]
    with pytest.raises(ValueError, match="a job failed"):
        list(run_jobs(jobs, running, lambda job: ord(job[0]), fail, description="jobs", max_concurrent=2))
    assert list(running.values()) == ["a", "b"]
    assert active_stages() == []
