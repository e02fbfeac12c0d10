"""Tasks of the driver: what they take with them, and what ends them. Ray is replaced by functions of this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest

from hbt_ray.cluster import prepare, task_pool
from hbt_ray.errors import CorpusError
from hbt_ray.utils.limits import MAX_LINE_BYTES, limit


@mock.patch.dict(os.environ)  # which the functions change, as they do in the processes of tasks
def test_tasks_have_the_limits_of_the_driver(monkeypatch):
    def in_another_process(function: Callable[..., int]) -> SimpleNamespace:
        monkeypatch.delenv(MAX_LINE_BYTES)
        return SimpleNamespace(remote=function)

    monkeypatch.setenv(MAX_LINE_BYTES, "500")
    monkeypatch.setattr(task_pool, "node_resources", lambda _: [1.0])
    monkeypatch.setattr(task_pool.ray, "remote", lambda **_: in_another_process)
    monkeypatch.setattr(task_pool.ray, "get", lambda result: result)
    assert list(task_pool.run_in_order(limit, [(MAX_LINE_BYTES,)], "reading")) == [500]


@mock.patch.dict(os.environ)
def test_readers_of_corpora_have_the_limits_of_the_driver(monkeypatch):
    class Dataset:
        def map_batches(self, function: Callable[[dict[str, Any]], Iterator[Any]], **_: object) -> Dataset:
            monkeypatch.delenv(MAX_LINE_BYTES)  # as in another process
            self.rows = list(function({"shard": pa.array([0]).to_numpy()}))
            return self

        def materialize(self) -> Dataset:
            return self

    dataset = Dataset()
    monkeypatch.setenv(MAX_LINE_BYTES, "500")
    monkeypatch.setattr(prepare.ray.data, "from_items", lambda *_, **__: dataset)
    prepare.RayData().read(1, lambda shards: iter([limit(MAX_LINE_BYTES) for _ in shards]))
    assert dataset.rows == [500]


@pytest.mark.parametrize("error", [KeyboardInterrupt, CorpusError])
def test_tasks_of_an_interrupted_caller_are_cancelled(monkeypatch: pytest.MonkeyPatch, error: type[BaseException]):
    def get(reference: str) -> str:
        if reference == "second":
            raise error
        return reference

    cancelled: list[str] = []
    monkeypatch.setattr(task_pool, "node_resources", lambda _: [2.0])
    monkeypatch.setattr(task_pool.ray, "remote", lambda **_: lambda _: mock.Mock(remote=lambda name: name))
    monkeypatch.setattr(task_pool.ray, "get", get)
    monkeypatch.setattr(task_pool.ray, "cancel", lambda reference, force: cancelled.append(reference))
    results = task_pool.run_in_order(print, [("first",), ("second",), ("third",), ("fourth",)], "work")
    assert next(results) == "first"
    with pytest.raises(error):
        next(results)
    assert cancelled == ["second", "third"]


def test_tasks_that_ended_are_not_cancelled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(task_pool, "node_resources", lambda _: [2.0])
    monkeypatch.setattr(task_pool.ray, "remote", lambda **_: lambda _: mock.Mock(remote=lambda name: name))
    monkeypatch.setattr(task_pool.ray, "get", lambda reference: reference)
    monkeypatch.setattr(task_pool.ray, "cancel", mock.Mock())
    names = ["first", "second", "third"]
    assert list(task_pool.run_in_order(print, [(name,) for name in names], "work")) == names
    task_pool.ray.cancel.assert_not_called()
