"""The manifest of a token store: its sources, groups of items, shards and checksums.

`manifest.json` is written last; a folder without it is not a store. The order of the rows in a shard follows from the
manifest, so a sampler needs no shard to choose rows. The fields of the dataclasses are the fields of the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypedDict

from hbt_ray.errors import StoreError
from hbt_ray.utils.atomic_write import atomic_write_text
from hbt_ray.utils.digests import with_checksum, without_checksum

MANIFEST = "manifest.json"
FORMAT = 1
Split = Literal["train", "validation"]
TextField = Literal["question", "passage"]


class DroppedItem(TypedDict):
    """An item that occurs in an evaluation set."""

    item: str
    found: str  # how it matches, and the start of the evaluation text


class SourceCounts(TypedDict, total=False):
    """What was read of a source, and what was left out of the store."""

    rows_read: int
    rows_rejected: dict[str, int]  # by reason
    items_dropped_for_evaluation: list[DroppedItem]
    items_dropped_as_repeated: list[str]
    negatives_dropped_as_held_out: int  # absent if there is none


@dataclass(frozen=True, slots=True)
class Group:
    """The items of a source that have the same languages and the same number of hard negatives."""

    languages: tuple[str, ...]  # sorted
    negatives: int  # the minimum over the languages


@dataclass(frozen=True, slots=True)
class ShardInfo:
    file: str  # relative to the store
    items: int
    runs: tuple[tuple[int, int], ...]  # (index in the source's groups, number of items), in row order
    sha256: str
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)  # "passage/de" -> tokens of a run


@dataclass(frozen=True, slots=True)
class Source:
    groups: tuple[Group, ...]
    shards: Mapping[str, tuple[ShardInfo, ...]]  # by split

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(sorted({language for group in self.groups for language in group.languages}))

    def items(self, split: Split = "train") -> int:
        """Count the items of a split."""
        return sum(shard.items for shard in self.shards.get(split, ()))

    def parallel_items(self) -> int:
        """Count the items of all splits that are in two or more languages."""
        runs = (run for shards in self.shards.values() for shard in shards for run in shard.runs)
        return sum(items for group, items in runs if len(self.groups[group].languages) > 1)


@dataclass(frozen=True, slots=True)
class StoreManifest:
    """The content of a store, and what was left out when it was prepared."""

    text_fingerprint: str  # of the tokenizer, prefixes and lengths: `PairTokenizer.fingerprint`
    token_type: str  # "uint16" or "int32"
    sources: Mapping[str, Source]
    counts: Mapping[str, SourceCounts] = field(default_factory=dict)  # by source

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(sorted({language for source in self.sources.values() for language in source.languages}))

    def fingerprint(self) -> str:
        """Return 16 hex digits of the store's content."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def content_fingerprint(self) -> str:
        """Return 16 hex digits of what is trained on, without the counts of what was left out."""
        return StoreManifest(self.text_fingerprint, self.token_type, self.sources).fingerprint()

    def to_json(self) -> str:
        """Return the text of `manifest.json` without its checksum."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> StoreManifest:
        """Parse the text of `manifest.json`.

        Raises:
            StoreError: it has another format.
            ValueError: its checksum does not match.
        """
        data = without_checksum(text)
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
class WrittenShard:
    """A shard on disk, before the groups of its source are numbered."""

    source: str
    split: Split
    number: int
    file: str  # relative to the store
    items: int
    runs: tuple[tuple[Group, int], ...]  # (group, number of items), in row order
    sha256: str
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)  # as of `ShardInfo`


def write_manifest(
    folder: str | Path,
    shards: Iterable[WrittenShard],
    *,
    text_fingerprint: str,
    token_type: str,
    counts: Mapping[str, SourceCounts] | None = None,
) -> StoreManifest:
    """Write the manifest, which makes the folder a store; arguments as of `build_manifest`."""
    manifest = build_manifest(shards, text_fingerprint=text_fingerprint, token_type=token_type, counts=counts)
    # Written last, so its existence means that the store is complete.
    atomic_write_text(Path(folder) / MANIFEST, with_checksum(json.loads(manifest.to_json())))
    return manifest


def build_manifest(
    shards: Iterable[WrittenShard],
    *,
    text_fingerprint: str,
    token_type: str,
    counts: Mapping[str, SourceCounts] | None = None,
) -> StoreManifest:
    """Return the manifest of some shards, in any order. The groups of each source are numbered."""
    ordered = sorted(shards, key=lambda shard: (shard.source, shard.split, shard.number))
    names = sorted({shard.source for shard in ordered})
    sources = {name: _source_of([shard for shard in ordered if shard.source == name]) for name in names}
    return StoreManifest(text_fingerprint, token_type, sources, dict(counts or {}))


def _source_of(shards: Sequence[WrittenShard]) -> Source:
    """Join the shards of a source; shards without items are left out."""
    groups = sorted({group for shard in shards for group, _ in shard.runs}, key=lambda g: (g.languages, g.negatives))
    index_of = {group: index for index, group in enumerate(groups)}
    by_split: dict[str, list[ShardInfo]] = {}
    for shard in shards:
        if shard.items:
            runs = tuple((index_of[group], items) for group, items in shard.runs)
            info = ShardInfo(shard.file, shard.items, runs, shard.sha256, shard.tokens)
            by_split.setdefault(shard.split, []).append(info)
    return Source(tuple(groups), {split: tuple(infos) for split, infos in by_split.items()})


def read_manifest(folder: str | Path) -> StoreManifest:
    """Read the manifest of a store. Raise StoreError if there is none or it cannot be read."""
    path = Path(folder) / MANIFEST
    try:
        return StoreManifest.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{folder} holds no complete store (no {MANIFEST}); run `hbt prepare` first") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise StoreError(f"the manifest {path} cannot be read; prepare the store again ({error})") from None
