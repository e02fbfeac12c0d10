"""The embedded corpus as a benchmark: questions of the test split over passages of both splits."""

from __future__ import annotations

from hbt_ray.data.benchmarks.base import BenchmarkReader, ReadOptions
from hbt_ray.data.corpora.embedded.dataset import LANGUAGES, hash_fraction, items
from hbt_ray.data.types import Benchmark, Passage, Query

POOL_ITEMS = 1000  # in each language


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """Return the questions of the test split; `folder` and `options` are not used.

    The passage of a question's item is relevant in every language, with grade 1. The pool has the passages of
    `POOL_ITEMS` items: those of the test split, and training items in the order of a hash of their id.
    """
    queried = items("test")
    others = sorted(items("train"), key=lambda item: hash_fraction(item.item_id, "pool"))
    pool = [*queried, *others][: max(POOL_ITEMS, len(queried))]
    ids = [(language, item, f"{language}:{item.item_id}") for item in queried for language in LANGUAGES]
    passages = [
        Passage(f"{language}:{item.item_id}", language, item.texts[language][1])
        for item in pool
        for language in LANGUAGES
    ]
    return Benchmark(
        name=name,
        queries=[Query(query_id, language, item.texts[language][0], item.item_id) for language, item, query_id in ids],
        passages=sorted(passages, key=lambda passage: passage.passage_id),
        judgements={query_id: {f"{other}:{item.item_id}": 1 for other in LANGUAGES} for _, item, query_id in ids},
    )


READER = BenchmarkReader(read_benchmark, needs_folder=False)
