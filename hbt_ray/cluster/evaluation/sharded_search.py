"""Embed passages with a pool of actors, and search them in shards held by other actors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.data
from ray import cloudpickle
from ray.actor import ActorHandle

from hbt_ray.cluster.errors import unwrap_ray_errors
from hbt_ray.cluster.resources import has_gpus
from hbt_ray.cluster.runtime import configure_task, node_resources
from hbt_ray.cluster.worker_counts import equal_share
from hbt_ray.config import EvaluateConfig
from hbt_ray.debiasing.language_means import LanguageMeans
from hbt_ray.errors import StoreError
from hbt_ray.retrieval.embedding_cache import (
    EmbeddingCache,
    VectorPart,
    write_cache_manifest,
    write_embedding_shard,
)
from hbt_ray.retrieval.exact_search import TopK
from hbt_ray.retrieval.faiss_index import IndexType
from hbt_ray.retrieval.passage_index import LocalShards, PassageIndex, ShardsOnDemand, cut_at, shard_bounds
from hbt_ray.retrieval.passage_shard import PassageIndexShard, Span
from hbt_ray.retrieval.passage_windows import WindowedPassages
from hbt_ray.utils.shared_folder import new_shared_folder

if TYPE_CHECKING:
    from hbt_ray.models.text_embedder import TextEmbedder

_MAX_MEMORY_FRACTION = 0.5  # of what the cluster has for tasks, to hold all vectors
_BYTES_ON_DEMAND = 2**28  # of vectors, read at once where memory cannot hold all


class _PassageEmbedder:
    """An actor with a model: maps a chunk of texts, pickled, to a file of vectors."""

    def __init__(self, open_embedder: Callable[[], TextEmbedder], folder: str) -> None:
        configure_task(threads=1)
        self.embedder = open_embedder()
        self.folder = Path(folder)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[int | str]]:
        [number], [chunk] = batch["number"], batch["chunk"]
        vectors = self.embedder.passages(cloudpickle.loads(chunk).texts())
        part = write_embedding_shard(self.folder, int(number), vectors)
        fields = {name: [value] for name, value in part._asdict().items()}
        return {"number": [int(number)], "width": [vectors.shape[1]], **fields}


def embed_passages(
    windows: WindowedPassages, open_embedder: Callable[[], TextEmbedder], name: str, cache: Path, actors: int
) -> EmbeddingCache:
    """Return the vectors of the passages' texts; actors embed them where they are not in the cache.

    Args:
        windows: whose texts are embedded.
        open_embedder: called in each actor.
        name: fingerprint of the vectors, the name of their folder in the cache.
        cache: a folder that every node can access.
        actors: maximum number; each takes one CPU, or one GPU where there is one for each.

    Raises:
        StoreError: the vectors cannot be written.
    """
    folder = cache / name
    # A chunk of texts on disk is pickled as their rows there.
    rows = [
        {"number": number, "chunk": cloudpickle.dumps(windows.chunk(number))} for number in range(windows.num_chunks)
    ]
    gpu = has_gpus(actors)
    with new_shared_folder(folder, _fault_of_cache) as unfinished:
        if unfinished is None:
            return EmbeddingCache(folder)
        with unwrap_ray_errors("embedding"):
            embedded = (
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
        embedded.sort(key=lambda row: row["number"])
        parts = [VectorPart(row["file"], int(row["size"]), row["sha256"]) for row in embedded]
        write_cache_manifest(unfinished, parts, int(embedded[0]["width"]))
    return EmbeddingCache(folder)


def _fault_of_cache(folder: Path) -> str | None:
    try:
        EmbeddingCache(folder)
    except StoreError as error:
        return str(error)
    return None


class _IndexOfShards(PassageIndex):
    """An actor that holds some shards' vectors and searches them; to the driver it is one shard."""

    def __init__(
        self,
        folder: str,
        parts: list[tuple[int, np.ndarray, np.ndarray | None]],
        index_type: IndexType,
        means: LanguageMeans | None = None,
        mean_rows: Sequence[np.ndarray] = (),
        *,
        on_demand: bool = False,
    ) -> None:
        """Read the vectors, subtract the means of their languages, and build the indexes.

        Args:
            folder: of the vectors, as `embed_passages` writes them.
            parts: per shard, its first passage index and its windows (`WindowedPassages.of_passages`).
            index_type: of every shard.
            means: None: nothing is subtracted.
            mean_rows: per shard, the rows of its windows' means.
            on_demand: whether a shard is read whenever it is searched, so that memory holds one of them.
        """
        cache = EmbeddingCache(Path(folder))
        self._size = sum(len(rows if starts is None else starts) for _, rows, starts in parts)

        def open_shard(number: int) -> PassageIndexShard:
            first, rows, starts = parts[number]
            vectors = cache.take(rows)
            if means is not None:
                vectors = means.subtract(vectors, mean_rows[number], "passages")
            return PassageIndexShard(vectors, first, index_type, starts)

        shards = ShardsOnDemand(open_shard, len(parts))
        super().__init__(LocalShards(shards if on_demand else list(shards)))

    def size(self) -> int:
        """Return the number of passages, without a pass through shards that are opened on demand."""
        return self._size

    def peak_memory(self) -> int:
        """Return the peak resident memory of this process in bytes."""
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class RayShards:
    """A `ShardBackend` of actors, which search at the same time. Arrays are put in the object store once for all."""

    def __init__(self, actors: Sequence[ActorHandle]) -> None:
        self._actors = actors

    def size(self) -> list[int]:
        return self._get(actor.size.remote() for actor in self._actors)

    def top_k(self, queries: np.ndarray, k: int, span: tuple[int, int] | None) -> list[TopK]:
        queries_ref = ray.put(queries)
        return self._get(actor.top_k.remote(queries_ref, k, span) for actor in self._actors)

    def exact_top_k(self, queries: np.ndarray, k: int, span: tuple[int, int] | None) -> list[TopK]:
        queries_ref = ray.put(queries)
        return self._get(actor.exact_top_k.remote(queries_ref, k, span) for actor in self._actors)

    def scores_of(self, queries: np.ndarray, passage_indices: np.ndarray) -> list[np.ndarray]:
        refs = (ray.put(queries), ray.put(passage_indices))
        return self._get(actor.scores_of.remote(*refs) for actor in self._actors)

    def counts_above(
        self, queries: np.ndarray, scores: np.ndarray, passage_indices: np.ndarray, spans: Sequence[Span]
    ) -> list[np.ndarray]:
        refs = (ray.put(queries), ray.put(scores), ray.put(passage_indices))
        return self._get(actor.counts_above.remote(*refs, spans) for actor in self._actors)

    def vectors_of(self, passage_indices: np.ndarray) -> list[np.ndarray]:
        indices_ref = ray.put(passage_indices)
        return self._get(actor.vectors_of.remote(indices_ref) for actor in self._actors)

    def _get(self, results: Iterable[ray.ObjectRef]) -> list[Any]:
        with unwrap_ray_errors("searching"):
            return ray.get(list(results))


@contextlib.contextmanager
def sharded_index(
    folder: Path,
    windows: WindowedPassages,
    settings: EvaluateConfig,
    edges: Sequence[int] = (),
    centring: tuple[LanguageMeans, np.ndarray] | None = None,
) -> Iterator[tuple[PassageIndex, list[ActorHandle]]]:
    """Open an index over the vectors of a folder in `settings.shards` actors; the actors end with the block.

    Each actor takes one CPU, or where there are fewer the largest fraction with which all fit on the nodes. Where the
    vectors take more than half of the cluster's memory, actors of flat indexes read them in parts for each search.

    Args:
        folder: of the vectors.
        windows: which of the vectors are which passage's.
        settings: shards, index type and depth.
        edges: passage indices at which an approximate index is cut, so that the spans between them can be searched.
        centring: means to subtract from the vectors, and their rows (W,), `mean_rows_of_windows`.

    Yields:
        The index, and the actors.

    Raises:
        ClusterError: an actor failed.
    """
    bounds = shard_bounds(windows.num_passages, settings.shards)
    cpus = equal_share(node_resources("CPU"), len(bounds))
    is_flat = settings.index == "flat"
    size = len(windows.rows) * EmbeddingCache(folder).width * 4
    on_demand = is_flat and size > _MAX_MEMORY_FRACTION * sum(node_resources("memory"))
    parts_of_shard = -(-size // (len(bounds) * _BYTES_ON_DEMAND)) if on_demand else 1
    actor_class = ray.remote(num_cpus=cpus)(_IndexOfShards)
    actors = []
    for first, last in bounds:
        flat_cuts = [(first + start, first + stop) for start, stop in shard_bounds(last - first, parts_of_shard)]
        cuts = flat_cuts if is_flat else cut_at(first, last, edges)
        parts = [(start, *windows.of_passages(start, stop)) for start, stop in cuts]
        of_means: tuple[object, ...] = ()
        if centring is not None:
            mean_rows = replace(windows, rows=centring[1])
            of_means = (centring[0], [mean_rows.of_passages(start, stop)[0] for start, stop in cuts])
        actors.append(actor_class.remote(str(folder), parts, settings.index, *of_means, on_demand=on_demand))
    try:
        yield PassageIndex(RayShards(actors), None if is_flat else settings.index_depth), actors
    finally:
        for actor in actors:
            ray.kill(actor)
