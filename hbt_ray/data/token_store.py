"""The token store: tokenized parallel items in Arrow shards, and the manifest that makes them a store.

A store is a folder of memory-mapped Arrow files. All languages of an item stand in one row of one shard.
Inside a shard items are sorted by group (the languages an item has, and how many hard negatives), then by
id, so the manifest's counts alone say which rows serve which language: planning needs no shard.
`manifest.json` is written last; a folder without it is not a store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.errors import StoreError
from hbt_ray.utils.atomic_write import atomic_file, atomic_write_text
from hbt_ray.utils.storage import file_sha256

MANIFEST = "manifest.json"
FORMAT = 1
MAPPED_SHARDS = 1024  # at once, whatever the corpus; a plan reads few shards for long before it goes on to others
Split = Literal["train", "validation"]
TextField = Literal["question", "passage"]
Column = tuple[np.ndarray, np.ndarray]  # of lists: flat values and (items + 1,) offsets, both views of the mapped file


@dataclass(frozen=True, slots=True)
class Group:
    """Items of a source that have the same languages and the same number of hard negatives."""

    languages: tuple[str, ...]  # sorted
    negatives: int  # the fewest that any of its languages has


@dataclass(frozen=True, slots=True)
class ShardInfo:
    file: str  # relative to the store
    items: int
    runs: tuple[tuple[int, int], ...]  # (group's place in the source's groups, items), in row order
    sha256: str
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)  # "passage/de" -> of each run


@dataclass(frozen=True, slots=True)
class Source:
    groups: tuple[Group, ...]
    shards: Mapping[str, tuple[ShardInfo, ...]]  # by split

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(sorted({language for group in self.groups for language in group.languages}))

    def items(self, split: Split = "train") -> int:
        return sum(shard.items for shard in self.shards.get(split, ()))


@dataclass(frozen=True, slots=True)
class StoreManifest:
    """What a store holds. Everything a plan needs, and what was left out on the way."""

    text_fingerprint: str  # of the tokenizer, prefixes and lengths, see `tokenization.text_fingerprint`
    token_type: str  # "uint16" or "int32"
    sources: Mapping[str, Source]
    counts: Mapping[str, Any] = field(default_factory=dict)  # rows read, rejected, dropped, by source and reason

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(sorted({language for source in self.sources.values() for language in source.languages}))

    def fingerprint(self) -> str:
        """16 hex digits of the store's content."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> StoreManifest:
        data = json.loads(text)
        if data.pop("format", None) != FORMAT:
            raise StoreError("the store was written by another version of hbt_ray; prepare it again")
        sources = {
            name: Source(
                groups=tuple(Group(tuple(g["languages"]), g["negatives"]) for g in source["groups"]),
                shards={
                    split: tuple(
                        ShardInfo(
                            s["file"],
                            s["items"],
                            tuple((g, n) for g, n in s["runs"]),
                            s["sha256"],
                            {column: tuple(of_runs) for column, of_runs in s.get("tokens", {}).items()},
                        )
                        for s in shards
                    )
                    for split, shards in source["shards"].items()
                },
            )
            for name, source in data["sources"].items()
        }
        return StoreManifest(data["text_fingerprint"], data["token_type"], sources, data["counts"])


@dataclass(frozen=True, slots=True)
class TokenItem:
    """One item as token ids, in every language it has."""

    item_id: str
    questions: Mapping[str, np.ndarray]  # language -> ids
    passages: Mapping[str, np.ndarray]
    negatives: Mapping[str, Sequence[np.ndarray]]

    @property
    def group(self) -> Group:
        languages = tuple(sorted(self.questions))
        return Group(languages, min(len(self.negatives.get(language, ())) for language in languages))


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """A shard on disk, before the groups of its source are numbered."""

    source: str
    split: Split
    number: int
    file: str
    items: int
    runs: tuple[tuple[Group, int], ...]
    sha256: str
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)


def write_shard(
    folder: str | Path, source: str, split: Split, number: int, items: Iterable[TokenItem], token_type: str
) -> WrittenShard:
    """Writes one shard; the same items give the same bytes in whatever order they come.

    Raises:
        StoreError: the disk is full or cannot be written; nothing is left of the shard then.
    """
    ordered = sorted(items, key=lambda item: (item.group.languages, item.group.negatives, item.item_id))
    languages = sorted({language for item in ordered for language in item.questions})
    sequence = pa.list_(pa.from_numpy_dtype(np.dtype(token_type)))
    columns: dict[str, pa.Array] = {"item_id": pa.array([item.item_id for item in ordered], pa.string())}
    for language in languages:
        columns[f"question/{language}"] = pa.array([item.questions.get(language) for item in ordered], sequence)
        columns[f"passage/{language}"] = pa.array([item.passages.get(language) for item in ordered], sequence)
        columns[f"negatives/{language}"] = pa.array(
            [list(item.negatives.get(language, ())) for item in ordered], pa.list_(sequence)
        )
    file = f"{folder_name(source)}/{split}-{number:05d}.arrow"
    path = Path(folder) / file
    table = pa.table(columns)
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


def _tokens_of_runs(columns: Mapping[str, pa.Array], runs: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """How many tokens each run of so many rows has, by column, of questions and passages."""
    starts = np.cumsum([0, *runs])[:-1]
    found = {}
    for name, column in columns.items():
        if name.startswith(("question/", "passage/")):
            lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
            found[name] = tuple(np.add.reduceat(lengths, starts).tolist()) if len(starts) else ()
    return found


def write_manifest(
    folder: str | Path,
    shards: Iterable[WrittenShard],
    *,
    text_fingerprint: str,
    token_type: str,
    counts: Mapping[str, Any] | None = None,
) -> StoreManifest:
    """Numbers the groups and writes the manifest, which makes the folder a store."""
    ordered = sorted(shards, key=lambda shard: (shard.source, shard.split, shard.number))
    sources: dict[str, Source] = {}
    for name in sorted({shard.source for shard in ordered}):
        own = [shard for shard in ordered if shard.source == name]
        groups = sorted({group for shard in own for group, _ in shard.runs}, key=lambda g: (g.languages, g.negatives))
        number = {group: place for place, group in enumerate(groups)}
        by_split: dict[str, list[ShardInfo]] = {}
        for shard in own:
            if shard.items:
                runs = tuple((number[group], items) for group, items in shard.runs)
                written = ShardInfo(shard.file, shard.items, runs, shard.sha256, shard.tokens)
                by_split.setdefault(shard.split, []).append(written)
        sources[name] = Source(tuple(groups), {split: tuple(own) for split, own in by_split.items()})
    manifest = StoreManifest(text_fingerprint, token_type, sources, dict(counts or {}))
    # Written last, so its existence means that the store is complete.
    atomic_write_text(Path(folder) / MANIFEST, manifest.to_json())
    return manifest


def read_manifest(folder: str | Path) -> StoreManifest:
    """The manifest of a store. Raises StoreError when there is none or it cannot be read."""
    path = Path(folder) / MANIFEST
    try:
        return StoreManifest.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{folder} holds no complete store (no {MANIFEST}); run `hbt prepare` first") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"the manifest {path} cannot be read; prepare the store again ({error})") from None


class TokenStore:
    """Reads token sequences by source, side, language and item row.

    Shards are mapped when first touched, after their checksum was found right: a damaged one raises StoreError then.
    Where too many are mapped, all are let go, and those still in use are mapped again.
    """

    def __init__(self, folder: str | Path, manifest: StoreManifest) -> None:
        self.folder = Path(folder)
        self.manifest = manifest
        self._columns: dict[tuple[str, Split, str], dict[int, Column]] = {}  # by shard's number
        self._tables: dict[str, pa.Table] = {}
        self._checked: set[str] = set()
        self._starts = {
            (name, split): np.cumsum([0] + [shard.items for shard in shards])
            for name, source in manifest.sources.items()
            for split, shards in source.shards.items()
        }

    @classmethod
    def open(cls, folder: str | Path, text_fingerprint: str | None = None) -> TokenStore:
        """Opens a store. Raises StoreError when it is incomplete or made for another tokenizer or text setting."""
        manifest = read_manifest(folder)
        if text_fingerprint is not None and manifest.text_fingerprint != text_fingerprint:
            raise StoreError(
                f"the store {folder} was made with another tokenizer, prefix or length "
                f"({manifest.text_fingerprint}, this run has {text_fingerprint}); prepare it again for this model"
            )
        return cls(folder, manifest)

    @property
    def shards(self) -> list[ShardInfo]:
        """Of all sources and splits."""
        by_split = (shards for source in self.manifest.sources.values() for shards in source.shards.values())
        return [shard for shards in by_split for shard in shards]

    def take(
        self, source: str, side: TextField, language: str, rows: np.ndarray, split: Split = "train"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Token sequences of some items.

        Args:
            rows: (B,) item rows of the source, counted over its shards.

        Returns:
            ids (sum of lengths,) int32 one sequence after the other, and lengths (B,) int32.
        """
        numbers, places = self._places(source, rows, split)
        opened = {number: self.column(source, side, language, number, split) for number in set(numbers)}
        sequences = []
        for number, place in zip(numbers, places, strict=True):
            values, offsets = opened[number]
            sequences.append(values[offsets[place] : offsets[place + 1]])
        return _join(sequences)

    def column(self, source: str, side: TextField, language: str, number: int, split: Split = "train") -> Column:
        """All token sequences of a shard in row order, by the shard's number; an empty one where an item has none."""
        key = (source, split, f"{side}/{language}")
        found = self._columns.get(key, {}).get(number)
        if found is None:
            array = self._table(source, split, number).column(key[2]).chunk(0)
            found = array.values.to_numpy(zero_copy_only=True), array.offsets.to_numpy()
            self._columns.setdefault(key, {})[number] = found  # only now: to open a table may let go of all others
        return found

    def take_negatives(
        self, source: str, language: str, rows: np.ndarray, count: int, split: Split = "train"
    ) -> tuple[np.ndarray, np.ndarray]:
        """The first `count` hard negatives of some items: ids, and lengths (B * count,) int32."""
        sequences = []
        for number, place in zip(*self._places(source, rows, split), strict=True):
            column = self._table(source, split, number).column(f"negatives/{language}").chunk(0)
            sequences += [np.asarray(ids) for ids in column[place].as_py()[:count]]
        return _join(sequences)

    def item_ids(self, source: str, rows: np.ndarray, split: Split = "train") -> list[str]:
        """The ids, as the corpus names them, of some items."""
        return [
            self._table(source, split, number).column("item_id").chunk(0)[place].as_py()
            for number, place in zip(*self._places(source, rows, split), strict=True)
        ]

    def verify(self) -> None:
        """Reads every shard and compares checksums. Raises StoreError naming the first that differs."""
        for shard in self.shards:
            self._check(shard)

    def _check(self, shard: ShardInfo) -> None:
        path = self.folder / shard.file
        try:
            found = file_sha256(path)
        except OSError as error:
            raise StoreError(f"shard {path} cannot be read ({error.strerror}); prepare the store again") from None
        if found != shard.sha256:
            raise StoreError(f"shard {path} is damaged: it is not as it was written; prepare the store again")

    def _places(self, source: str, rows: np.ndarray, split: Split) -> tuple[list[int], list[int]]:
        """The number of each row's shard, and the row's place in it."""
        starts = self._starts[source, split]
        numbers = np.searchsorted(starts, rows, side="right") - 1
        return numbers.tolist(), (rows - starts[numbers]).tolist()

    def _table(self, source: str, split: Split, number: int) -> pa.Table:
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


def _join(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter((len(ids) for ids in sequences), np.int32, len(sequences))
    ids = np.concatenate(sequences) if sequences else np.empty(0)
    return ids.astype(np.int32), lengths


def folder_name(source: str) -> str:
    """A source's folder: its name where that is a safe file name, else made safe and told apart by a hash.

    A dot is not safe: it would allow "..", and "manifest.json" beside the store's own.
    """
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in source)[:48]
    return safe if safe and safe == source else f"{safe or 'source'}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
