"""Mining of hard negatives on the cluster: several tasks for each language, which exchange files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hbt_ray.cluster.errors import unwrap_ray_errors
from hbt_ray.cluster.prepare import RayData
from hbt_ray.cluster.resources import has_gpus
from hbt_ray.cluster.runtime import configure_task, connect, node_resources
from hbt_ray.cluster.task_pool import run_in_order
from hbt_ray.cluster.worker_counts import max_units_per_worker
from hbt_ray.config import RunConfig, replace_in
from hbt_ray.evaluation.run_evaluation import Prefixes
from hbt_ray.mining import (
    MinedCorpora,
    MiningRun,
    Side,
    count_shards,
    embed_texts,
    embedding_parts,
    finish_language,
    finish_mining,
    index_language,
    join_vectors,
    mine_shard,
    open_miner,
    start_mining,
)
from hbt_ray.utils.folder_lock import lock_folder
from hbt_ray.utils.progress import track

if TYPE_CHECKING:
    from hbt_ray.models.text_embedder import TextEmbedder

Step = Callable[..., None]
_loaded: dict[str, TextEmbedder] = {}  # in the process of a task, for the next one


def mine_on_cluster(config: RunConfig, model: str, out: str | Path, **prefixes: Unpack[Prefixes]) -> MinedCorpora:
    """Run `mining.mine` with tasks for parts of each language, on a GPU where nodes have one, else on a CPU.

    Corpora are read, rows sorted and files joined in tasks. On a cluster of one node without a GPU the driver embeds
    texts and searches them itself, part by part, because it has loaded the libraries already. No cluster is joined
    where no language is left to mine.

    Args:
        config: as in `mining.mine`.
        model: folder or hub name.
        out: a folder that every node can access.
        prefixes: as in `mining.mine`.

    Raises:
        ClusterError: a task failed. Also the errors of `mining.mine`.
    """
    out = Path(out).expanduser().resolve()
    with lock_folder(out):
        return _mine_on_cluster(config, model, out, prefixes)


def _mine_on_cluster(config: RunConfig, model: str, out: Path, prefixes: Prefixes) -> MinedCorpora:
    embedder = open_miner(config, model, **prefixes)
    with unwrap_ray_errors("mining"):
        mining = start_mining(config, model, embedder, out, _open_engine)
        languages = mining.unfinished()
        if languages:
            connect()
            _mine_languages(mining, languages, config, model, embedder)
    return finish_mining(mining)


def _open_engine() -> RayData:
    connect()
    return RayData()


def _mine_languages(
    mining: MiningRun, languages: Sequence[str], config: RunConfig, model: str, embedder: TextEmbedder
) -> None:
    """Run the steps of `mining.mine_language` one after the other, each for all languages."""
    gpu = has_gpus(1)
    is_here = not gpu and len(node_resources("CPU")) == 1
    # Nodes may have other devices than the driver; "auto" is resolved once for all.
    config = replace_in(config, "evaluate.precision", "bf16" if embedder.bf16 else "fp32")

    def run(description: str, step: Step, jobs: Sequence[tuple[Any, ...]], gpus: int = 0) -> None:
        cpus = 1 if gpus else max_units_per_worker(node_resources("CPU"), len(jobs))
        steps = run_in_order(_run_step, [(step, cpus, *job) for job in jobs], description, cpus=cpus, gpus=gpus)
        for _ in track(steps, description, "parts", len(jobs)):
            pass

    prefixes = Prefixes(query_prefix=embedder.query_prefix, passage_prefix=embedder.passage_prefix)
    of_languages = [(mining, language) for language in languages]
    run("sorting rows", index_language, of_languages)
    texts = [(mining, x, *part) for x in languages for part in embedding_parts(mining, x)]
    if is_here:
        for job in track(texts, "embedding", "parts"):
            embed_texts(*job, embedder)
    else:
        run("embedding", _embed_texts, [(config, model, prefixes, *job) for job in texts], int(gpu))
    run("joining vectors", join_vectors, of_languages)
    shards = [(mining, x, number) for x in languages for number in range(count_shards(mining, x))]
    if is_here:
        for shard in track(shards, "mining", "shards"):
            mine_shard(*shard)
    else:
        run("mining", mine_shard, shards)
    run("joining negatives", finish_language, of_languages)


def _run_step(step: Step, threads: int, *arguments: object) -> None:
    configure_task(threads)
    step(*arguments)


def _embed_texts(
    config: RunConfig,
    model: str,
    prefixes: Prefixes,
    mining: MiningRun,
    language: str,
    side: Side,
    first: int,
) -> None:
    described = f"{model} {prefixes} {config.model} {config.evaluate}"
    if described not in _loaded:
        _loaded.clear()
        _loaded[described] = open_miner(config, model, **prefixes)
    embed_texts(mining, language, side, first, _loaded[described])
