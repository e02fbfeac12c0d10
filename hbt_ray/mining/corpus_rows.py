"""The corpus rows for which negatives are mined, stored in files of each language by those who read the corpora."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.config import RunConfig
from hbt_ray.data.components import ItemComponents, item_keys
from hbt_ray.data.corpora import CorpusShard, split_shards
from hbt_ray.data.engine import Engine, RowTables
from hbt_ray.data.left_out import find_left_out, link_kept_items, summarize_rows
from hbt_ray.data.prepare import count_items
from hbt_ray.data.row_tables import (
    REJECTS,
    check_languages,
    check_rejects,
    count_rejects,
    count_rows_read,
    read_rows,
    write_rejects,
)
from hbt_ray.data.store_inputs import index_evaluation_sets
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError
from hbt_ray.utils.atomic_write import atomic_file
from hbt_ray.utils.digests import JsonObject

_TEXTS = ("question", "passage", "negatives", "answer", "answer_start")  # not needed to select items
_STORED = ("source", "item_id", "language", "question", "passage", "answer", "answer_start", "place", "passage_key")
_ROWS, _SELECTION = "rows", "items.arrow"


def read_corpora(
    config: RunConfig,
    shards: Sequence[CorpusShard],
    evaluation_sets: Sequence[Benchmark],
    folder: Path,
    engine: Engine,
) -> tuple[JsonObject, list[str]]:
    """Read the corpora and write the accepted rows of each language, and which items are left out or held out.

    - `rows/<language>/<part>.arrow`: the rows of a part of the corpora, with the keys of their items
    - `items.arrow`: an `ItemSelection`

    Args:
        config: the run.
        shards: the shards of its corpora.
        evaluation_sets: items that occur in them are left out.
        folder: where to write; every process of the engine sees it.
        engine: that reads; this process receives keys and counts.

    Returns:
        For each source the numbers of rows read and items left out; and the languages to mine.

    Raises:
        CorpusError: too many rows are rejected, or no item or language is left.
    """
    parts = split_shards(shards)
    evaluation = engine.share(index_evaluation_sets(evaluation_sets, config.prepare.near_duplicate_threshold))

    def read(numbers: Sequence[int]) -> Iterator[pa.Table]:
        for number in numbers:
            yield from _store_rows(read_rows([parts[number]], evaluation()), folder / _ROWS, number)

    rows = engine.read(len(parts), read)
    summary = summarize_rows(rows)
    rows_read = count_rows_read(summary.counts)
    write_rejects(folder / REJECTS, summary.rejects)
    check_rejects(rows_read, summary.rejects, config.prepare.max_reject_share, folder / REJECTS)
    check_languages(config.corpora, summary.counts)

    left_out = find_left_out(rows, summary.contaminated)
    components, kept = link_kept_items(rows, summary, left_out, engine)
    selection = ItemSelection(left_out.keys, components, config.prepare.validation_share, count_items(kept))
    if not _is_any_trained_on(rows, engine, selection):
        raise CorpusError(f"no item is left to train on: {left_out}, and the others are held out")
    selection.write(folder)

    dropped, dropped_as_repeated = (
        Counter(items.column("source").to_pylist()) for items in (left_out.contaminated, left_out.repeated)
    )
    rejected = count_rejects(summary.rejects)
    sources = {
        corpus.name: {
            "rows_read": rows_read[corpus.name],
            "rows_rejected": rejected[corpus.name].total(),
            "items_dropped_for_evaluation": dropped[corpus.name],
            "items_dropped_as_repeated": dropped_as_repeated[corpus.name],
        }
        for corpus in config.corpora
    }
    found = sorted({language for _, language, reason in summary.counts if not reason})
    languages = [x for x in found if config.languages is None or x in config.languages]
    if not languages:
        raise CorpusError(f"the corpora have none of the run's languages; they have {', '.join(found)}")
    return sources, languages


def _store_rows(tables: Iterable[pa.Table], folder: Path, part: int) -> Iterator[pa.Table]:
    """Write the accepted rows of a part, a file for each language, and yield all rows without their texts."""
    writers: dict[str, pa.RecordBatchFileWriter] = {}
    with contextlib.ExitStack() as files:
        for table in tables:
            accepted = table.filter(pc.is_null(table.column("rejected")))
            stored = accepted.select(_STORED).append_column("item", pa.array(item_keys(accepted)))
            for language in stored.column("language").unique().to_pylist():
                if language not in writers:
                    file = folder / language / f"{part:05}.arrow"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    partial = files.enter_context(atomic_file(file, unique=True))
                    writers[language] = table_writer(files, partial, stored.schema)
                writers[language].write_table(stored.filter(pc.equal(stored.column("language"), language)))
            yield table.drop_columns(list(_TEXTS))


def _is_any_trained_on(rows: RowTables, engine: Engine, selection: ItemSelection) -> bool:
    shared = engine.share(selection)

    def count(table: pa.Table) -> pa.Table:
        keys = item_keys(table.filter(pc.is_null(table.column("rejected"))))
        left_out, held_out = shared().of(keys)
        return pa.table({"rows": [np.count_nonzero(~(left_out | held_out))]})

    return sum(pc.sum(table.column("rows")).as_py() for table in rows.map(count)) > 0


@dataclass(frozen=True, slots=True)
class ItemSelection:
    """Items that are left out or held out, and those that have texts in common, by their keys."""

    left_out: np.ndarray  # uint64, sorted
    components: ItemComponents
    validation_share: float
    num_items: int

    def of(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of some items are left out, and which are held out: (N,) uint64 -> (N,) bool each."""
        held_out = self.components.held_out(keys, self.validation_share, self.num_items)
        return np.isin(keys, self.left_out), held_out

    def components_of(self, keys: np.ndarray) -> np.ndarray:
        """Return the component of each item, (N,) uint64; an item without links is one."""
        found = self.components.of_items(keys)
        components: np.ndarray = np.where(found == 0, keys, found)
        return components

    def write(self, folder: Path) -> None:
        """Write `items.arrow`."""
        write_arrays(
            folder / _SELECTION,
            left_out=self.left_out,
            items=self.components.items,
            components=self.components.components,
            sizes=self.components.sizes,
            validation_share=np.array([self.validation_share]),
            num_items=np.array([self.num_items]),
        )

    @staticmethod
    def read(folder: Path) -> ItemSelection:
        """Read what `write` wrote."""
        read = read_arrays(folder / _SELECTION)
        components = ItemComponents(read["items"], read["components"], read["sizes"])
        return ItemSelection(
            read["left_out"], components, float(read["validation_share"][0]), int(read["num_items"][0])
        )


def rows_of_language(folder: Path, language: str) -> pa.Table:
    """Map the stored rows of a language, in the order in which the parts were read."""
    files = sorted((folder / _ROWS / language).glob("*.arrow"))
    return pa.concat_tables(map(read_table, files))


def write_arrays(file: Path, **arrays: np.ndarray) -> None:
    """Write arrays of one dimension and any lengths, as the only row of an Arrow file."""
    lists = {
        name: pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), pa.array(values))
        for name, values in arrays.items()
    }
    with contextlib.ExitStack() as files:
        table = pa.table(lists)
        table_writer(files, file, table.schema).write_table(table)


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Map what `write_arrays` wrote."""
    table = read_table(file)
    return {name: table.column(name).chunk(0).values.to_numpy() for name in table.column_names}


def table_writer(files: contextlib.ExitStack, file: Path, schema: pa.Schema) -> pa.RecordBatchFileWriter:
    """Open an Arrow file, closed with `files`."""
    return files.enter_context(pa.ipc.new_file(files.enter_context(pa.OSFile(str(file), "wb")), schema))


def read_table(file: Path) -> pa.Table:
    """Map an Arrow file."""
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()
