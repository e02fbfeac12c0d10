import time

import pytest

from hbt_ray.cluster.task_pool import StageState, _StageMirror
from hbt_ray.utils.progress import active_stages


class Board:
    """Stands for the actor's handle; nothing is read from it here."""

    class read:
        @staticmethod
        def remote() -> None:
            return None


@pytest.fixture
def mirror():
    mirror = _StageMirror(Board())
    yield mirror
    mirror.end()


def test_stages_of_tasks_become_stages_of_this_process(mirror):
    mirror._set({("hybrid", "training"): StageState("training", 40, "steps", 10, "loss 1.0")})
    [shown] = active_stages()
    assert (shown.name, shown.done, shown.detail) == ("hybrid: training", 10, "loss 1.0")


def test_stage_that_a_task_no_longer_has_is_ended(mirror):
    mirror._set({("hybrid", "training"): StageState("training", 40, "steps", 10, "")})
    began_s = time.monotonic()
    mirror._set({("hybrid", "ranking"): StageState("ranking", 9, "queries", 0, "")})
    assert [one.name for one in active_stages()] == ["hybrid: ranking"]
    assert time.monotonic() - began_s < 1
