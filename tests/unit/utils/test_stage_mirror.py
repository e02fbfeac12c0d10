import time

import pytest

from hbt_ray.utils.progress import active_stages, stage
from hbt_ray.utils.stage_mirror import StageMirror, StageState, report_stages


@pytest.fixture
def mirror():
    mirror = StageMirror()
    yield mirror
    mirror.set({})


def test_stages_of_others_become_stages_of_this_process(mirror):
    mirror.set({"hybrid": [StageState("training", 40, "steps", 10, "loss 1.0")]})
    [shown] = active_stages()
    assert (shown.name, shown.done, shown.detail) == ("hybrid: training", 10, "loss 1.0")


def test_time_left_is_that_of_the_other_process(mirror):
    for done in (10, 20):
        mirror.set({"hybrid": [StageState("training", 40, "steps", done, "", 90.0)]})
    assert active_stages()[0].describe().endswith("1:30 left")
    mirror.set({"hybrid": [StageState("training", 40, "steps", 30, "")]})
    assert "left" not in active_stages()[0].describe()


def test_stage_that_a_process_no_longer_has_is_ended(mirror):
    mirror.set({"hybrid": [StageState("training", 40, "steps", 10, "")]})
    mirror.set({"hybrid": [StageState("ranking", 9, "queries", 0, "")]})
    assert [one.name for one in active_stages()] == ["hybrid: ranking"]


def test_reports_have_the_active_stages_and_none_at_the_end(monkeypatch):
    monkeypatch.setattr("hbt_ray.utils.stage_mirror.REPORT_EVERY_S", 0.01)
    sent = []
    with stage("ranking", 9, "queries") as current, report_stages(sent.append):
        current.advance(4)
        until_s = time.monotonic() + 10
        while [StageState("ranking", 9, "queries", 4, "")] not in sent and time.monotonic() < until_s:
            time.sleep(0.01)
    assert [StageState("ranking", 9, "queries", 4, "")] in sent
    assert sent[-1] == []
