import pytest

from hbt_ray.cluster.resources import check_workers, max_units_per_worker, plan_concurrency, workers_that_fit
from hbt_ray.config import build_config
from hbt_ray.errors import ClusterError


def test_workers_that_fit_splits_no_worker_over_two_nodes():
    assert workers_that_fit([2, 2], per_worker=4) == 0
    assert workers_that_fit([4, 32, 64], per_worker=20) == 1 + 3


@pytest.mark.parametrize(
    ("nodes", "workers", "units"),
    [([8], 1, 8), ([8], 3, 2), ([2, 2], 1, 2), ([4, 16, 16], 5, 5), ([1], 4, 1), ([], 1, 1)],
)
def test_max_units_per_worker_lets_all_workers_fit(nodes, workers, units):
    assert max_units_per_worker(nodes, workers) == units


def test_check_workers_accepts_workers_that_fit():
    check_workers(2, 1, "CPU", [2])


@pytest.mark.parametrize(
    ("workers", "each", "resource", "nodes", "way_out"),
    [
        (3, 1, "CPU", [2], "train.workers=2"),
        (1, 4, "CPU", [2, 2], "train.threads_per_worker=2"),
        (1, 1, "GPU", [0], "train.gpu=false"),
        (4, 1, "GPU", [1, 1], "train.workers=2"),
    ],
)
def test_check_workers_names_the_setting_to_change(workers, each, resource, nodes, way_out):
    with pytest.raises(ClusterError, match=way_out):
        check_workers(workers, each, resource, nodes)


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

    monkeypatch.setattr("hbt_ray.cluster.resources.node_resources", sizes)
    run = {"train": {"global_batch_pairs": 48, "chunk_pairs": 8, **train}}
    request = plan_concurrency(build_config(run), wanted)
    assert (request.threads, request.max_concurrent) == (threads, at_once)
