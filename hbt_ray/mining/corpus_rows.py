"""The corpus rows for which negatives are mined, stored in a file for each language.

Legend: N rows of a language.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.config import RunConfig
from hbt_ray.data.components import find_components, item_key, link_items, list_text_keys
from hbt_ray.data.corpora import CorpusShard
from hbt_ray.data.prepare import count_items
from hbt_ray.data.row_tables import (
    REJECTED,
    REJECTS,
    check_languages,
    check_rejects,
    count_rejects,
    count_rows,
    count_rows_read,
    find_duplicate_items,
    location_order,
    read_rows,
    rejects_of,
    write_rejects,
)
from hbt_ray.data.store_inputs import index_evaluation_sets
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError
from hbt_ray.utils.digests import JsonObject

_KEPT = ("source", "item_id", "language", "question", "passage", "answer", "answer_start", "place")


def read_corpora(
    config: RunConfig, shards: Sequence[CorpusShard], evaluation_sets: Sequence[Benchmark], folder: Path
) -> tuple[JsonObject, list[str]]:
    """Read the corpora and write the accepted rows of each language, and a table of their items.

    - `rows/<language>.arrow`: the rows, with their items numbered in the order in which they were read
    - `items.arrow`: whether an item is left out or held out, and its component, by item number

    Only ids and a key for each text are held in memory.

    Args:
        config: the run.
        shards: the shards of its corpora.
        evaluation_sets: items that occur in them are left out.
        folder: where to write.

    Returns:
        For each source the numbers of rows read and items left out; and the languages to mine.

    Raises:
        CorpusError: too many rows are rejected, or no item or language is left.
    """
    rows = _RowCollector(folder)
    with contextlib.ExitStack() as files:
        evaluation = index_evaluation_sets(evaluation_sets, config.prepare.near_duplicate_threshold)
        for table in read_rows(shards, evaluation):
            rows.add(table, files)
    rows_read = count_rows_read(rows.counts)
    rejects = pa.concat_tables(rows.rejects)
    write_rejects(folder / REJECTS, rejects)
    check_rejects(rows_read, rejects, config.prepare.max_reject_share, folder / REJECTS)
    check_languages(config.corpora, dict(rows.counts))

    pairs = find_duplicate_items(pa.concat_tables(rows.pairs)).to_pylist()
    repeated = {rows.numbers[pair["source"], pair["item_id"]] for pair in pairs} - rows.occurring
    left_out = np.zeros(len(rows.numbers), bool)
    left_out[[*rows.occurring, *repeated]] = True
    components = find_components([link_items(pa.concat_tables(rows.text_keys))])
    keys = np.array([item_key(*name) for name in rows.numbers], np.uint64)
    held_out = components.held_out(keys, config.prepare.validation_share, count_items(rows.counts))
    if (left_out | held_out).all():
        raise CorpusError(
            f"no item is left to train on: {len(rows.occurring)} occur in evaluation sets, {len(repeated)} are "
            "repeated, and the others are held out"
        )
    component = components.of_items(keys)
    component = np.where(component == 0, keys, component)  # an item without links is a component
    _write_table(folder / "items.arrow", left_out=left_out, held_out=held_out, component=component)

    source_of = [source for source, _ in rows.numbers]
    dropped, dropped_as_repeated = (Counter(source_of[item] for item in items) for items in (rows.occurring, repeated))
    rejected = count_rejects(rejects)
    sources = {
        corpus.name: {
            "rows_read": rows_read[corpus.name],
            "rows_rejected": rejected[corpus.name].total(),
            "items_dropped_for_evaluation": dropped[corpus.name],
            "items_dropped_as_repeated": dropped_as_repeated[corpus.name],
        }
        for corpus in config.corpora
    }
    languages = [x for x in sorted(rows.writers) if config.languages is None or x in config.languages]
    if not languages:
        raise CorpusError(f"the corpora have none of the run's languages; they have {', '.join(sorted(rows.writers))}")
    return sources, languages


class _RowCollector:
    """Collects the rows of the corpora, table by table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers: dict[tuple[str, str], int] = {}  # of items, by source and id, ascending
        self.counts: Counter[tuple[str, str, str]] = Counter()  # as `count_rows`
        self.rejects = [REJECTED.empty_table()]
        self.occurring: set[int] = set()  # items that occur in evaluation sets
        self.pairs: list[pa.Table] = []  # for `find_duplicate_items`
        self.text_keys: list[pa.Table] = []  # for `link_items`
        self.writers: dict[str, pa.RecordBatchFileWriter] = {}  # by language

    def add(self, table: pa.Table, files: contextlib.ExitStack) -> None:
        """Count the rows of a table and write the accepted ones; opened files are registered with `files`."""
        self.counts.update(count_rows(table))
        self.rejects.append(rejects_of(table))
        accepted = table.filter(pc.is_null(table.column("rejected")))
        names = zip(accepted.column("source").to_pylist(), accepted.column("item_id").to_pylist(), strict=True)
        items = np.array([self.numbers.setdefault(name, len(self.numbers)) for name in names], np.int64)
        self.occurring.update(items[accepted.column("occurs_in_evaluation").is_valid().to_numpy()].tolist())
        self.pairs.append(accepted.select(["pair_key", "source", "item_id"]))
        self.text_keys.append(list_text_keys(accepted))
        accepted = accepted.select(_KEPT).append_column("item", pa.array(items))
        for language in accepted.column("language").unique().to_pylist():
            of_language = accepted.filter(pc.equal(accepted.column("language"), language))
            if language not in self.writers:
                file = self.folder / "rows" / f"{language}.arrow"
                self.writers[language] = _table_writer(files, file, of_language.schema)
            self.writers[language].write_table(of_language)


@dataclass(frozen=True, slots=True)
class LanguageRows:
    """The N rows of a language, sorted by source and item id."""

    sources: list[str]
    item_ids: list[str]
    questions: list[str]
    passages: list[str]
    answers: list[str | None]
    answer_starts: list[int]
    components: np.ndarray  # (N,) uint64, of their items
    trained_on: np.ndarray  # (N,) bool, False for held-out items

    @staticmethod
    def read(folder: Path, language: str) -> LanguageRows:
        """Read the rows of a language; of several rows of an item the first, as in `prepare.make_shard`."""
        table, roles = _read_table(folder / "rows" / f"{language}.arrow"), _read_table(folder / "items.arrow")
        items = table.column("item").to_numpy()
        sources, item_ids, places = (table.column(name).to_pylist() for name in ("source", "item_id", "place"))
        kept = np.flatnonzero(~roles.column("left_out").to_numpy()[items]).tolist()
        kept.sort(key=lambda row: (sources[row], item_ids[row], location_order(places[row])))
        rows = [next(same) for _, same in itertools.groupby(kept, key=lambda row: items[row])]

        def chosen(name: str) -> list[Any]:
            values = table.column(name).to_pylist()
            return [values[row] for row in rows]

        row_items = items[np.array(rows, np.int64)]
        return LanguageRows(
            sources=chosen("source"),
            item_ids=chosen("item_id"),
            questions=chosen("question"),
            passages=chosen("passage"),
            answers=chosen("answer"),
            answer_starts=chosen("answer_start"),
            components=roles.column("component").to_numpy()[row_items],
            trained_on=~roles.column("held_out").to_numpy()[row_items],
        )


def _table_writer(files: contextlib.ExitStack, file: Path, schema: pa.Schema) -> pa.RecordBatchFileWriter:
    return files.enter_context(pa.ipc.new_file(files.enter_context(pa.OSFile(str(file), "wb")), schema))


def _write_table(file: Path, **columns: np.ndarray) -> None:
    table = pa.table(columns)
    with contextlib.ExitStack() as files:
        _table_writer(files, file, table.schema).write_table(table)


def _read_table(file: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()
