"""Speed on a cluster, each part against a peer in turns: `name(settings) -> Figure`."""

from hbt_ray.cluster.bench.preparing import prepare
from hbt_ray.cluster.bench.searching import bench_sharded_search, search
from hbt_ray.cluster.bench.starting import start_up
from hbt_ray.cluster.bench.training import train_under_ray, two_workers

__all__ = ["bench_sharded_search", "prepare", "search", "start_up", "train_under_ray", "two_workers"]
