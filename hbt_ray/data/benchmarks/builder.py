"""Queries, passages and judgements as a reader finds them, in whatever order, and what is wrong with them."""

from __future__ import annotations

import re
from collections import Counter

from hbt_ray.data.types import Benchmark, Passage, Query, RejectedRow


class BenchmarkBuilder:
    """Gathers a benchmark. What cannot be used is noted and left out; it never ends the reading.

    A judgement of a passage that is not there stays: the query is counted with a relevant passage that nothing
    can find, as trec_eval counts it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.rejects: list[RejectedRow] = []
        self.contexts: list[str] = []
        self._queries: dict[str, Query] = {}
        self._passages: dict[str, Passage] = {}
        self._judgements: dict[tuple[str, str], tuple[int, str, str]] = {}
        self._excluded: dict[str, str] = {}

    @property
    def queries(self) -> list[Query]:
        """Those taken so far."""
        return list(self._queries.values())

    def reject(self, location: str, reason: str, detail: object = "") -> None:
        """Notes something that cannot be used, and where it stood."""
        self.rejects.append(RejectedRow(self.name, location, reason, str(detail)[:200]))

    def add_query(self, query_id: str, language: str, text: str, *, location: str, group: str = "") -> bool:
        """Whether the query was taken. `group` is the same for translations of one question."""
        key = printable_id(query_id)
        if key in self._queries:
            self.reject(location, "repeated query id", query_id)
        elif not text.strip():
            self.reject(location, "query without text", query_id)
        else:
            self._queries[key] = Query(key, language, text, group)
            return True
        return False

    def add_passage(self, passage_id: str, language: str, text: str, *, location: str) -> bool:
        """Whether the passage was taken."""
        key = printable_id(passage_id)
        if key in self._passages:
            self.reject(location, "repeated passage id", passage_id)
        elif not text.strip():
            self.reject(location, "passage without text", passage_id)
        else:
            self._passages[key] = Passage(key, language, text)
            return True
        return False

    def add_judgement(self, query_id: str, passage_id: str, grade: int, *, language: str, location: str) -> None:
        """Notes a judgement. `language` is that of the pool in which the passage should be."""
        key = printable_id(query_id), printable_id(passage_id)
        if self._judgements.get(key, (grade,))[0] != grade:
            self.reject(location, "two judgements of one passage", " ".join(key))
            return
        self._judgements[key] = grade, language, location

    def exclude_passage(self, query_id: str, passage_id: str) -> None:
        """Says that a query is a passage itself, which is then never in its list. Either may not be there."""
        self._excluded[printable_id(query_id)] = printable_id(passage_id)

    def build(self, *, judged_only: bool, split: str = "") -> Benchmark:
        """What was gathered.

        Args:
            judged_only: leave out queries that no judgement names, as where one file holds the queries of all splits.
            split: what the files that were read are of; "" where there are none.
        """
        judgements: dict[str, dict[str, int]] = {}
        absent: dict[str, str] = {}
        judged: set[str] = set()
        for (query_id, passage_id), (grade, language, location) in self._judgements.items():
            if query_id not in self._queries:
                self.reject(location, "judgement for a missing query", query_id)
                continue
            judged.add(query_id)
            if passage_id not in self._passages:
                if grade <= 0:
                    continue
                absent[passage_id] = language
                self.reject(location, "judgement of a missing passage", passage_id)
            judgements.setdefault(query_id, {})[passage_id] = grade
        queries = [query for key, query in self._queries.items() if not judged_only or key in judged]
        for query in queries:
            if not any(grade > 0 for grade in judgements.get(query.query_id, {}).values()):
                self.reject(query.query_id, "query without a relevant passage")
        have = {passage.language for passage in self._passages.values()}
        for language, number in sorted(Counter(query.language for query in queries).items()):
            if have and language not in have:
                self.reject(language, "language without passages", f"{number} queries")
        passages = sorted(self._passages.values(), key=lambda passage: passage.passage_id)
        pairs = ((query.query_id, self._excluded.get(query.query_id)) for query in queries)
        excluded = {query_id: passage_id for query_id, passage_id in pairs if passage_id in self._passages}
        return Benchmark(self.name, queries, passages, judgements, self.contexts, absent, excluded, self.rejects, split)


def printable_id(text: str) -> str:
    """An id that stands in a TREC file as one word.

    >>> printable_id("United States#3")
    'United%20States#3'
    """
    return re.sub(r"\s", lambda blank: f"%{ord(blank[0]):02X}", text)
