"""Items that are left out or held out, found where their rows are: the driver receives few of them.

The rows are tables of `ROWS`, of which no texts are needed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.data.components import ItemComponents, find_components, item_keys, link_items, list_text_keys
from hbt_ray.data.engine import Engine, RowTables
from hbt_ray.data.row_tables import ITEM, REJECTED, ROWS, RowCounts, count_rows, find_duplicate_items, rejects_of
from hbt_ray.utils.limits import load_json

_CONTAMINATED = pa.schema([ROWS.field(name) for name in ("source", "item_id", "language", "occurs_in_evaluation")])
KEYS_PER_BUCKET = 1 << 20  # of pairs or texts, that are compared in memory at a time


@dataclass(slots=True)
class RowSummary:
    """The counts of all rows, the rejected ones, and the items that occur in evaluation sets."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # see `RowCounts`
    rejects: pa.Table = field(default_factory=REJECTED.empty_table)
    contaminated: pa.Table = field(default_factory=_CONTAMINATED.empty_table)  # a row for each item
    texts: int = 0  # questions, passages and negatives


def summarize_rows(rows: RowTables) -> RowSummary:
    """Summarize rows in tasks, so that this process receives only those that are rejected or contaminated.

    A contaminated item is listed once, with the text of its last language.
    """
    columns = [*dict.fromkeys([*REJECTED.names, *_CONTAMINATED.names])]

    def summarize(table: pa.Table) -> pa.Table:
        counts = _listed_counts(table)
        texts = 2 * table.num_rows + len(pc.list_flatten(table.column("negative_keys")))
        table = table.select(columns)
        listed = [pc.is_valid(table.column(name)) for name in ("rejected", "occurs_in_evaluation")]
        selected = pa.concat_tables([table.schema.empty_table(), table.filter(pc.or_(*listed))])
        none = pa.nulls(selected.num_rows, pa.string())
        counted = pa.table({"counts": pa.array([json.dumps([counts, texts])])})
        return pa.concat_tables([selected.append_column("counts", none), counted], promote_options="default")

    summary = RowSummary()
    rejects, contaminated = [summary.rejects], [summary.contaminated]
    for table in rows.map(summarize):
        for text in table.column("counts").drop_null().to_pylist():
            counts, texts = load_json(text)
            summary.texts += texts
            _add_counts(summary.counts, counts)
        rejects.append(rejects_of(table))
        contaminated.append(table.filter(pc.is_valid(table.column("occurs_in_evaluation"))).select(_CONTAMINATED.names))
    summary.rejects, summary.contaminated = pa.concat_tables(rejects), _last_of_items(pa.concat_tables(contaminated))
    return summary


def _listed_counts(rows: pa.Table) -> list[list[str | int]]:
    """Return `count_rows` as lists, for JSON."""
    return [[*key, number] for key, number in count_rows(rows).items()]


def _add_counts(counts: Counter[tuple[str, str, str]], listed: Iterable[tuple[str, str, str, int]]) -> None:
    """Add what `_listed_counts` returned."""
    for source, language, reason, number in listed:
        counts[source, language, reason] += number


def _last_of_items(rows: pa.Table) -> pa.Table:
    """Sort rows by source and item, then by their other columns, and keep the last of each item."""
    rows = rows.sort_by([(name, "ascending") for name in rows.column_names])
    names = [rows.column(name).combine_chunks() for name in ("source", "item_id")]
    differs = [pc.not_equal(name[1:], name[:-1]) for name in names]
    is_last = pa.concat_arrays([pc.or_(*differs), pa.array([True] * min(1, rows.num_rows), pa.bool_())])
    return rows.filter(is_last)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The items that are not trained on."""

    contaminated: pa.Table  # that occur in evaluation sets
    repeated: pa.Table  # and not contaminated
    keys: np.ndarray  # of both: uint64, sorted

    def __str__(self) -> str:
        return f"{self.contaminated.num_rows} occur in evaluation sets, {self.repeated.num_rows} are repeated"


def find_left_out(rows: RowTables, contaminated: pa.Table) -> LeftOut:
    """Find the items that repeat others, and join them to the contaminated ones of `summarize_rows`."""
    repeated = find_duplicates(rows)
    of_contaminated, of_repeated = item_keys(contaminated), item_keys(repeated)
    is_clean = pa.array(~np.isin(of_repeated, of_contaminated), pa.bool_())
    return LeftOut(contaminated, repeated.filter(is_clean), np.union1d(of_contaminated, of_repeated))


def find_duplicates(rows: RowTables) -> pa.Table:
    """Find the items that `find_duplicate_items` finds, in buckets of pair keys; each item once."""
    buckets = max(1, -(-rows.count() // KEYS_PER_BUCKET))

    def select_keys(table: pa.Table) -> pa.Table:
        accepted = table.filter(pc.is_null(table.column("rejected"))).select(["pair_key", "source", "item_id"])
        keys = accepted.column("pair_key").to_numpy() % buckets
        return accepted.append_column("bucket", pa.array(keys, pa.int64()))

    found = _map_buckets(rows.map(select_keys), find_duplicate_items, buckets)
    return _last_of_items(pa.concat_tables([ITEM.empty_table(), *found]))  # an engine may yield no empty table


def link_kept_items(
    rows: RowTables, summary: RowSummary, left_out: LeftOut, engine: Engine
) -> tuple[ItemComponents, RowCounts]:
    """Find the items that have texts in common, and count the rows, both of the items that are not left out.

    What is left out has no part in which items are held out: a corpus without it, such as that of mined negatives, has
    the same ones held out.
    """
    keys = engine.share(left_out.keys)
    counts = _count_kept(rows, keys) if len(left_out.keys) else summary.counts
    return _find_linked_items(rows, summary.texts, keys), counts


def _count_kept(rows: RowTables, left_out: Callable[[], np.ndarray]) -> RowCounts:
    def count(table: pa.Table) -> pa.Table:
        accepted = table.filter(pc.is_null(table.column("rejected")))
        kept = accepted.filter(pa.array(~np.isin(item_keys(accepted), left_out()), pa.bool_()))
        return pa.table({"counts": [json.dumps(_listed_counts(kept))]})

    counts = Counter[tuple[str, str, str]]()
    for table in rows.map(count):
        for text in table.column("counts").to_pylist():
            _add_counts(counts, load_json(text))
    return counts


def _find_linked_items(rows: RowTables, texts: int, left_out: Callable[[], np.ndarray]) -> ItemComponents:
    """Find the items that have texts in common, in buckets of text keys; this process receives only links."""
    buckets = max(1, -(-texts // KEYS_PER_BUCKET))

    def select_keys(table: pa.Table) -> pa.Table:
        keys = list_text_keys(table)
        bucket = keys.column("key").to_numpy() % np.uint64(buckets)
        return keys.append_column("bucket", pa.array(bucket.astype(np.int64)))

    def link(keys: pa.Table) -> pa.Table:
        is_kept = ~np.isin(keys.column("item").to_numpy(), left_out())
        return link_items(keys.filter(pa.array(is_kept, pa.bool_())))

    return find_components(_map_buckets(rows.map(select_keys), link, buckets))


def _map_buckets(rows: RowTables, function: Callable[[pa.Table], pa.Table], buckets: int) -> Iterable[pa.Table]:
    """Apply a function to the rows of each bucket; one bucket needs no shuffle."""
    return [rows.gather(function)] if buckets == 1 else rows.map_groups("bucket", function, buckets)
