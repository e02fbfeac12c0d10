"""What tasks take with them from the driver; Ray is replaced by functions of this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pyarrow as pa

from hbt_ray.cluster import prepare, task_pool
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
