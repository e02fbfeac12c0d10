import pytest

from hbt_ray.cluster import resources
from hbt_ray.cluster.resources import has_gpus, plan_concurrency, resources_per_worker
from hbt_ray.config import TrainConfig, build_config
from hbt_ray.errors import ClusterError


@pytest.mark.parametrize(
    ("cpus", "train", "wanted", "threads", "at_once"),
    [
        ([2], {}, 10, 1, 2),  # ten trials on two CPUs: two at a time
        ([8], {}, 4, 2, 4),
        ([8], {"threads_per_worker": 3}, 10, 3, 2),
        ([64, 64], {}, 10, 12, 10),
        ([4], {"workers": 2, "threads_per_worker": 2}, 10, 1, 1),
        ([4, 4, 4], {"workers": 3, "threads_per_worker": 2}, 10, 1, 2),
    ],
)
def test_runs_at_a_time_are_limited_by_the_cpus(monkeypatch, cpus, train, wanted, threads, at_once):
    def sizes(resource):
        return cpus if resource == "CPU" else []

    monkeypatch.setattr(resources, "node_resources", sizes)
    monkeypatch.setattr(resources, "has_autoscaler", lambda: False)
    run = {"train": {"global_batch_pairs": 48, "chunk_pairs": 8, **train}}
    request = plan_concurrency(build_config(run), wanted)
    assert (request.threads, request.max_concurrent) == (threads, at_once)


def nodes(monkeypatch: pytest.MonkeyPatch, *, autoscaler: bool, **sizes: list[float]) -> None:
    """Let the cluster have nodes with these CPUs and GPUs."""
    monkeypatch.setattr(resources, "node_resources", lambda resource: sizes.get(resource, []))
    monkeypatch.setattr(resources, "has_autoscaler", lambda: autoscaler)
    resources._warn_once.cache_clear()


@pytest.mark.parametrize("train", [{"gpu": True}, {"workers": 16, "gpu": True}, {"workers": 16, "gpu": False}])
def test_workers_wait_for_nodes_of_an_autoscaler_and_are_refused_without(monkeypatch, caplog, train):
    config = TrainConfig(global_batch_pairs=256, chunk_pairs=16, **train)
    nodes(monkeypatch, autoscaler=False, CPU=[4], GPU=[0])
    with pytest.raises(ClusterError, match="do not fit the cluster"):
        resources_per_worker(config)
    nodes(monkeypatch, autoscaler=True, CPU=[4], GPU=[0])
    assert resources_per_worker(config) == ({"GPU": 1, "CPU": 1} if train["gpu"] else {"CPU": 1})
    assert "wait until the autoscaler has started nodes for them" in caplog.text


def test_cpus_used_where_an_autoscaler_might_start_gpus_are_a_warning(monkeypatch, caplog):
    nodes(monkeypatch, autoscaler=True, CPU=[4], GPU=[0])
    assert resources_per_worker(TrainConfig()) == {"CPU": 3}
    assert not has_gpus(1)
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "no node has a GPU now, so CPUs are used"
    ]


@pytest.mark.parametrize(
    ("gpus", "workers", "autoscaler", "expected"),
    [([1], 1, False, True), ([1], 4, False, False), ([1], 4, True, True), ([0], 4, True, False), ([], 1, False, False)],
)
def test_autoscaler_adds_gpus_where_a_node_has_one(monkeypatch, gpus, workers, autoscaler, expected):
    nodes(monkeypatch, autoscaler=autoscaler, GPU=gpus)
    assert has_gpus(workers) == expected


@pytest.mark.parametrize(("gpus", "train"), [([0], {"gpu": True}), ([0, 1], {})])
def test_runs_with_gpus_ask_an_autoscaler_for_a_node_each(monkeypatch, gpus, train):
    nodes(monkeypatch, autoscaler=True, CPU=[64], GPU=gpus)
    request = plan_concurrency(build_config({"train": train}), 10)
    assert (request.resources, request.max_concurrent) == ({"CPU": 1, "GPU": 1}, 10)


def test_run_that_no_node_holds_yet_is_planned_with_an_autoscaler(monkeypatch):
    nodes(monkeypatch, autoscaler=True, CPU=[4])
    train = {"gpu": False, "threads_per_worker": 8}
    assert plan_concurrency(build_config({"train": train}), 10).max_concurrent == 1
    assert plan_concurrency(build_config({"train": {**train, "workers": 2}}), 10).max_concurrent == 1
