import os
import signal
import time
from pathlib import Path

import pytest

from hbt_ray.errors import ConfigError, HbtError
from hbt_ray.utils.process_pool import run_in_processes
from hbt_ray.utils.progress import active_stages, stage


def write_pid(folder: Path, name: str) -> None:
    (folder / name).write_text(str(os.getpid()))


def refuse(folder: Path, name: str) -> None:
    raise ConfigError(f"{name} is wrong")


def end(folder: Path, name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_until_killed(folder: Path, name: str) -> None:
    write_pid(folder, name)
    time.sleep(600)


def work_in_a_stage(folder: Path, name: str) -> None:
    with stage("training", 40, "steps", done=10):
        while not (folder / "seen").exists():
            time.sleep(0.02)


def test_each_job_runs_in_a_process_of_its_own(tmp_path):
    jobs = [(name, write_pid, (tmp_path, name)) for name in "abc"]
    assert sorted(key for key, _ in run_in_processes(jobs, "jobs", 2)) == ["a", "b", "c"]
    assert len({os.getpid(), *(int((tmp_path / name).read_text()) for name in "abc")}) == 4


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [(refuse, ConfigError, r"^bad is wrong\n"), (end, HbtError, "the process of bad ended with code -9")],
)
def test_failed_job_ends_the_others_with_its_error(function, error, message, tmp_path):
    jobs = [("slow", wait_until_killed, (tmp_path, "slow")), ("bad", function, (tmp_path, "bad"))]
    with pytest.raises(error, match=message):
        list(run_in_processes(jobs, "jobs", 2))
    assert active_stages() == []
    if (tmp_path / "slow").exists():
        until_s = time.monotonic() + 20
        while Path("/proc", (tmp_path / "slow").read_text(), "exe").exists() and time.monotonic() < until_s:
            time.sleep(0.05)
        assert time.monotonic() < until_s


def test_stages_of_jobs_are_shown_here(tmp_path, monkeypatch):
    shown = set()

    def record(self, by_label):
        shown.update((label, one.name, one.done) for label, of_job in by_label.items() for one in of_job)
        if shown:
            (tmp_path / "seen").touch()

    monkeypatch.setattr("hbt_ray.utils.stage_mirror.StageMirror.set", record)
    assert [key for key, _ in run_in_processes([("hybrid", work_in_a_stage, (tmp_path, "a"))], "jobs", 1)] == ["hybrid"]
    assert shown == {("hybrid", "training", 10)}
