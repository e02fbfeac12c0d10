"""Benchmarks made from a parallel corpus, in the files of a published format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from hbt_ray.config import CorpusConfig
from hbt_ray.data.benchmarks.writers import write_benchmark
from hbt_ray.data.corpora import list_shards, read_shard
from hbt_ray.data.corpora.file_discovery import FINISHED
from hbt_ray.data.types import CorpusRow
from hbt_ray.errors import CorpusError
from hbt_ray.study.config import SyntheticBenchmark
from hbt_ray.utils.atomic_write import atomic_folder
from hbt_ray.utils.digests import is_done, mark_done
from hbt_ray.utils.storage import StoragePath


def make_benchmark(name: str, source: SyntheticBenchmark, folder: Path) -> None:
    """Write a benchmark's files, unless they exist with the same content.

    1. Read the corpus, and keep `items` evenly spaced items: their passages are searched.
    2. Of the kept items that are in the most languages, `questions` evenly spaced ones are the queries.

    Args:
        name: of the benchmark; the format is what precedes a slash: `beir/erp` is in BEIR's format.
        source: the corpus, and how much of it to use.
        folder: to write to.

    Raises:
        CorpusError: the corpus cannot be read, or has no question.
    """
    family = name.partition("/")[0]
    items = read_items(source.corpus)
    if not items:
        raise CorpusError(f"corpus {source.corpus.name!r} has no row with a question to make {name} from; correct it")
    kept = {item: items[item] for item in evenly_spaced(sorted(items), source.items or len(items))}
    max_languages = max(map(len, kept.values()), default=0)
    in_most_languages = sorted(item for item, texts in kept.items() if len(texts) == max_languages)
    queries = evenly_spaced(in_most_languages, source.questions)
    written = json.dumps([kept, queries], sort_keys=True)
    depends_on = {"format": family, "content": hashlib.sha256(written.encode()).hexdigest()[:16]}
    if is_done(StoragePath.of(folder / FINISHED), depends_on):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as partial:
        write_benchmark(family, kept, queries, partial)
        mark_done(StoragePath.of(partial / FINISHED), depends_on)


def read_items(corpus: CorpusConfig) -> dict[str, dict[str, tuple[str, str]]]:
    """Read a parallel corpus: item id -> language -> (question, passage). Raises CorpusError."""
    items: dict[str, dict[str, tuple[str, str]]] = {}
    for shard in list_shards(corpus):
        for row in read_shard(shard):
            if isinstance(row, CorpusRow) and row.question is not None:
                items.setdefault(row.item_id, {}).setdefault(row.language, (row.question, row.passage))
    return items


def evenly_spaced(values: Sequence[str], count: int) -> list[str]:
    """Return `count` evenly spaced values, or all if there are fewer.

    >>> evenly_spaced(["a", "b", "c", "d", "e"], 2)
    ['a', 'c']
    """
    step = max(len(values) / count, 1.0)
    return [values[int(index * step)] for index in range(min(count, len(values)))]
