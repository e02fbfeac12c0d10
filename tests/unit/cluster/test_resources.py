import pytest

from hbt_ray.cluster.resources import plan_concurrency
from hbt_ray.config import build_config


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
