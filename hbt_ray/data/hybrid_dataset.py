"""A data set for sentence-transformers whose examples pair a question of one row with the passage of another."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.config import Columns, RunConfig
from hbt_ray.data.corpora import list_shards
from hbt_ray.data.item_order import order_items
from hbt_ray.data.manifest import Split, StoreManifest
from hbt_ray.data.row_tables import read_rows, without_negatives
from hbt_ray.data.store_inputs import index_evaluation_sets, load_evaluation_sets
from hbt_ray.data.text_files import id_text
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import CorpusError, StoreError
from hbt_ray.utils.language_codes import language_code

logger = logging.getLogger(__name__)

ANCHOR, POSITIVE = "anchor", "positive"
COLUMNS = Columns(question=ANCHOR, passage=POSITIVE)

Rows: TypeAlias = "datasets.Dataset | Iterable[Mapping[str, Any]]"  # a data set, or a dictionary for each row


class PairIndex(int):
    """The index of a pair: the row of its question, with the row of its passage as an attribute.

    A sum or difference moves both rows, so that torch's `ConcatDataset` and the samplers over it can shift an index.
    """

    passage_row: int

    def __new__(cls, question_row: int, passage_row: int) -> PairIndex:
        index = super().__new__(cls, question_row)
        index.passage_row = passage_row
        return index

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return int(self), self.passage_row

    def __add__(self, offset: int) -> PairIndex:
        return PairIndex(int(self) + offset, self.passage_row + offset)

    __radd__ = __add__

    def __sub__(self, offset: int) -> PairIndex:
        return self + -offset


class HybridDataset(datasets.Dataset):
    """The rows of parallel items, one for each item and language, with columns as sentence-transformers trains on.

    The columns are `anchor` (the question), `positive` (the passage) and `negative_1`, ... An index that is a number
    returns a row. A `PairIndex` returns the question of one row with the passage and the negatives of another: that is
    how `HybridBatchSampler` pairs languages.

    Args:
        rows: a data set, or a dictionary for each row; or these by language.
        name: of the source, if no column `source` names it; the draws depend on it.
        columns: names of the columns of the id, the language, the question (default: `anchor`), the passage
            (`positive`) and the hard negatives (`negatives`: a list or a single text). Columns `negative`,
            `negative_1`, ... of one text each are read as well.
        hard_negatives: negatives of each example. Items with fewer are not drawn.

    Raises:
        CorpusError: a column is missing or of another type than text, or a row has no id, source, question, passage or
            known language.
    """

    def __init__(
        self,
        rows: Rows | Mapping[str, Rows],
        *,
        name: str = "data",
        columns: Columns = COLUMNS,
        hard_negatives: int = 0,
    ) -> None:
        table = _checked_table(_table_of_languages(rows, columns), columns, name)
        if not hard_negatives and pc.any(pc.greater(pc.list_value_length(table["negatives"]), 0)).as_py():
            logger.warning("the rows have negatives, and none is used; write hard_negatives=1 or more to use them")
        keys = _first_of_each(table, ["source", "item_id", "language"])
        counts = pc.fill_null(pc.list_value_length(keys["negatives"]), 0)
        manifest, ids = order_items(
            zip(*(keys[key].to_pylist() for key in ("source", "item_id", "language")), counts.to_pylist(), strict=True)
        )
        self._hold(table, manifest, ids, hard_negatives)

    @classmethod
    def from_store(cls, store: str | Path, config: RunConfig, split: Split = "train") -> HybridDataset:
        """Return the texts of a store's items, read from its corpora: the batches are those of `hbt plan --store`.

        A store has token ids only. What `prepare` left out is left out here.

        Args:
            store: its folder.
            config: of the run that the store was prepared for.
            split: of the store.

        Raises:
            StoreError: there is no such store, or the corpora lack some of its items.
            CorpusError: a corpus or evaluation set cannot be read.
        """
        opened = TokenStore.open(store)
        inputs = config.prepare_inputs
        evaluation = None
        if config.mix.hard_negatives:  # `prepare` drops negatives that occur in an evaluation set
            evaluation = index_evaluation_sets(load_evaluation_sets(inputs), inputs.prepare.near_duplicate_threshold)
        shards = [shard for corpus in inputs.corpora for shard in list_shards(corpus)]
        rows = pa.concat_tables(read_rows(shards, evaluation))
        rows = rows.filter(pc.is_null(rows["rejected"])).combine_chunks()
        if config.mix.hard_negatives and split == "train":
            rows = _without_held_out_negatives(rows, opened)
        ids = {
            name: opened.item_ids(name, np.arange(source.items(split)), split)
            for name, source in opened.manifest.sources.items()
        }
        dataset = cls.__new__(cls)
        table = rows.rename_columns({"question": ANCHOR, "passage": POSITIVE})
        dataset._hold(table, opened.manifest, ids, config.mix.hard_negatives, split)
        return dataset

    def _hold(
        self,
        table: pa.Table,
        manifest: StoreManifest,
        ids: Mapping[str, list[str]],
        hard_negatives: int,
        split: Split = "train",
    ) -> None:
        """Hold the texts, and where each item of the manifest is among them; `ids` are in the manifest's order."""
        texts = {ANCHOR: table[ANCHOR], POSITIVE: table[POSITIVE]}
        if hard_negatives:
            lists = [row or [] for row in table["negatives"].to_pylist()]
            for number in range(hard_negatives):
                column = [row[number] if number < len(row) else None for row in lists]
                texts[f"negative_{number + 1}"] = pa.array(column, pa.string())
        super().__init__(pa.table(texts))
        self.manifest, self.split_of_items, self.hard_negatives, self.epoch = manifest, split, hard_negatives, 0
        # Of each source: item number * languages + language, ascending, and the row of each.
        self._rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for source, of_source in ids.items():
            items = pc.index_in(table["item_id"], pa.array(of_source, pa.string()))
            languages = pc.index_in(table["language"], pa.array(manifest.languages, pa.string()))
            known = pc.and_(pc.equal(table["source"], source), pc.and_(pc.is_valid(items), pc.is_valid(languages)))
            rows = np.flatnonzero(known.to_numpy())
            keys = items.to_numpy()[rows].astype(np.int64) * len(manifest.languages)
            keys, first = np.unique(keys + languages.to_numpy()[rows].astype(np.int64), return_index=True)
            self._rows[source] = keys, rows[first]
            self._check_complete(source, of_source)

    def _check_complete(self, source: str, ids: list[str]) -> None:
        """Raise StoreError if an item of the manifest has no row in one of its languages."""
        row = 0
        described = self.manifest.sources[source]
        for shard in described.shards.get(self.split_of_items, ()):
            for group, count in shard.runs:
                for language in described.groups[group].languages:
                    missing = ~np.isin(self._keys_of(np.arange(row, row + count), language), self._rows[source][0])
                    if missing.any():
                        raise StoreError(
                            f"the store has item {ids[row + int(missing.argmax())]!r} of {source} in {language}, and "
                            "the corpora do not; prepare the store again"
                        )
                row += count

    def _keys_of(self, items: np.ndarray, languages: np.ndarray | str) -> np.ndarray:
        known = np.array(self.manifest.languages)
        return np.asarray(items * len(known) + np.searchsorted(known, languages))

    def rows_of(self, source: str, items: np.ndarray, languages: np.ndarray) -> np.ndarray:
        """Return the rows of items, (B,) in the manifest's order, each in one of its languages (B,): (B,) int64."""
        keys, rows = self._rows[source]
        found: np.ndarray = rows[np.searchsorted(keys, self._keys_of(items, languages))]
        return found

    def set_epoch(self, epoch: int) -> None:
        """Keep the epoch for the sampler.

        accelerate passes it on to the data set in every case. To the sampler it does not when several processes resume
        in the middle of a later epoch.
        """
        self.epoch = epoch

    def __getitem__(self, key: Any) -> Any:
        return self.__getitems__([key])[0] if isinstance(key, PairIndex) else super().__getitem__(key)

    def __getitems__(self, keys: list[int]) -> list[dict[str, Any]]:
        questions = super().__getitem__([int(key) for key in keys])
        passages = super().__getitem__([getattr(key, "passage_row", key) for key in keys])
        columns = {**questions, **passages, ANCHOR: questions[ANCHOR]}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _without_held_out_negatives(rows: pa.Table, store: TokenStore) -> pa.Table:
    """Drop the negatives that are passages of a store's held-out items, as `assign_shards` does."""
    held_out = pa.array([False] * len(rows), pa.bool_())
    for name, source in store.manifest.sources.items():
        ids = store.item_ids(name, np.arange(source.items("validation")), "validation")
        is_one = pc.is_in(rows["item_id"], pa.array(ids, pa.string()))
        held_out = pc.or_(held_out, pc.and_(pc.equal(rows["source"], name), is_one))
    passages = rows["passage_key"].filter(held_out).drop_null().to_numpy()
    return without_negatives(rows, np.isin(pc.list_flatten(rows["negative_keys"]).to_numpy(), passages))


def _table_of_languages(rows: Rows | Mapping[str, Rows], columns: Columns) -> pa.Table:
    """Return all rows as one table; the key of rows by language becomes their language."""
    if not isinstance(rows, Mapping):
        return _table_of(rows, columns)
    parts = []
    for language, of_language in rows.items():
        if language_code(language) is None:
            raise CorpusError(
                f"{language!r} is no language; pass one data set, or one for each language, such as {{'de': ..., "
                "'en': ...}"
            )
        part = _table_of(of_language, columns)
        if columns.language not in part.column_names:
            part = part.append_column(columns.language, pa.array([language] * len(part), pa.string()))
        elif part[columns.language].unique().to_pylist() not in ([language], []):
            raise CorpusError(f"the data set of {language!r} has rows in another language; pass one data set of all")
        parts.append(part)
    with _arrow_errors("the data sets of the languages have columns of different types"):
        return pa.concat_tables(parts, promote_options="permissive")


def _table_of(rows: Rows, columns: Columns) -> pa.Table:
    """Return rows as a table whose ids are texts."""
    if isinstance(rows, datasets.Dataset):
        table: pa.Table = rows.with_format("arrow")[:]
        if columns.id in table.column_names:
            number = table.column_names.index(columns.id)
            table = table.set_column(number, columns.id, _as_texts(table[columns.id], columns.id))
        return table
    listed: list[Mapping[str, Any]] = list(rows)
    names = dict.fromkeys(name for row in listed for name in row)  # Arrow's from_pylist reads those of the first row
    arrays = {}
    for name in names:
        values = [row.get(name) for row in listed]
        with _arrow_errors(f"column {name!r} has values of several types"):
            arrays[name] = pa.array(map(id_text, values) if name == columns.id else values)
    return pa.table(arrays)


def _as_texts(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    with _arrow_errors(f"column {name!r} is of {column.type} and not of text"):
        return pc.cast(column, pa.string())


@contextmanager
def _arrow_errors(fault: str) -> Iterator[None]:
    """Raise CorpusError for an error of Arrow in the block."""
    try:
        yield
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())[:200]
        raise CorpusError(f"{fault} ({reason}); write values of one type") from None


def _checked_table(table: pa.Table, columns: Columns, name: str) -> pa.Table:
    """Return the table with the columns source, item_id, language, anchor, positive and negatives, all checked."""
    if "source" not in table.column_names:
        table = table.append_column("source", pa.array([name] * len(table), pa.string()))
    found = {}
    for column, named in (
        ("source", "source"),
        ("item_id", columns.id),
        ("language", columns.language),
        (ANCHOR, columns.question),
        (POSITIVE, columns.passage),
    ):
        if named not in table.column_names:
            raise CorpusError(
                f"the rows have no column {named!r}, only {', '.join(table.column_names) or 'none'}; rename one, or "
                "name it in columns=Columns(...)"
            )
        found[column] = _as_texts(table[named], named)
        empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(found[column]), ""), True)
        if pc.any(empty).as_py():
            raise CorpusError(f"row {pc.index(empty, True).as_py()} has no {named}; leave such rows out")
    spelled = {text: language_code(text) for text in found["language"].unique().to_pylist()}
    unknown = [text for text, code in spelled.items() if code is None]
    if unknown:
        raise CorpusError(
            f"column {columns.language!r} has {unknown[0]!r}, which is no language code; write one such as de or zh-CN"
        )
    found["language"] = pa.array([spelled[text] for text in found["language"].to_pylist()], pa.string())
    return pa.table({**found, "negatives": _negatives_of(table, columns)})


def _negatives_of(table: pa.Table, columns: Columns) -> pa.Array:
    """Return the negatives of each row as a list of texts, from a column of lists or from columns of one text each."""
    single = [column for column in table.column_names if re.fullmatch(r"negative(_[0-9]+)?", column)]
    columns_of_one = [[_texts_of(value, name) for value in table[name].to_pylist()] for name in single]
    lists = [[text for texts in row for text in texts] for row in zip(*columns_of_one, strict=True)]
    if columns.negatives in table.column_names:
        lists = [_texts_of(value, columns.negatives) for value in table[columns.negatives].to_pylist()]
    return pa.array(lists or [[]] * len(table), pa.list_(pa.string()))


def _texts_of(value: object, column: str) -> list[str]:
    """Return the texts of a list or the single text; what is null or "" is none. Raises CorpusError."""
    values = value if isinstance(value, list) else [value]
    wrong = next((one for one in values if not isinstance(one, str | None)), None)
    if wrong is not None:
        raise CorpusError(
            f"column {column!r} has a {type(wrong).__name__}, not a text or a list of texts; write texts, or leave the "
            "column out"
        )
    return [text for text in values if isinstance(text, str) and text]


def _first_of_each(table: pa.Table, columns: list[str]) -> pa.Table:
    """Return the first row of each combination of values; report how many others there are."""
    names = zip(*(table[column].to_pylist() for column in columns), strict=True)
    seen: set[tuple[str, ...]] = set()
    first = [name not in seen and not seen.add(name) for name in names]  # type: ignore[func-returns-value]
    if not all(first):
        logger.warning("%d rows repeat an item in its language and are never drawn", len(first) - sum(first))
    return table.filter(pa.array(first, pa.bool_()))
