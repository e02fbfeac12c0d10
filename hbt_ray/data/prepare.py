"""From tables of rows to shards of tokens: assign splits and shards, train a tokenizer, write a shard.

The functions need no cluster: `cluster/prepare.py` maps them over blocks of rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.data.manifest import Group, Split, StoreManifest, WrittenShard
from hbt_ray.data.row_tables import ItemKey, RowCounts, RowRecord, location_order
from hbt_ray.data.text_files import UNANSWERABLE
from hbt_ray.data.token_store import TokenItem, write_shard
from hbt_ray.data.tokenizer import PairTokenizer
from hbt_ray.data.types import RejectedRow
from hbt_ray.utils.counter_rng import Salt, stable_hash64

MAX_TOKENIZER_TEXTS = 200_000  # that a tokenizer is trained on


def assign_split(source: str, item_id: str, validation_fraction: float) -> Split:
    """Return an item's split by a hash of its id, so it does not depend on the other items."""
    return "validation" if stable_hash64(Salt.SPLIT, source, item_id) < validation_fraction * 2**64 else "train"


@dataclass(frozen=True, slots=True)
class Bucket:
    """The shard of an item; as text, a value of the column `bucket`."""

    source: str
    split: Split
    number: int

    def to_text(self) -> str:
        """Return the value of the column."""
        return json.dumps([self.source, self.split, self.number])

    @staticmethod
    def from_text(text: str) -> Bucket:
        """Parse a value of the column."""
        return Bucket(*json.loads(text))


def assign_shards(
    rows: pa.Table, left_out: set[ItemKey], num_shards: dict[str, int], validation_fraction: float
) -> pa.Table:
    """Select the rows that the store will contain, and add their column `bucket`.

    Args:
        rows: a table of `ROWS`.
        left_out: items that the store will not contain.
        num_shards: number of training shards of each source.
        validation_fraction: of the items that are held out.
    """
    sources, item_ids = rows.column("source").to_pylist(), rows.column("item_id").to_pylist()
    buckets: list[str | None] = []
    for source, item_id, reason in zip(sources, item_ids, rows.column("rejected").to_pylist(), strict=True):
        if reason or (source, item_id) in left_out:
            buckets.append(None)
            continue
        split = assign_split(source, item_id, validation_fraction)
        # Validation shards have about as many items as training shards.
        shards = num_shards[source] if split == "train" else max(1, round(num_shards[source] * validation_fraction))
        buckets.append(Bucket(source, split, stable_hash64(Salt.SHARD, source, item_id) % shards).to_text())
    column = pa.array(buckets, pa.string())
    return rows.append_column("bucket", column).filter(pc.is_valid(column))


def count_shards(counts: RowCounts, items_per_shard: int) -> dict[str, int]:
    """Compute the number of training shards of each source, from the number of rows of its largest language."""
    largest = Counter[str]()
    for (source, _, reason), rows in counts.items():
        if not reason:
            largest[source] = max(largest[source], rows)
    return {source: -(-rows // items_per_shard) for source, rows in largest.items()}


def tokenizer_texts(rows: pa.Table, tokenization_prefixes: tuple[str, str]) -> list[str]:
    """Return texts to train a tokenizer on, at most MAX_TOKENIZER_TEXTS. They do not depend on the rows' order.

    Args:
        rows: a table of `ROWS`.
        tokenization_prefixes: of queries and of passages.
    """
    query_prefix, passage_prefix = tokenization_prefixes
    columns = (rows.column(name).to_pylist() for name in ("source", "item_id", "language", "question", "passage"))
    ordered = sorted(zip(*columns, strict=True), key=lambda row: (stable_hash64(*row[:3]), row[:3]))
    texts: list[str] = []
    for _, _, _, question, passage in ordered:
        if question is not None:
            texts.append(query_prefix + question)
        texts.append(passage_prefix + passage)
    return texts[:MAX_TOKENIZER_TEXTS]


class ShardResult(NamedTuple):
    """A written shard, and its rows that were rejected because their id is repeated."""

    shard: WrittenShard
    rejects: list[RejectedRow]


def make_shard(rows: pa.Table, folder: str | Path, tokenization: PairTokenizer) -> ShardResult:
    """Write the shard of one bucket.

    1. Keep the first row, by location, of each item and language; reject the others.
    2. Tokenize the texts.
    3. Collect the languages of each item.
    4. Write the shard.

    Args:
        rows: all rows of one bucket, in any order.
        folder: of the store.
        tokenization: of its texts.
    """
    bucket = Bucket.from_text(rows.column("bucket")[0].as_py())
    # 1.
    kept, rejects = _reject_repeated_ids(rows.to_pylist())
    # 2.
    with_question = [row["question"] for row in kept if row["question"] is not None]
    encoded_questions = iter(tokenization.encode(with_question, "question"))
    empty = np.empty(0, tokenization.token_type)
    questions = [empty if row["question"] is None else next(encoded_questions) for row in kept]
    passages = tokenization.encode([row["passage"] for row in kept], "passage")
    negatives = iter(tokenization.encode([text for row in kept for text in row["negatives"]], "passage"))
    # 3.
    texts_of: dict[str, tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, list[np.ndarray]]]] = {}
    for row, question, passage in zip(kept, questions, passages, strict=True):
        item_questions, item_passages, item_negatives = texts_of.setdefault(row["item_id"], ({}, {}, {}))
        item_questions[row["language"]] = question
        item_passages[row["language"]] = passage
        item_negatives[row["language"]] = [next(negatives) for _ in row["negatives"]]
    # 4.
    items = (TokenItem(item_id, *texts) for item_id, texts in texts_of.items())
    shard = write_shard(folder, bucket.source, bucket.split, bucket.number, items, tokenization.token_type)
    return ShardResult(shard, rejects)


def _reject_repeated_ids(rows: list[RowRecord]) -> tuple[list[RowRecord], list[RejectedRow]]:
    kept: dict[tuple[str, str], RowRecord] = {}
    rejects = []
    for row in sorted(rows, key=lambda row: (row["item_id"], row["language"], location_order(row["place"]))):
        key = (row["item_id"], row["language"])
        if key in kept:
            rejects.append(
                RejectedRow(row["source"], row["place"], "id repeated in its language", row["item_id"][:200])
            )
        else:
            kept[key] = row
    return list(kept.values()), rejects


def shard_to_json(shard: WrittenShard, rejects: Sequence[RejectedRow]) -> str:
    """Serialize a `ShardResult`, for a column of strings."""
    runs = [[list(group.languages), group.negatives, items] for group, items in shard.runs]
    return json.dumps(
        {
            "shard": [shard.source, shard.split, shard.number, shard.file, shard.items, runs, shard.sha256],
            "tokens": shard.tokens,
            "rejects": [[r.source, r.location, r.reason, r.detail] for r in rejects],
        }
    )


def shard_from_json(text: str) -> ShardResult:
    """Parse what `shard_to_json` returns."""
    data = json.loads(text)
    source, split, number, file, num_items, runs, sha256 = data["shard"]
    groups = tuple((Group(tuple(languages), negatives), items) for languages, negatives, items in runs)
    tokens = {column: tuple(of_runs) for column, of_runs in data["tokens"].items()}
    shard = WrittenShard(source, split, number, file, num_items, groups, sha256, tokens)
    return ShardResult(shard, [RejectedRow(*reject) for reject in data["rejects"]])


def describe_store(folder: Path, manifest: StoreManifest) -> str:
    """Describe the content of a store and what was left out, a line for each source."""
    lines = [f"store {folder}"]
    for name, source in manifest.sources.items():
        counts = manifest.counts[name]
        left_out = [
            (counts["rows_rejected"].get(UNANSWERABLE, 0), f"rows {UNANSWERABLE}"),
            (sum(n for reason, n in counts["rows_rejected"].items() if reason != UNANSWERABLE), "bad rows"),
            (len(counts["items_dropped_for_evaluation"]), "items that occur in evaluation sets"),
            (len(counts["items_dropped_as_repeated"]), "repeated items"),
        ]
        without = ", ".join(f"{number} {description}" for number, description in left_out if number)
        lines.append(
            f"  {name}: {source.items()} items to train on, {source.items('validation')} held out, "
            f"{len(source.languages)} languages ({' '.join(source.languages)})"
            + (f"; left out {without}" if without else "")
        )
    return "\n".join(lines)
