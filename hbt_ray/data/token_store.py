"""The token store: tokenized parallel items in Arrow shards, written and read.

A store is a folder of memory-mapped Arrow files with a manifest. A row of a shard is one item in all of its languages.
In a shard, items are sorted by group (the languages of an item and its number of hard negatives), then by id, so the
counts in the manifest determine which rows have which languages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.data.manifest import Group, ShardInfo, Split, StoreManifest, TextField, WrittenShard, read_manifest
from hbt_ray.errors import StoreError
from hbt_ray.utils.atomic_write import atomic_file
from hbt_ray.utils.file_names import file_name
from hbt_ray.utils.storage import file_sha256

SUSPECT = "suspect"  # an empty file in a store of which a reader found a shard damaged
_REMEDY = "prepare the store again: the same command, or `hbt prepare`, makes a new one of its corpora"
MAPPED_SHARDS = 1024  # maximum; a sampler reads few shards for a long time before it moves to others
TokenSequences = tuple[np.ndarray, np.ndarray]  # ids of N sequences, concatenated, and (N,) lengths; both int32
Column = tuple[np.ndarray, np.ndarray]  # flat ids of a shard's rows, and (rows + 1,) offsets: views of the mapped file


@dataclass(frozen=True, slots=True)
class TokenItem:
    """One item as token ids, in every language that it has."""

    item_id: str
    questions: MutableMapping[str, np.ndarray]  # language -> ids
    passages: MutableMapping[str, np.ndarray]
    negatives: MutableMapping[str, Sequence[np.ndarray]]
    component: int = 0  # of items that have texts in common; 0: none
    # Language -> of each negative the component of the items that have it as a passage; 0: none. Empty: all 0.
    negative_components: MutableMapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def group(self) -> Group:
        languages = tuple(sorted(self.questions))
        return Group(languages, min(len(self.negatives.get(language, ())) for language in languages))


def write_shard(
    folder: str | Path, source: str, split: Split, number: int, items: Iterable[TokenItem], token_type: str
) -> WrittenShard:
    """Write one shard. The file does not depend on the order of `items`.

    Raises:
        StoreError: the disk is full or cannot be written; the shard does not exist then.
    """
    ordered = sorted(items, key=lambda item: (item.group.languages, item.group.negatives, item.item_id))
    columns = _columns_of(ordered, token_type)
    table = pa.table(columns)
    file = f"{file_name(source)}/{split}-{number:05d}.arrow"
    path = Path(folder) / file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_file(path, unique=True) as partial,
            pa.OSFile(str(partial), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as writer,
        ):
            # One record batch, so that rows are addressable.
            writer.write_table(table, max_chunksize=max(len(ordered), 1))
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise StoreError(
            f"shard {file} cannot be written to {folder} ({reason}); make room, and prepare again"
        ) from None
    runs: list[tuple[Group, int]] = []
    for item in ordered:
        if runs and runs[-1][0] == item.group:
            runs[-1] = (item.group, runs[-1][1] + 1)
        else:
            runs.append((item.group, 1))
    tokens = _tokens_of_runs(columns, [items for _, items in runs])
    return WrittenShard(source, split, number, file, len(ordered), tuple(runs), file_sha256(path), tokens)


def _columns_of(items: Sequence[TokenItem], token_type: str) -> dict[str, pa.Array]:
    sequence = pa.list_(pa.from_numpy_dtype(np.dtype(token_type)))
    columns: dict[str, pa.Array] = {"item_id": pa.array([item.item_id for item in items], pa.string())}
    for language in sorted({language for item in items for language in item.questions}):
        columns[f"question/{language}"] = pa.array([item.questions.get(language) for item in items], sequence)
        columns[f"passage/{language}"] = pa.array([item.passages.get(language) for item in items], sequence)
        columns[f"negatives/{language}"] = pa.array(
            [list(item.negatives.get(language, ())) for item in items], pa.list_(sequence)
        )
        negative_components = [list(item.negative_components.get(language, ())) for item in items]
        if any(map(any, negative_components)):
            columns[f"negative_components/{language}"] = pa.array(negative_components, pa.list_(pa.int64()))
    if any(item.component for item in items):
        columns["component"] = pa.array([item.component for item in items], pa.int64())
    return columns


def _tokens_of_runs(columns: Mapping[str, pa.Array], runs: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Count the tokens of each run of rows, by column, of questions and passages. `runs` are numbers of rows."""
    starts = np.cumsum([0, *runs])[:-1]
    counts = {}
    for name, column in columns.items():
        if name.startswith(("question/", "passage/")):
            lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
            counts[name] = tuple(np.add.reduceat(lengths, starts).tolist()) if len(starts) else ()
    return counts


class TokenStore:
    """Reads token sequences by source, field, language and item row.

    A shard is mapped at its first use, after its checksum was verified; a damaged one raises StoreError then. When
    MAPPED_SHARDS are mapped, all are released, and those still in use are mapped again.
    """

    def __init__(self, folder: str | Path, manifest: StoreManifest) -> None:
        """Hold a store whose manifest is read already; `open` reads it."""
        self.folder = Path(folder)
        self.manifest = manifest
        self._columns: dict[tuple[str, Split, str], dict[int, Column]] = {}  # by the shard's number
        self._tables: dict[str, pa.Table] = {}
        self._checked: set[str] = set()
        self._starts = {
            (name, split): np.cumsum([0] + [shard.items for shard in shards])
            for name, source in manifest.sources.items()
            for split, shards in source.shards.items()
        }

    @classmethod
    def open(cls, folder: str | Path, text_fingerprint: str | None = None) -> TokenStore:
        """Open a store.

        Args:
            folder: of the store.
            text_fingerprint: expected one, see `PairTokenizer.fingerprint`; None accepts any.

        Raises:
            StoreError: the store is incomplete, or was made with another tokenizer or other text settings.
        """
        manifest = read_manifest(folder)
        if text_fingerprint is not None and manifest.text_fingerprint != text_fingerprint:
            raise StoreError(
                f"the store {folder} was made with another tokenizer, prefix or length "
                f"({manifest.text_fingerprint}, this run has {text_fingerprint}); prepare it again for this model"
            )
        return cls(folder, manifest)

    @property
    def shards(self) -> list[ShardInfo]:
        """Shards of all sources and splits."""
        by_split = (shards for source in self.manifest.sources.values() for shards in source.shards.values())
        return [shard for shards in by_split for shard in shards]

    def take(
        self, source: str, side: TextField, language: str, rows: np.ndarray, split: Split = "train"
    ) -> TokenSequences:
        """Read the questions or passages of some items.

        Args:
            source: name of the source.
            side: questions or passages.
            language: of the texts; every item of `rows` must have it.
            rows: (B,) rows of the items in the source, counted over its shards.
            split: of the items.

        Returns:
            Concatenated ids (sum of lengths,) and lengths (B,), both int32.
        """
        numbers, shard_rows = self._locate(source, rows, split)
        columns = {number: self.column(source, side, language, number, split) for number in set(numbers)}
        sequences = []
        for number, row in zip(numbers, shard_rows, strict=True):
            values, offsets = columns[number]
            sequences.append(values[offsets[row] : offsets[row + 1]])
        return _concatenate(sequences)

    def column(self, source: str, side: TextField, language: str, number: int, split: Split = "train") -> Column:
        """Read all sequences of shard `number` in row order; the sequence of an item without the language is empty."""
        name = f"{side}/{language}"
        key = (source, split, name)
        column = self._columns.get(key, {}).get(number)
        if column is None:
            array = self.table(source, split, number).column(name).chunk(0)
            column = array.values.to_numpy(zero_copy_only=True), array.offsets.to_numpy()
            # Entered after the table was opened, since opening one may release all others.
            self._columns.setdefault(key, {})[number] = column
        return column

    def take_negatives(
        self, source: str, language: str, rows: np.ndarray, count: int, split: Split = "train"
    ) -> TokenSequences:
        """Read the first `count` hard negatives of each of B items: ids, and lengths (B * count,)."""
        sequences = []
        for number, row in zip(*self._locate(source, rows, split), strict=True):
            column = self.table(source, split, number).column(f"negatives/{language}").chunk(0)
            sequences += [np.asarray(ids) for ids in column[row].as_py()[:count]]
        return _concatenate(sequences)

    def components(self, source: str, rows: np.ndarray, split: Split = "train") -> np.ndarray:
        """Return the component of each of B items, equal for items that have texts in common: (B,) int64; 0: none."""
        found = np.zeros(len(rows), np.int64)
        numbers, shard_rows = self._locate(source, rows, split)
        for number in set(numbers):
            table = self.table(source, split, number)
            if "component" in table.schema.names:
                in_shard = np.array(numbers) == number
                found[in_shard] = table.column("component").chunk(0).to_numpy()[np.array(shard_rows)[in_shard]]
        return found

    def negative_components(
        self, source: str, language: str, rows: np.ndarray, count: int, split: Split = "train"
    ) -> np.ndarray:
        """Return the components of the items that have each of the first `count` negatives as a passage.

        0 where no item has it; (B * count,) int64 for B rows.
        """
        found = np.zeros((len(rows), count), np.int64)
        name = f"negative_components/{language}"
        for index, (number, row) in enumerate(zip(*self._locate(source, rows, split), strict=True)):
            table = self.table(source, split, number)
            if name in table.schema.names:
                known = table.column(name).chunk(0)[row].as_py()[:count]
                found[index, : len(known)] = known
        return found.ravel()

    def item_ids(self, source: str, rows: np.ndarray, split: Split = "train") -> list[str]:
        """Return the corpus' ids of some items."""
        return [
            self.table(source, split, number).column("item_id").chunk(0)[row].as_py()
            for number, row in zip(*self._locate(source, rows, split), strict=True)
        ]

    def token_ids(self) -> np.ndarray:
        """Return the ids that occur in any text of any split, ascending, int64."""
        occurs = np.zeros(0, bool)
        for source, of_source in self.manifest.sources.items():
            for split in get_args(Split):
                for number in range(len(of_source.shards.get(split, ()))):
                    table = self.table(source, split, number)
                    for name in table.schema.names:
                        if name.startswith(("question/", "passage/", "negatives/")):
                            column = table.column(name)
                            while pa.types.is_list(column.type):
                                column = pc.list_flatten(column)
                            ids = column.to_numpy()
                            occurs = np.pad(occurs, (0, max(int(ids.max(initial=0)) + 1 - len(occurs), 0)))
                            occurs[ids] = True
        return np.flatnonzero(occurs)

    def verify(self) -> None:
        """Verify the checksums of all shards. Raise StoreError with the name of each that differs."""
        faults = [fault for shard in self.shards if (fault := self._fault_of(shard)) is not None]
        if faults:
            raise StoreError(f"{'; '.join(faults)}; {_REMEDY}")
        (self.folder / SUSPECT).unlink(missing_ok=True)

    def _fault_of(self, shard: ShardInfo) -> str | None:
        path = self.folder / shard.file
        try:
            if file_sha256(path) == shard.sha256:
                return None
        except OSError as error:
            return f"shard {path} cannot be read ({error.strerror})"
        return f"shard {path} is damaged: it is not as it was written"

    def _check(self, shard: ShardInfo) -> None:
        fault = self._fault_of(shard)
        if fault is not None:
            with contextlib.suppress(OSError):  # the next `prepare` then verifies all shards
                (self.folder / SUSPECT).touch()
            raise StoreError(f"{fault}; {_REMEDY}")

    def _locate(self, source: str, rows: np.ndarray, split: Split) -> tuple[list[int], list[int]]:
        """Return the number of each row's shard, and its row in that shard."""
        starts = self._starts[source, split]
        numbers = np.searchsorted(starts, rows, side="right") - 1
        return numbers.tolist(), (rows - starts[numbers]).tolist()

    def table(self, source: str, split: Split, number: int) -> pa.Table:
        """Return a shard: a row for each item, a column for each kind of text and language."""
        shard = self.manifest.sources[source].shards[split][number]
        if shard.file not in self._tables:
            if shard.file not in self._checked:
                self._check(shard)
                self._checked.add(shard.file)
            if len(self._tables) >= MAPPED_SHARDS:
                self._tables.clear()
                self._columns.clear()
            self._tables[shard.file] = pa.ipc.open_file(pa.memory_map(str(self.folder / shard.file))).read_all()
        return self._tables[shard.file]


def _concatenate(sequences: Sequence[np.ndarray]) -> TokenSequences:
    lengths = np.fromiter((len(ids) for ids in sequences), np.int32, len(sequences))
    ids = np.concatenate(sequences) if sequences else np.empty(0)
    return ids.astype(np.int32), lengths
