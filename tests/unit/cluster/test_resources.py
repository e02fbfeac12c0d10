import pytest

from hbt_ray.cluster.resources import check_workers, max_units_per_worker, workers_that_fit
from hbt_ray.errors import ClusterError


def test_no_worker_is_split_over_two_nodes():
    assert workers_that_fit([2, 2], per_worker=4) == 0
    assert workers_that_fit([4, 32, 64], per_worker=20) == 1 + 3


@pytest.mark.parametrize(
    ("nodes", "workers", "share"),
    [([8], 1, 8), ([8], 3, 2), ([2, 2], 1, 2), ([4, 16, 16], 5, 5), ([1], 4, 1), ([], 1, 1)],
)
def test_workers_share_the_nodes_as_far_as_all_fit(nodes, workers, share):
    assert max_units_per_worker(nodes, workers) == share


def test_workers_that_fit_are_not_refused():
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
def test_workers_that_can_never_be_had_are_refused_with_the_way_out(workers, each, resource, nodes, way_out):
    with pytest.raises(ClusterError, match=way_out):
        check_workers(workers, each, resource, nodes)
