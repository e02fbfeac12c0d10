import io
import threading

import pytest

from hbt_ray.utils import progress
from hbt_ray.utils.progress import Stage, active_stages, show_progress, stage, track


@pytest.fixture
def clock(monkeypatch):
    seconds = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def test_stage_is_active_while_its_block_runs():
    with stage("outer"), stage("inner", 3, "texts"):
        assert [one.name for one in active_stages()] == ["outer", "inner"]
    assert active_stages() == []


def test_failed_stage_is_no_longer_active():
    with pytest.raises(ValueError, match="no"), stage("failing") as failing:
        raise ValueError("no")
    assert not failing.leaves_line
    assert active_stages() == []


def test_tracked_items_are_counted_after_use():
    done = []
    for _ in track("abc", "reading", "letters"):
        done.append([one.done for one in active_stages()])
    assert done == [[0], [1], [2]]


def test_line_has_numbers_rate_and_time_left(clock):
    embedding = Stage("embedding passages", 16_000, "texts")
    clock[0] += 5
    embedding.advance(4_000)
    assert embedding.describe() == "embedding passages  4,000/16,000 texts  800/s  0:15 left"


def test_detail_takes_the_place_of_the_rate(clock):
    training = Stage("training", 40, "steps")
    clock[0] += 10
    training.move_to(10, "loss 1.000  53 pairs/s")
    assert training.describe() == "training  10/40 steps  loss 1.000  53 pairs/s  0:30 left"


def test_line_without_numbers_has_the_seconds_so_far(clock):
    starting = Stage("starting Ray")
    clock[0] += 7
    assert starting.describe() == "starting Ray  7 s"


def test_time_left_forgets_the_speed_from_before_a_restart(clock):
    training = Stage("training", 40, "steps", done=10)
    clock[0] += 60
    training.restart_rate()
    assert "left" not in training.describe()
    clock[0] += 2
    training.move_to(20)
    assert training.describe().endswith("0:04 left")


def test_time_left_counts_down_between_units_and_is_not_shown_once_it_has_passed(clock):
    training = Stage("training", 60)
    clock[0] += 20
    training.move_to(50)
    shown = []
    for _ in range(4):
        clock[0] += 1.5
        shown.append(training.describe())
    assert [one.removeprefix("training  50/60  ") for one in shown] == ["0:02 left", "0:01 left", "24 s", "26 s"]


def test_start_up_does_not_count_for_the_time_left(clock):
    training = Stage("training", 40, starts_slowly=True)
    clock[0] += 60
    training.move_to(10)
    assert training.describe() == "training  10/40  60 s"
    clock[0] += 2
    training.move_to(20)
    assert training.describe() == "training  20/40  0:04 left"


def test_log_is_never_silent_for_more_than_5_seconds(clock, capsys):
    display = progress._LineDisplay()
    for name in ("reading", "sorting", "ranking"):  # each ends after 4 seconds, and is seldom shown
        with stage(name) as one:
            for _ in range(4):
                clock[0] += 1
                display.update([one])
    assert capsys.readouterr().err.splitlines() == ["sorting  1 s", "ranking  2 s"]


def test_log_shows_stages_in_turn(clock, capsys):
    display = progress._LineDisplay()
    stages = [Stage("outer"), Stage("inner"), Stage("innermost")]
    for _ in range(30):
        clock[0] += 1
        display.update(stages)
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == ["outer", "inner", "innermost"] * 2


@pytest.mark.parametrize(("seconds", "lines"), [(4, []), (6, ["ranking: 3 queries in 6 s"])])
def test_ended_stage_leaves_a_line_if_it_was_shown(clock, capsys, seconds, lines):
    display = progress._LineDisplay()
    with stage("ranking", 3, "queries") as ranking:
        display.update([])
        display._seen[id(ranking)] = ranking
        clock[0] += seconds
        ranking.advance(3)
    display.update([])
    assert capsys.readouterr().err.splitlines() == lines


def test_failed_stage_leaves_no_line(clock, capsys):
    display = progress._LineDisplay()
    failed = Stage("training", ended_s=clock[0] + 60, leaves_line=False)
    display.update([failed])
    display.update([])
    assert capsys.readouterr().err == ""


def test_bar_display_draws_active_stages_and_then_nothing(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "BAR_AFTER_S", 0.0)
    display = progress._BarDisplay()
    with stage("embedding", 10, "texts") as embedding:
        embedding.advance(4)
        display.update(active_stages())
        display._progress.refresh()
    display.update([])
    assert "4/10 texts" in terminal.getvalue()
    assert display._progress is None


def test_progress_is_shown_by_one_thread_while_the_block_runs():
    def displays() -> int:
        return sum(thread.name == "progress" for thread in threading.enumerate())

    with show_progress(), show_progress():
        assert displays() == 1
    assert displays() == 0


def test_bar_of_the_last_stage_is_gone_when_the_stage_ends(monkeypatch: pytest.MonkeyPatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "BAR_AFTER_S", 0.0)
    monkeypatch.setattr(progress, "POLL_S", 60.0)  # so that the thread of the display does nothing
    with show_progress(), stage("outer"):
        display = progress._display
        assert isinstance(display, progress._BarDisplay)
        with stage("inner"):
            display.update(active_stages())
        assert display._progress is not None  # the outer stage's is still drawn
    assert display._progress is None
    assert progress._display is None
    with show_progress():
        display = progress._display
        with stage("only"):
            display.update(active_stages())
        assert display._progress is None  # before the display is closed
