import time

import pytest

from hbt_ray.utils import start_up
from hbt_ray.utils.start_up import StageEnd, describe_start_up, end_of, stage_seconds, take_ends


@pytest.fixture(autouse=True)
def no_ends(monkeypatch):
    monkeypatch.setattr(start_up, "_ends", [])


def test_a_stage_begins_where_the_one_before_ended():
    ends = [StageEnd("imports", 12.0), StageEnd("Ray", 17.5), StageEnd("workers", 18.0)]
    assert stage_seconds(10.0, ends) == {"imports": 2.0, "Ray": 5.5, "workers": 0.5}


def test_a_stage_ends_once_and_is_taken_once():
    end_of("imports")
    first = list(start_up._ends)
    end_of("imports")
    assert take_ends() == first
    assert take_ends() == []


def test_the_line_counts_from_the_start_of_the_process(monkeypatch):
    monkeypatch.setattr(start_up, "seconds_since_start", lambda: 8.0)
    now_s = time.time()
    line = describe_start_up([StageEnd("imports", now_s - 5), StageEnd("first steps", now_s)])
    assert line == "start-up: 8.0 s: imports 3.0, first steps 5.0"
