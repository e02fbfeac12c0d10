"""The rows of a language, sorted, and its distinct texts: memory-mapped files that all who mine the language share.

Legend: N rows, P candidate passages.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.data.components import text_key
from hbt_ray.data.row_tables import location_order
from hbt_ray.mining.corpus_rows import ItemSelection, read_table, rows_of_language, table_writer
from hbt_ray.mining.negative_selection import candidate_pool

_ROWS_PER_BATCH = 4096


@dataclass(frozen=True, slots=True)
class LanguageIndex:
    """The N rows of a language, sorted by source and item id, and the texts that they name by number."""

    rows: pa.Table  # source, item_id, question and passage (numbers), answer, answer_start, component, trained_on
    questions: pa.Table  # `text`: distinct, in the order in which the rows have them
    passages: pa.Table
    pool_rows: np.ndarray  # (P,) int64, ascending: the rows whose passages may be negatives

    @staticmethod
    def write(read: Path, language: str, folder: Path) -> None:
        """Make the index of a language.

        1. Leave out items; of several rows of an item keep the first, as `prepare.make_shard` does.
        2. Sort the rows by source and item id.
        3. Number the distinct texts, and collect the candidates.

        Args:
            read: the folder that `read_corpora` wrote to.
            language: of the rows.
            folder: to make.
        """
        # 1.
        selection, rows = ItemSelection.read(read), rows_of_language(read, language)
        left_out, _ = selection.of(rows.column("item").to_numpy())
        rows = rows.filter(pa.array(~left_out, pa.bool_()))
        rows = rows.filter(_is_first(rows))
        # 2.
        rows = rows.cast(pa.schema([_with_large_offsets(field) for field in rows.schema]))
        rows = rows.take(pc.sort_indices(rows, [("source", "ascending"), ("item_id", "ascending")]))
        # 3.
        keys = rows.column("item").to_numpy()
        _, held_out = selection.of(keys)
        passage_keys = pc.fill_null(rows.column("passage_key"), text_key("passage", "")).to_numpy()
        question_numbers, questions = _distinct(rows, "question")
        passage_numbers, passages = _distinct(rows, "passage")
        tables = {
            "rows": rows.select(["source", "item_id", "answer", "answer_start"])
            .append_column("question", pa.array(question_numbers))
            .append_column("passage", pa.array(passage_numbers))
            .append_column("component", pa.array(selection.components_of(keys)))
            .append_column("trained_on", pa.array(~held_out, pa.bool_())),
            "questions": questions,
            "passages": passages,
            "pool": pa.table({"row": candidate_pool(passage_keys, ~held_out)}),
        }
        folder.mkdir()
        with contextlib.ExitStack() as files:
            for name, table in tables.items():
                writer = table_writer(files, folder / f"{name}.arrow", table.schema)
                writer.write_table(table, max_chunksize=_ROWS_PER_BATCH)

    @staticmethod
    def open(folder: Path) -> LanguageIndex:
        """Map the files of an index."""
        rows, questions, passages, pool = (
            read_table(folder / f"{name}.arrow") for name in ("rows", "questions", "passages", "pool")
        )
        return LanguageIndex(rows, questions, passages, pool.column("row").to_numpy())

    def column(self, name: str) -> np.ndarray:
        """Return a column of numbers of the rows, (N,)."""
        values: np.ndarray = self.rows.column(name).to_numpy()
        return values


def _is_first(rows: pa.Table) -> pa.Array:
    """Return which rows are the first of their items by their place in the corpus."""
    keys = rows.column("item").to_numpy()
    _, numbers, counts = np.unique(keys, return_inverse=True, return_counts=True)
    is_first = counts[numbers] == 1
    repeated = np.flatnonzero(~is_first)
    first: dict[int, tuple[tuple[str, int], int]] = {}
    for row, place in zip(repeated.tolist(), rows.column("place").take(repeated).to_pylist(), strict=True):
        found = (location_order(place), row)
        first[keys[row]] = min(found, first.get(keys[row], found))
    is_first[[row for _, row in first.values()]] = True
    return pa.array(is_first, pa.bool_())


def _with_large_offsets(field: pa.Field) -> pa.Field:
    """Return a field of texts with 64-bit offsets: those of a language may have more than 2 GiB."""
    return field.with_type(pa.large_string()) if pa.types.is_string(field.type) else field


def _distinct(rows: pa.Table, column: str) -> tuple[np.ndarray, pa.Table]:
    """Return the number of each row's text, (N,) int64, and the distinct texts in the order of their first rows."""
    encoded = rows.column(column).combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), pa.table({"text": encoded.dictionary})
