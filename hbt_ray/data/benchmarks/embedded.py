"""The embedded corpus as a benchmark: questions of the test split over passages of both splits."""

from __future__ import annotations

from hbt_ray.data.benchmarks.base import BenchmarkReader, ReadOptions
from hbt_ray.data.corpora.embedded.dataset import LANGUAGES, hash_fraction, items
from hbt_ray.data.types import Benchmark, Passage, Query
from hbt_ray.errors import CorpusError

# Split -> the number of items with questions (None: all of the test split), and of those in the pool, in each language.
_SIZES: dict[str, tuple[int | None, int]] = {"test": (None, 1000), "small": (200, 400)}


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """Return the questions of the test split, or with the split "small" of some of its items; `folder` is not used.

    The passage of a question's item is relevant in every language, with grade 1. The pool has the passages of the items
    with questions, of the other test items, and of training items, the last two in the order of a hash of their id.
    Questions of one relation are a cluster: they come from the same templates.

    Raises:
        CorpusError: there is no such split.
    """
    split = options.split or "test"
    if split not in _SIZES:
        raise CorpusError(f"the embedded benchmark has no split {split!r}; write one of {', '.join(_SIZES)}")
    num_queried, num_pooled = _SIZES[split]
    in_test = list(items("test"))
    if num_queried is not None:
        in_test.sort(key=lambda item: hash_fraction(item.item_id, "pool"))
    others = sorted(items("train"), key=lambda item: hash_fraction(item.item_id, "pool"))
    queried = sorted(in_test[:num_queried], key=lambda item: item.item_id)
    pool = [*in_test, *others][: max(num_pooled, len(queried))]
    ids = [(language, item, f"{language}:{item.item_id}") for item in queried for language in LANGUAGES]
    passages = [
        Passage(f"{language}:{item.item_id}", language, item.texts[language][1])
        for item in pool
        for language in LANGUAGES
    ]
    return Benchmark(
        name=name,
        queries=[
            Query(query_id, language, item.texts[language][0], item.item_id, item.item_id.partition("/")[0])
            for language, item, query_id in ids
        ],
        passages=sorted(passages, key=lambda passage: passage.passage_id),
        judgements={query_id: {f"{other}:{item.item_id}": 1 for other in LANGUAGES} for _, item, query_id in ids},
        split=split if options.split else "",
    )


READER = BenchmarkReader(read_benchmark, has_splits=True, needs_folder=False)
