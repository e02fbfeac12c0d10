from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hbt_ray.cluster.training.restart_reporter import RestartReporter


class Recorder:
    """Stands in for the handle of the metrics channel; records what is put."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.put = SimpleNamespace(remote=lambda notice: self.texts.append(notice.text))
        self.clear_heartbeats = SimpleNamespace(remote=lambda: None)


@pytest.mark.parametrize(("max_failures", "restarts"), [(0, [False]), (2, [True, True, False])])
def test_restart_is_announced_only_if_there_is_one(max_failures, restarts):
    channel: Any = Recorder()
    reporter = RestartReporter(channel, max_failures, "pretrain")
    for _ in restarts:
        reporter.after_exception(None, {1: RuntimeError("killed"), 0: RuntimeError("lost\nsocket closed")})
    assert ["starting again" in text for text in channel.texts] == restarts
    assert channel.texts[-1] == (
        "worker 0 failed (socket closed); not started again; run the same command to resume, or raise "
        "pretrain.max_failures"
    )
