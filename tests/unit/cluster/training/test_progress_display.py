import pytest

from hbt_ray.cluster.training import progress_display
from hbt_ray.cluster.training.progress_display import BarDisplay, LineDisplay


@pytest.fixture
def clock(monkeypatch):
    seconds = [100.0]
    monkeypatch.setattr(progress_display.time, "monotonic", lambda: seconds[0])
    return seconds


def test_line_display_prints_every_ten_seconds_and_at_the_last_step(clock, capsys):
    display = LineDisplay(steps=40)
    for step in (10, 11, 20, 40):
        display.update(step, "loss 1.000")
        clock[0] += 1 if step == 10 else 9
    assert capsys.readouterr().err.splitlines() == [
        "step 10/40  loss 1.000",
        "step 20/40  loss 1.000  0:20 left",
        "step 40/40  loss 1.000  0:00 left",
    ]


def test_line_display_forgets_the_speed_from_before_a_notice(clock, capsys):
    display = LineDisplay(steps=40)
    display.update(10, "loss 1.000")
    display.notice("starting again")
    clock[0] += 60
    display.update(11, "loss 1.000")
    assert capsys.readouterr().err.splitlines()[1:] == ["starting again", "step 11/40  loss 1.000"]


def test_bar_display_shows_step_metrics_and_notices(capsys):
    display = BarDisplay(steps=40)
    display.notice("resuming")
    display.update(10, "loss 1.000")
    display.notice("worker 1 failed")
    display.update(11, "loss 0.900")
    display.close()
    shown = capsys.readouterr().err
    assert "resuming\n" in shown
    assert "worker 1 failed\n" in shown
    assert "step 11/40" in shown
    assert "loss 0.900" in shown
