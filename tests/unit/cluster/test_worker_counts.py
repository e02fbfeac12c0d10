"""How many workers fit on nodes, worked out on paper."""

import pytest

from hbt_ray.cluster.worker_counts import check_workers, equal_share, max_units_per_worker, workers_that_fit
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


@pytest.mark.parametrize(
    ("nodes", "workers", "share"),
    [([8], 3, 1), ([2], 8, 0.25), ([3, 1], 5, 0.75), ([1, 1], 3, 0.5), ([1], 3, 0.3333), ([0], 2, 0), ([], 2, 0)],
)
def test_equal_share_lets_all_workers_fit_on_their_nodes(nodes, workers, share):
    assert equal_share(nodes, workers) == share


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
