"""Hard negatives mined on the cluster, a task for each language."""

from __future__ import annotations

from pathlib import Path

import ray
import torch

from hbt_ray.cluster.errors import unwrap_ray_errors
from hbt_ray.cluster.resources import share_of_each
from hbt_ray.cluster.runtime import configure_logging, connect, node_resources
from hbt_ray.config import RunConfig
from hbt_ray.mining import MinedCorpora, MiningRun, begin, finish, mine_language, open_miner


def mine_on_cluster(config: RunConfig, model: str, out: str | Path) -> MinedCorpora:
    """`mining.mine` with a task for each language, on a GPU where nodes have one, else on its share of the CPUs.

    Where the driver's is the only node, and has no GPU, the driver does it itself, language by language: it has loaded
    already what a task would load. No cluster is joined where nothing is left to do.

    Args:
        out: a folder that every node sees.

    Raises:
        ClusterError: a task failed; and what `mining.mine` raises.
    """
    embedder = open_miner(config, model)
    mining = begin(config, model, embedder, out)
    languages = mining.unfinished()
    if languages:
        connect()
        gpu = max(node_resources("GPU"), default=0) >= 1
        if not gpu and len(node_resources("CPU")) == 1:
            for language in languages:
                mine_language(mining, language, embedder)
        else:
            # The nodes may have other devices; what "auto" means is for all the same.
            precision = "bf16" if embedder.bf16 else "fp32"
            config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"precision": precision})})
            cpus = 1 if gpu else share_of_each(node_resources("CPU"), len(languages))
            task = ray.remote(num_cpus=cpus, num_gpus=1 if gpu else 0, max_retries=2)(_mine)
            with unwrap_ray_errors("mining"):
                ray.get([task.remote(mining, config, model, language, cpus) for language in languages])
    return finish(mining)


def _mine(mining: MiningRun, config: RunConfig, model: str, language: str, threads: int) -> None:
    configure_logging()
    torch.set_num_threads(threads)
    mine_language(mining, language, open_miner(config, model))
