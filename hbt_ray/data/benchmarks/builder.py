"""Build a benchmark from queries, passages and judgements in any order, and note the faults among them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from hbt_ray.data.text_files import rejected_row
from hbt_ray.data.types import Benchmark, Passage, Passages, Query, RejectedRow
from hbt_ray.errors import CorpusError
from hbt_ray.utils.string_column import StringColumn

# Faults of judgements, of which the first is shown if no judgement can be used.
_OF_JUDGEMENTS = {
    *("not a judgement", "judgement for a missing query", "judgement of a missing passage"),
    *("answer in no sentence", "answer not at its offset"),
}


@dataclass(frozen=True, slots=True)
class PassageBlock:
    """Passages of a file of one language, in the order of its lines; ids may repeat."""

    file_name: str
    language: str
    ids: pa.LargeStringArray  # (N,)
    texts: pa.LargeStringArray | Path  # (N,), or a file of them by `write_strings`
    lines: np.ndarray  # (N,) int64, counted from 1
    queries: list[tuple[str, str]]  # (id, location) of passages that are the query with the same id
    faults: list[tuple[str, str, str]]  # (location, reason, detail) of lines that are no passage


class BenchmarkBuilder:
    """Collects the entries of a benchmark. An entry that cannot be used is rejected; only `build` raises an error.

    A judgement of a passage that the pool lacks is kept: the query counts with a relevant passage that no model can
    retrieve, as in trec_eval.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.rejects: list[RejectedRow] = []
        self.contexts: list[str] = []
        self._queries: dict[str, Query] = {}
        self._passages: dict[str, Passage] = {}
        self._blocks: list[PassageBlock] = []  # passages of large files, if the format has them
        # (query_id, passage_id) -> (grade, language of the pool, location)
        self._judgements: dict[tuple[str, str], tuple[int, str, str]] = {}
        self._excluded: dict[str, tuple[str, str]] = {}  # query_id -> (passage_id, location)
        self._links: dict[tuple[str, tuple[str, str]], None] = {}  # (group, (language, text that it is on))

    @property
    def queries(self) -> list[Query]:
        """The queries added so far."""
        return list(self._queries.values())

    def reject(self, location: str, reason: str, detail: object = "") -> None:
        """Note an entry that cannot be used, or that has a fault."""
        self.rejects.append(rejected_row(self.name, location, reason, detail))

    def add_query(self, query_id: str, language: str, text: str, *, location: str, group: str = "") -> bool:
        """Add a query; `group` is equal for translations of one question. Return False if it is rejected."""
        key = printable_id(query_id)
        if key in self._queries:
            self.reject(location, "repeated query id", query_id)
        elif not text.strip():
            self.reject(location, "query without text", query_id)
        else:
            self._queries[key] = Query(key, language, text, group)
            return True
        return False

    def link_question(self, group: str, language: str, text: str) -> None:
        """Note the text that a group of queries is on. Groups with a text in common, in any language, are a cluster."""
        self._links[group, (language, text)] = None

    def add_passage(self, passage_id: str, language: str, text: str, *, location: str) -> bool:
        """Add a passage. Return False if it is rejected."""
        key = printable_id(passage_id)
        if key in self._passages:
            self.reject(location, "repeated passage id", passage_id)
        elif not text.strip():
            self.reject(location, "passage without text", passage_id)
        else:
            self._passages[key] = Passage(key, language, text)
            return True
        return False

    def add_blocks(self, blocks: Iterable[PassageBlock]) -> None:
        """Add the passages of a file. Of equal ids `build` keeps the first."""
        for block in blocks:
            self._blocks.append(block)
            for fault in block.faults:
                self.reject(*fault)
            for passage_id, location in block.queries:
                self.exclude_passage(passage_id, passage_id, location=location)

    def add_judgement(self, query_id: str, passage_id: str, grade: int, *, language: str, location: str) -> None:
        """Add a judgement. Queries and passages may be added later.

        Args:
            query_id: of the query.
            passage_id: of the passage.
            grade: relevant if > 0.
            language: of the pool that the passage belongs to.
            location: for rejects.
        """
        key = printable_id(query_id), printable_id(passage_id)
        if self._judgements.get(key, (grade,))[0] != grade:
            self.reject(location, "two judgements of one passage", " ".join(key))
            return
        self._judgements[key] = grade, language, location

    def exclude_passage(self, query_id: str, passage_id: str, *, location: str) -> None:
        """Leave a passage out of a query's ranking, because it has the query's text. A relevant one is kept.

        Of several passages the first is left out.
        """
        self._excluded.setdefault(printable_id(query_id), (printable_id(passage_id), location))

    def build(self, *, judged_only: bool, split: str = "", judged_elsewhere: Collection[str] = ()) -> Benchmark:
        """Return the benchmark, with rejects for faults between its entries.

        Args:
            judged_only: drop queries without a judgement, for formats with one file for the queries of all splits.
            split: of the files; "" if the benchmark has no splits.
            judged_elsewhere: ids of queries that another split judges. Other queries that are dropped are rejects.

        Raises:
            CorpusError: no query has a relevant passage in the pool, so that every metric would be 0.
        """
        passages = (
            self._merge_blocks() if self._blocks else sorted(self._passages.values(), key=attrgetter("passage_id"))
        )
        pool = self._in_pool(passages)
        judgements: dict[str, dict[str, int]] = {}
        absent: dict[str, str] = {}
        judged: set[str] = set()
        for (query_id, passage_id), (grade, language, location) in self._judgements.items():
            if query_id not in self._queries:
                self.reject(location, "judgement for a missing query", query_id)
                continue
            judged.add(query_id)
            if passage_id not in pool:
                if grade <= 0:
                    continue
                absent[passage_id] = language
                self.reject(location, "judgement of a missing passage", passage_id)
            judgements.setdefault(query_id, {})[passage_id] = grade
        clusters = _clusters(self._links)
        queries = [
            replace(query, cluster=clusters.get(query.group, ""))
            for key, query in self._queries.items()
            if not judged_only or key in judged
        ]
        if judged_only:
            silent = judged.union(map(printable_id, judged_elsewhere))
            for key in self._queries.keys() - silent:
                self.reject(key, "query without a judgement", self._queries[key].text)
        self._check_relevant(queries, judgements, pool, len(passages))
        self._reject_unanswerable(queries, judgements)
        excluded: dict[str, str] = {}
        for query in queries:
            passage_id, location = self._excluded.get(query.query_id, ("", ""))
            if passage_id in pool and judgements.get(query.query_id, {}).get(passage_id, 0) <= 0:
                excluded[query.query_id] = passage_id
                self.reject(location, "passage is the query itself", passage_id)
        return Benchmark(self.name, queries, passages, judgements, self.contexts, absent, excluded, self.rejects, split)

    def _merge_blocks(self) -> Sequence[Passage]:
        """Return the passages of all blocks, sorted by id; reject those whose id an earlier one has.

        UTF-8 sorts as code points do. The texts stay where they are, in the order of the files.
        """
        ids = pa.chunked_array([block.ids for block in self._blocks]).combine_chunks()
        if not len(ids):
            return []
        order = pc.sort_indices(ids)  # stable
        ids = ids.take(order)
        is_first = np.concatenate([[True], pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)])
        rows = order.to_numpy().astype(np.int64)
        sizes = [len(block.ids) for block in self._blocks]
        ends = np.cumsum(sizes)
        for row in np.sort(rows[~is_first]).tolist():
            number = int(np.searchsorted(ends, row, "right"))
            block, in_block = self._blocks[number], int(row - ends[number] + sizes[number])
            passage_id, location = block.ids[in_block].as_py(), f"{block.file_name}:{block.lines[in_block]}"
            self.reject(location, "repeated passage id", passage_id)
            if self._excluded.get(passage_id) == (passage_id, location):  # the line that is kept has another text
                del self._excluded[passage_id]
        ids, rows = ids.filter(pa.array(is_first)), rows[is_first]
        names = sorted({block.language for block in self._blocks})
        codes = np.array([names.index(block.language) for block in self._blocks], np.int16)
        languages = pa.DictionaryArray.from_arrays(np.repeat(codes, sizes)[rows], names)
        texts = StringColumn([block.texts for block in self._blocks], rows)
        return Passages(StringColumn([ids]), StringColumn([languages]), texts)

    def _in_pool(self, passages: Sequence[Passage]) -> Collection[str]:
        """Return the ids of passages, at least those that a judgement or an exclusion names."""
        if not isinstance(passages, Passages):
            return self._passages.keys()
        named = {key for _, key in self._judgements} | {key for key, _ in self._excluded.values()}
        return named.intersection(passages.ids)

    def _check_relevant(
        self, queries: list[Query], judgements: dict[str, dict[str, int]], pool: Collection[str], num_passages: int
    ) -> None:
        """Raise CorpusError if no query has a relevant passage in the pool; show a judgement that was rejected."""
        pairs = (pair for query in queries for pair in judgements.get(query.query_id, {}).items())
        if not num_passages or not self._queries or any(grade > 0 and key in pool for key, grade in pairs):
            return
        first = next((reject for reject in self.rejects if reject.reason in _OF_JUDGEMENTS), None)
        shown = f"; the first fault is {first.reason!r} at {first.location} ({first.detail})" if first else ""
        raise CorpusError(
            f"the benchmark {self.name!r} has no query with a relevant passage among its {num_passages}, so "
            f"every metric would be 0{shown}; compare the ids of its judgements with those of queries and passages"
        )

    def _reject_unanswerable(self, queries: list[Query], judgements: dict[str, dict[str, int]]) -> None:
        """Note queries without a relevant passage, and query languages without passages. The queries are kept."""
        for query in queries:
            if not any(grade > 0 for grade in judgements.get(query.query_id, {}).values()):
                self.reject(query.query_id, "query without a relevant passage")
        pool_languages = {passage.language for passage in self._passages.values()}
        pool_languages.update(block.language for block in self._blocks if len(block.ids))
        for language, number in sorted(Counter(query.language for query in queries).items()):
            if pool_languages and language not in pool_languages:
                self.reject(language, "language without passages", f"{number} queries")


def _clusters(links: Collection[tuple[str, tuple[str, str]]]) -> dict[str, str]:
    """Return the connected component of each group in the graph of groups and texts, named by its first group."""
    if not links:
        return {}
    groups = sorted({group for group, _ in links})
    texts = list(dict.fromkeys(text for _, text in links))
    row_of = {group: row for row, group in enumerate(groups)}
    column_of = {text: len(groups) + column for column, text in enumerate(texts)}
    ends = np.array([(row_of[group], column_of[text]) for group, text in links], np.int64).reshape(-1, 2).T
    size = len(groups) + len(texts)
    _, labels = connected_components(coo_matrix((np.ones(ends.shape[1]), tuple(ends)), (size, size)), directed=False)
    named: dict[int, str] = {}
    return {group: named.setdefault(label, group) for group, label in zip(groups, labels.tolist(), strict=False)}


def printable_id(text: str) -> str:
    """Return an id without white space, which separates the fields of a TREC file.

    >>> printable_id("United States#3")
    'United%20States#3'
    """
    return re.sub(r"\s", lambda blank: f"%{ord(blank[0]):02X}", text)
