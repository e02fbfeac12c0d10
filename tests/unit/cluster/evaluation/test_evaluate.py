"""The order of work in an evaluation in shards."""

from __future__ import annotations

import contextlib
from unittest import mock

from hbt_ray.cluster.evaluation import evaluate
from hbt_ray.config import EvaluateConfig
from hbt_ray.data.types import Benchmark, Passage, Query
from hbt_ray.evaluation.run_evaluation import variants


def test_no_task_is_waited_for_while_actors_hold_the_shards(tmp_path, monkeypatch):
    """Actors that hold every CPU let no task start: with perturbations the evaluation waited for ever."""
    events: list[str] = []
    pairs = Benchmark("pairs", [Query("q", "en", "what is it")], [Passage("p", "en", "it is")], {"q": {"p": 1}})
    settings = EvaluateConfig(benchmarks={"pairs": None}, shards=1, perturbations=["case", "typos"])

    def run(function, jobs, description):
        for job in jobs:
            events.append("task")
            yield function(*job)

    @contextlib.contextmanager
    def index(*_):
        events.append("open")
        yield None, []

    for name in ("passage_tasks", "open_embedder", "embed_passages", "write_report", "description"):
        monkeypatch.setattr(evaluate, name, mock.MagicMock())
    evaluate.description.return_value = {"precision": "fp32"}
    monkeypatch.setattr(evaluate, "load_benchmarks", lambda *_: [pairs])
    monkeypatch.setattr(evaluate, "run_in_order", run)
    monkeypatch.setattr(evaluate, "sharded_index", index)
    monkeypatch.setattr(evaluate, "evaluate_benchmark", lambda *arguments: arguments[-1])
    monkeypatch.setattr(evaluate, "with_zero_shot_check", lambda report, *_: report)
    found = list(evaluate.evaluate_in_shards(str(tmp_path), settings, tmp_path / "out"))
    assert found == [variant.fingerprint() for variant in variants(pairs, settings)]
    assert len({*found}) == 3
    assert events == ["task"] * 3 + ["open"]
