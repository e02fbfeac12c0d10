"""Corpora as Arrow tables of checked rows: read, normalized, decontaminated, counted and deduplicated.

The functions need no cluster: `cluster/prepare.py` maps them over blocks of rows.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.config import CorpusConfig
from hbt_ray.data.components import text_key
from hbt_ray.data.corpora import CorpusShard, read_shard
from hbt_ray.data.decontamination import DecontaminationIndex, Match
from hbt_ray.data.text_files import UNANSWERABLE, UNREADABLE_FILE
from hbt_ray.data.text_normalization import clean_row, normalize_for_matching
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.errors import CorpusError
from hbt_ray.utils.counter_rng import Salt, stable_hash64

ROWS = pa.schema(
    [
        ("source", pa.string()),
        ("item_id", pa.string()),
        ("language", pa.string()),
        ("question", pa.string()),  # null in plain text
        ("passage", pa.string()),
        ("negatives", pa.list_(pa.string())),
        ("place", pa.string()),  # where it was read: "de.jsonl:17"
        ("answer", pa.string()),
        ("answer_start", pa.int64()),  # in the passage; -1: unknown
        ("pair_key", pa.int64()),  # equal if language, normalized question and normalized passage are equal
        ("question_key", pa.uint64()),  # equal if the normalized question is equal, in any language; null if it is ""
        ("passage_key", pa.uint64()),  # the same of the passage
        ("negative_keys", pa.list_(pa.uint64())),  # the same of the negatives
        ("occurs_in_evaluation", pa.string()),  # how, and the start of the evaluation text; null if it does not
        ("rejected", pa.string()),  # the reason; null for an accepted row
        ("detail", pa.string()),
    ]
)
REJECTED = pa.schema([ROWS.field(name) for name in ("source", "place", "rejected", "detail")])
ITEM = pa.schema([("source", pa.string()), ("item_id", pa.string())])
ROWS_PER_TABLE = 1024
REJECTS = "rejects.jsonl"

RowCounts = Mapping[tuple[str, str, str], int]  # (source, language or "" if rejected, reason or "" if accepted) -> rows


class RowRecord(TypedDict, total=False):
    """A row of a table; null and missing fields are None."""

    source: str
    item_id: str
    language: str
    question: str | None
    passage: str
    negatives: list[str]
    place: str
    answer: str | None
    answer_start: int
    pair_key: int
    question_key: int | None
    passage_key: int | None
    negative_keys: list[int]
    occurs_in_evaluation: str | None
    rejected: str | None
    detail: str | None


def read_rows(shards: Sequence[CorpusShard], evaluation: DecontaminationIndex | None) -> Iterator[pa.Table]:
    """Read, normalize and check every row of some shards, as tables of `ROWS`. Rejected rows are in them, too."""
    read = itertools.chain.from_iterable(map(read_shard, shards))
    while rows := list(itertools.islice(read, ROWS_PER_TABLE)):
        yield _table_of([clean_row(row) if isinstance(row, CorpusRow) else row for row in rows], evaluation)


def _table_of(rows: Sequence[CorpusRow | RejectedRow], evaluation: DecontaminationIndex | None) -> pa.Table:
    accepted = [row for row in rows if isinstance(row, CorpusRow)]
    questions = _normalize([row.question or "" for row in accepted])
    passages = _normalize([row.passage for row in accepted])
    matches_of_texts = zip(_find_all(evaluation, questions), _find_all(evaluation, passages), strict=True)
    matches = [question_match or passage_match for question_match, passage_match in matches_of_texts]
    # An item is not identified by its negatives, so only the matching negative is dropped.
    negatives = _normalize([text for row in accepted for text in row.negatives])
    negative_keys = iter([text_key("passage", negative) for negative in negatives])
    negative_matches = iter(_find_all(evaluation, negatives))
    kept = [
        [(text, key) for text, key in zip(row.negatives, negative_keys, strict=False) if next(negative_matches) is None]
        for row in accepted
    ]
    records = iter(
        RowRecord(
            source=row.source,
            item_id=row.item_id,
            language=row.language,
            question=row.question,
            passage=row.passage,
            negatives=[text for text, _ in kept_negatives],
            place=row.location,
            answer=row.answer,
            answer_start=row.answer_start,
            pair_key=_pair_key(row, question, passage),
            question_key=text_key("question", question) if question else None,
            passage_key=text_key("passage", passage) if passage else None,
            negative_keys=[key for _, key in kept_negatives],
            occurs_in_evaluation=f"{match.match_type}: {match.text[:100]}" if match else None,
        )
        for row, question, passage, match, kept_negatives in zip(
            accepted, questions, passages, matches, kept, strict=True
        )
    )
    ordered = [_rejected_record(row) if isinstance(row, RejectedRow) else next(records) for row in rows]
    return pa.Table.from_pylist(ordered, ROWS)


def _find_all(evaluation: DecontaminationIndex | None, normals: Sequence[str]) -> list[Match | None]:
    return [None] * len(normals) if evaluation is None else evaluation.find_all(normals)


def _normalize(texts: Sequence[str]) -> list[str]:
    return list(map(normalize_for_matching, texts))


def _pair_key(row: CorpusRow, question: str, passage: str) -> int:
    """Return a key that is equal for equal pairs. Rows of plain text have distinct keys: short lines often recur."""
    pair = (row.language, question, passage)
    parts = pair if row.question is not None else (Salt.PLAIN_TEXT, row.source, row.item_id)
    return stable_hash64(*parts) - 2**63


def _rejected_record(reject: RejectedRow) -> RowRecord:
    return {
        "source": reject.source,
        "place": reject.location,
        "rejected": reject.reason,
        "detail": reject.detail,
    }


def count_rows(rows: pa.Table) -> dict[tuple[str, str, str], int]:
    """Count the rows of a table, see `RowCounts`."""
    counts: Counter[tuple[str, str, str]] = Counter()
    columns = (rows.column(name).to_pylist() for name in ("source", "language", "rejected"))
    for source, language, reason in zip(*columns, strict=True):
        counts[source, language or "", reason or ""] += 1
    return dict(counts)


def count_rows_read(counts: RowCounts) -> dict[str, int]:
    """Count the rows of each source, accepted and rejected."""
    rows_read = Counter[str]()
    for (source, _, _), rows in counts.items():
        rows_read[source] += rows
    return dict(rows_read)


def rejects_of(rows: pa.Table) -> pa.Table:
    """Return the rejected rows of a table, as `REJECTED`."""
    return rows.filter(pc.is_valid(rows.column("rejected"))).select(REJECTED.names)


def rejects_table(rejects: Iterable[RejectedRow]) -> pa.Table:
    """Return rejected rows as a table of `REJECTED`, which takes a tenth of their memory."""
    return pa.Table.from_pylist(list(map(_rejected_record, rejects)), REJECTED)


def write_rejects(file: Path, rejects: pa.Table) -> None:
    """Write rejected rows, a table of `REJECTED`, as JSON Lines. The file does not depend on their order."""
    ordered = rejects.sort_by([(name, "ascending") for name in REJECTED.names])
    with file.open("w", encoding="utf-8") as lines:
        for batch in ordered.to_batches(max_chunksize=ROWS_PER_TABLE):
            for row in batch.to_pylist():
                lines.write(json.dumps(RejectedRow(*row.values()).record(), ensure_ascii=False) + "\n")


def check_rejects(rows_read: Mapping[str, int], rejects: pa.Table, max_fraction: float, file: Path) -> None:
    """Check that few enough rows of each source are rejected, and no file is unreadable.

    Args:
        rows_read: number of rows of each source, accepted and rejected.
        rejects: a table of `REJECTED`. Questions that are marked as unanswerable are no faults.
        max_fraction: of rejected rows in a source.
        file: that lists the rejects, for the message.

    Raises:
        CorpusError: the fraction of a source is above the maximum, or a file is unreadable.
    """
    unreadable = rejects.filter(pc.equal(rejects.column("rejected"), UNREADABLE_FILE))  # each any number of rows
    if unreadable.num_rows:
        [first] = unreadable.slice(0, 1).to_pylist()
        others = f"; {unreadable.num_rows - 1} more are in {file}" if unreadable.num_rows > 1 else ""
        raise CorpusError(
            f"{first['place']} of corpus {first['source']!r} cannot be read ({first['detail']}); "
            f"fetch it again or mend it{others}"
        )
    reasons = count_rejects(rejects.filter(pc.not_equal(rejects.column("rejected"), UNANSWERABLE)))
    for source in sorted(reasons):
        rejected = reasons[source].total()
        if rejected / rows_read[source] > max_fraction:  # divided, because 0.29 * 100 is less than 29
            reason, rows = reasons[source].most_common(1)[0]
            raise CorpusError(
                f"{rejected} of {rows_read[source]} rows of corpus {source!r} cannot be used, most often for "
                f"{reason!r} ({rows}); see {file}, mend them or raise prepare.max_reject_share"
            )


def count_rejects(rejects: pa.Table) -> dict[str, Counter[str]]:
    """Count the rows of a table of `REJECTED`, by source and reason."""
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for group in rejects.group_by(["source", "rejected"]).aggregate([([], "count_all")]).to_pylist():
        reasons[group["source"]][group["rejected"]] = group["count_all"]
    return reasons


def check_languages(corpora: Sequence[CorpusConfig], counts: RowCounts, wanted: Collection[str] = ()) -> None:
    """Check that each corpus, and each language that is configured for it, has an accepted row.

    Args:
        corpora: the sources.
        counts: of their rows.
        wanted: languages of a run, which some corpus must have.

    Raises:
        CorpusError: one has none, or a language has two spellings.
    """
    spellings: dict[str, str] = {}
    for _, language, reason in sorted(counts):
        spelling = spellings.setdefault(language.replace("_", "-"), language)
        if spelling != language and not reason:
            raise CorpusError(f"the corpora spell one language as {spelling!r} and {language!r}; write one of them")
    for corpus in corpora:
        found = {language for source, language, reason in counts if source == corpus.name and not reason}
        missing = sorted(set(corpus.languages or ()) - found)
        if missing or not found:
            lacks = f"no row in {missing[0]!r}" if missing else "no row that can be used"
            available = f"; it has {', '.join(sorted(found))}" if found else ""
            raise CorpusError(f"corpus {corpus.name!r} has {lacks}{available}")
    found = {language for _, language, reason in counts if not reason}
    absent = sorted(set(wanted) - found)
    if absent:
        raise CorpusError(f"languages: {absent[0]!r} is not in the corpora; there are {', '.join(sorted(found))}")


def find_duplicate_items(rows: pa.Table) -> pa.Table:
    """Find the items that have a pair of an earlier item in some language.

    Of the items with equal pairs, the first by (source, item_id) is kept. An item is a duplicate if it is not the
    first of one of its pairs.

    Args:
        rows: `pair_key`, `source` and `item_id` of all rows that have these pair keys.

    Returns:
        `source` and `item_id` of each duplicate, sorted.
    """
    _, pairs, counts = np.unique(rows.column("pair_key").to_numpy(), return_inverse=True, return_counts=True)
    rows = rows.filter(pa.array(counts[pairs] > 1, pa.bool_()))  # few, so that few become Python objects
    columns = (rows.column(name).to_pylist() for name in ("pair_key", "source", "item_id"))
    first: dict[int, tuple[str, str]] = {}
    duplicates: set[tuple[str, str]] = set()
    for pair_key, source, item_id in sorted(zip(*columns, strict=True)):
        if first.setdefault(pair_key, (source, item_id)) != (source, item_id):
            duplicates.add((source, item_id))
    items = [{"source": source, "item_id": item_id} for source, item_id in sorted(duplicates)]
    return pa.Table.from_pylist(items, schema=ITEM)


def without_negatives(rows: pa.Table, dropped: np.ndarray) -> pa.Table:
    """Drop negatives of rows, with their keys.

    Args:
        rows: a table of `ROWS`.
        dropped: of all negatives of the rows, one after the other, whether each is dropped: bool.
    """
    if not dropped.any():
        return rows
    kept = pa.array(~dropped, pa.bool_())
    for name in ("negatives", "negative_keys"):
        lists = rows.column(name).combine_chunks()
        parents = pc.list_parent_indices(lists).filter(kept).to_numpy()
        offsets = np.append(0, np.cumsum(np.bincount(parents, minlength=rows.num_rows)))
        values = pc.list_flatten(lists).filter(kept)
        shorter = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
        rows = rows.set_column(rows.column_names.index(name), name, shorter)
    return rows


def location_order(location: str) -> tuple[str, int]:
    """Return the sort key of a row's location: by line number, not by its digits.

    >>> sorted(["de.jsonl:11", "de.jsonl:5"], key=location_order)
    ['de.jsonl:5', 'de.jsonl:11']
    """
    file, _, line = location.rpartition(":")
    return (file, int(line)) if line.isdigit() else (location, 0)
