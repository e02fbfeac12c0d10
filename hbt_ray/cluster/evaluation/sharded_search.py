"""Passages embedded by a pool of actors, and searched in shards that lie with other actors."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
import torch

from hbt_ray.cluster.errors import unwrap_ray_errors
from hbt_ray.cluster.runtime import configure_logging, node_resources
from hbt_ray.config import EvaluateConfig
from hbt_ray.models.text_embedder import TextEmbedder
from hbt_ray.retrieval.embedding_cache import MANIFEST, EmbeddingCache, write_cache_manifest, write_embedding_shard
from hbt_ray.retrieval.passage_index import PassageIndex, PassageIndexShard, cut_at, shard_bounds
from hbt_ray.retrieval.passage_windows import WindowedPassages


class _PassageEmbedder:
    """An actor with a model: texts in, a file of vectors out."""

    def __init__(self, open_embedder: Any, folder: str) -> None:
        configure_logging()
        torch.set_num_threads(1)
        self.embedder: TextEmbedder = open_embedder()
        self.folder = Path(folder)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        [number], [texts] = batch["number"], batch["texts"]
        vectors = self.embedder.passages([str(text) for text in texts])
        file = write_embedding_shard(self.folder, int(number), vectors)
        return {"number": [int(number)], "file": [file], "size": [len(vectors)], "width": [vectors.shape[1]]}


def embed_passages(pieces: WindowedPassages, open_embedder: Any, name: str, cache: Path, actors: int) -> EmbeddingCache:
    """The vectors of the passages' texts, made by actors where they are not in the cache.

    Args:
        open_embedder: called in each actor, gives a `TextEmbedder`.
        name: fingerprint of the vectors, under which they are kept.
        cache: a folder that every node sees.
        actors: how many at most; each takes one CPU, or one GPU where every one can have one.

    Raises:
        StoreError: the vectors cannot be written.
    """
    folder = cache / name
    if (folder / MANIFEST).exists():
        return EmbeddingCache(folder)
    unfinished = cache / f"{name}.partial-{uuid.uuid4().hex[:8]}"
    unfinished.mkdir(parents=True)
    rows = [{"number": number, "texts": texts} for number, texts in enumerate(pieces.chunks())]
    gpu = sum(map(int, node_resources("GPU"))) >= actors
    try:
        with unwrap_ray_errors("embedding"):
            made = (
                ray.data.from_items(rows, override_num_blocks=len(rows))
                .map_batches(
                    _PassageEmbedder,
                    fn_constructor_args=(open_embedder, str(unfinished)),
                    batch_size=1,
                    num_cpus=0 if gpu else 1,
                    num_gpus=1 if gpu else 0,
                    compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(actors, len(rows))),
                )
                .take_all()
            )
        made.sort(key=lambda row: row["number"])
        write_cache_manifest(
            unfinished, [row["file"] for row in made], [row["size"] for row in made], int(made[0]["width"])
        )
        with contextlib.suppress(OSError):  # another was first, and made the same
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return EmbeddingCache(folder)


@ray.remote
class _ShardActor:
    """Shards in a process of their own: it holds no more than its part of the vectors."""

    def __init__(self, folder: str, parts: list[tuple[int, np.ndarray, np.ndarray | None]], kind: Any) -> None:
        """
        Args:
            parts: per shard, the column of its first passage and its windows (`WindowedPassages.of_passages`).
        """
        files = EmbeddingCache(Path(folder))
        self.pool = PassageIndex.of(
            *(PassageIndexShard(files.take(rows), first, kind, starts) for first, rows, starts in parts)
        )

    def ask(self, question: str, *arguments: Any) -> Any:
        return getattr(self.pool, question)(*arguments)

    def peak_memory(self) -> int:
        """Bytes that this process has held at most."""
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def sharded_pool(
    folder: Path, pieces: WindowedPassages, settings: EvaluateConfig, edges: Sequence[int] = ()
) -> Iterator[tuple[PassageIndex, list[Any]]]:
    """Passages whose vectors are in a folder, in `settings.shards` actors, as long as it is open.

    Each actor has a CPU, or its share of them. Gives the pool, and the actors themselves.

    Args:
        edges: columns at which an approximate index is cut, so that what lies between them can be searched alone.
    """
    bounds = shard_bounds(pieces.num_passages, settings.shards)
    cpus = min(1.0, sum(node_resources("CPU")) / len(bounds))
    flat = settings.index == "flat"
    actors = []
    for first, last in bounds:
        cuts = [(first, last)] if flat else cut_at(first, last, edges)
        parts = [(start, *pieces.of_passages(start, stop)) for start, stop in cuts]
        actors.append(_ShardActor.options(num_cpus=cpus).remote(str(folder), parts, settings.index))  # type: ignore[attr-defined]

    def ask(question: str, *arguments: Any) -> list[Any]:
        shared = [ray.put(argument) if isinstance(argument, np.ndarray) else argument for argument in arguments]
        with unwrap_ray_errors("searching"):
            return ray.get([actor.ask.remote(question, *shared) for actor in actors])

    try:
        yield PassageIndex(ask, None if settings.index == "flat" else settings.index_depth), actors
    finally:
        for actor in actors:
            ray.kill(actor)
