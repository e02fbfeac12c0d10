import pytest
from ray.exceptions import RayTaskError, WorkerCrashedError

from hbt_ray.cluster.errors import failure_reason, find_hbt_error, unwrap_ray_errors
from hbt_ray.errors import ClusterError, ConfigError, StoreError


def raised_by_task(error: Exception) -> Exception:
    """Return what `ray.get` raises for a task that raised the error."""
    return RayTaskError("task", "its traceback", error).as_instanceof_cause()


@pytest.mark.parametrize("error", [ConfigError("alpha is 2"), StoreError("a shard is damaged")], ids=str)
def test_unwrap_ray_errors_raises_the_error_of_the_task(error):
    with pytest.raises(type(error)) as caught, unwrap_ray_errors("training"):
        raise raised_by_task(error)
    assert (type(caught.value), str(caught.value)) == (type(error), str(error))


def test_unwrap_ray_errors_names_the_action_of_another_failure():
    with (
        pytest.raises(ClusterError, match=r"training failed: .*; the workers' output is above"),
        unwrap_ray_errors("training"),
    ):
        raise WorkerCrashedError
    assert find_hbt_error(raised_by_task(ValueError("a bug"))) is None


def test_find_hbt_error_looks_at_causes():
    outer = RuntimeError("the trial failed")
    outer.__cause__ = raised_by_task(StoreError("a shard is damaged"))
    found = find_hbt_error(outer)
    assert (type(found), str(found)) == (StoreError, "a shard is damaged")


@pytest.mark.parametrize(
    ("ray_says", "reason"),
    [
        (  # Ray 2's memory monitor
            "Task was killed.\nRefer to the documentation on how to address the out of memory issue: https://docs.ray.io/."
            " To disable worker killing, set the environment variable `RAY_memory_monitor_refresh_ms` to zero.",
            "Ray ended a process because its machine ran low on memory",
        ),
        (
            "Worker unexpectedly exits with a connection error code 2. Some common causes include: (1) the process was "
            "killed by the OOM killer due to high memory usage, (2) ray stop --force was called.",
            "a process was killed or crashed; its machine's log",
        ),
        ("first line\nlast line", "last line"),
        ("", "RuntimeError"),
    ],
)
def test_failure_reason_names_lack_of_memory(ray_says, reason):
    outer = RuntimeError(ray_says)
    assert failure_reason(outer).startswith(reason)
    if "memory" in ray_says:
        wrapping = RuntimeError("the group failed")
        wrapping.__cause__ = outer
        assert failure_reason(wrapping).startswith(reason)
