"""Mining of hard negatives on the cluster, a task for each language."""

from __future__ import annotations

from pathlib import Path

import ray

from hbt_ray.cluster.errors import unwrap_ray_errors
from hbt_ray.cluster.runtime import configure_task, connect, node_resources
from hbt_ray.cluster.worker_counts import max_units_per_worker
from hbt_ray.config import RunConfig, replace_in
from hbt_ray.mining import MinedCorpora, MiningRun, finish_mining, mine_language, open_miner, start_mining
from hbt_ray.utils.folder_lock import lock_folder
from hbt_ray.utils.progress import track


def mine_on_cluster(config: RunConfig, model: str, out: str | Path) -> MinedCorpora:
    """Run `mining.mine` with a task for each language, on a GPU where nodes have one, else on its part of the CPUs.

    On a cluster of one node without a GPU the driver mines language by language itself, because it has loaded the
    libraries already. No cluster is joined where no language is left to mine.

    Args:
        config: as in `mining.mine`.
        model: folder or hub name.
        out: a folder that every node can access.

    Raises:
        ClusterError: a task failed. Also the errors of `mining.mine`.
    """
    out = Path(out).expanduser().resolve()
    with lock_folder(out):
        return _mine_on_cluster(config, model, out)


def _mine_on_cluster(config: RunConfig, model: str, out: Path) -> MinedCorpora:
    embedder = open_miner(config, model)
    mining = start_mining(config, model, embedder, out)
    languages = mining.unfinished()
    if languages:
        connect()
        gpu = max(node_resources("GPU"), default=0) >= 1
        if not gpu and len(node_resources("CPU")) == 1:
            for language in track(languages, "mining", "languages"):
                mine_language(mining, language, embedder)
        else:
            # Nodes may have other devices than the driver; "auto" is resolved once for all.
            precision = "bf16" if embedder.bf16 else "fp32"
            config = replace_in(config, "evaluate.precision", precision)
            cpus = 1 if gpu else max_units_per_worker(node_resources("CPU"), len(languages))
            task = ray.remote(num_cpus=cpus, num_gpus=1 if gpu else 0, max_retries=2)(_mine)
            tasks = [task.remote(mining, config, model, language, cpus) for language in languages]
            with unwrap_ray_errors("mining"):
                for mined in track(tasks, "mining", "languages"):
                    ray.get(mined)
    return finish_mining(mining)


def _mine(mining: MiningRun, config: RunConfig, model: str, language: str, threads: int) -> None:
    configure_task(threads)
    mine_language(mining, language, open_miner(config, model))
