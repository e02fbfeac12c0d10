"""From tables of rows to shards of tokens: assign splits and shards, train a tokenizer, write a shard.

The functions need no cluster: `cluster/prepare.py` maps them over blocks of rows.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.data.components import ItemComponents, item_keys
from hbt_ray.data.manifest import Group, Split, StoreManifest, WrittenShard
from hbt_ray.data.row_tables import (
    REJECTED,
    ROWS,
    RowCounts,
    RowRecord,
    location_order,
    rejects_table,
    without_negatives,
)
from hbt_ray.data.text_files import UNANSWERABLE
from hbt_ray.data.token_store import TokenItem, write_shard
from hbt_ray.data.tokenizer import PairTokenizer
from hbt_ray.data.types import RejectedRow
from hbt_ray.utils.counter_rng import Salt, stable_hash64
from hbt_ray.utils.limits import load_json

MAX_TOKENIZER_TEXTS = 200_000  # that a tokenizer is trained on
_KEYS = ("pair_key", "question_key", "passage_key", "negative_keys")  # not needed once items are assigned
ASSIGNED_ROWS = pa.schema(
    [
        *(ROWS.field(name) for name in ROWS.names if name not in _KEYS),
        ("component", pa.int64()),  # of the item; 0: none
        ("negative_components", pa.list_(pa.int64())),  # of the items that have a negative as a passage; 0: none
        ("negatives_held_out", pa.int64()),  # negatives that were dropped because they are held-out passages
        ("bucket", pa.string()),
    ]
)


class AssignedRow(RowRecord, total=False):
    """A row of `ASSIGNED_ROWS`."""

    component: int
    negative_components: list[int]
    negatives_held_out: int
    bucket: str


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
        return Bucket(*load_json(text))


def assign_shards(
    rows: pa.Table,
    left_out: np.ndarray,
    num_shards: dict[str, int],
    validation_fraction: float,
    components: ItemComponents | None = None,
    num_items: int = 0,
) -> pa.Table:
    """Select the rows that the store will contain, and assign them to splits and shards, as `ASSIGNED_ROWS`.

    A training row loses the negatives that are passages of held-out items.

    Args:
        rows: a table of `ROWS`.
        left_out: keys of the items that the store will not contain, uint64, sorted.
        num_shards: number of training shards of each source.
        validation_fraction: of the items that are held out.
        components: of all items that are not left out; None: none has a text in common with another.
        num_items: that are not left out, of all sources; see `count_items`.
    """
    components = components or ItemComponents()
    rows = rows.filter(pc.is_null(rows.column("rejected")))
    keys = item_keys(rows)
    kept = ~np.isin(keys, left_out)
    keys, rows = keys[kept], rows.filter(pa.array(kept, pa.bool_())).combine_chunks()
    names = zip(rows.column("source").to_pylist(), rows.column("item_id").to_pylist(), strict=True)
    held_out = components.held_out(keys, validation_fraction, num_items)
    buckets = []
    for name, is_held_out in zip(names, held_out.tolist(), strict=True):
        split: Split = "validation" if is_held_out else "train"
        # Validation shards have about as many items as training shards.
        shards = num_shards[name[0]]
        shards = max(1, round(shards * validation_fraction)) if is_held_out else shards
        buckets.append(Bucket(name[0], split, shard_number(*name, shards)).to_text())
    negatives = rows.column("negative_keys").combine_chunks()
    rows_of_negatives = pc.list_parent_indices(negatives).to_numpy()
    dropped = ~held_out[rows_of_negatives] & components.held_out_negatives(
        pc.list_flatten(negatives).to_numpy(), validation_fraction, num_items
    )
    rows = without_negatives(rows, dropped)
    negatives = rows.column("negative_keys").combine_chunks()
    of_negatives = components.of_negatives(pc.list_flatten(negatives).to_numpy())
    return (
        rows.drop_columns(list(_KEYS))
        .append_column("component", pa.array(components.of_items(keys).view(np.int64)))
        .append_column("negative_components", pa.array(_nested(of_negatives.view(np.int64), negatives)))
        .append_column("negatives_held_out", pa.array(np.bincount(rows_of_negatives[dropped], minlength=rows.num_rows)))
        .append_column("bucket", pa.array(buckets, pa.string()))
        .cast(ASSIGNED_ROWS)
    )


def _nested(values: np.ndarray, lists: pa.ListArray) -> list[list[int]]:
    """Divide values into lists of the same lengths as some other lists, which may be null."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    return [part.tolist() for part in np.split(values, np.cumsum(lengths))[:-1]]


def shard_number(source: str, item_id: str, num_shards: int) -> int:
    """Return the number of the shard that an item is in, by a hash of its id."""
    return stable_hash64(Salt.SHARD, source, item_id) % num_shards


def count_shards(counts: RowCounts, items_per_shard: int) -> dict[str, int]:
    """Compute the number of training shards of each source, from the number of rows of its largest language."""
    largest = Counter[str]()
    for (source, _, reason), rows in counts.items():
        if not reason:
            largest[source] = max(largest[source], rows)
    return {source: -(-rows // items_per_shard) for source, rows in largest.items()}


def count_items(counts: RowCounts) -> int:
    """Return the number of items of all sources, each as its largest language has them."""
    return sum(count_shards(counts, 1).values())


TOKENIZER_COLUMNS = ("source", "item_id", "language", "question", "passage")


def sample_for_tokenizer(rows: pa.Table, fraction: float) -> pa.Table:
    """Select the training rows that come first in the order of `tokenizer_texts`.

    Args:
        rows: a table of `ASSIGNED_ROWS`.
        fraction: of all training rows, to expect of the selected ones.

    Returns:
        Their TOKENIZER_COLUMNS.
    """
    buckets = rows.column("bucket").combine_chunks()
    training = [name for name in pc.unique(buckets).to_pylist() if Bucket.from_text(name).split == "train"]
    rows = rows.filter(pc.is_in(buckets, pa.array(training, pa.string()))).select(TOKENIZER_COLUMNS)
    if fraction >= 1:
        return rows
    names = zip(*(rows.column(name).to_pylist() for name in TOKENIZER_COLUMNS[:3]), strict=True)
    return rows.filter(pa.array([stable_hash64(*name) < fraction * 2**64 for name in names], pa.bool_()))


def tokenizer_texts(rows: pa.Table, tokenization_prefixes: tuple[str, str]) -> list[str]:
    """Return texts to train a tokenizer on, at most MAX_TOKENIZER_TEXTS. They do not depend on the rows' order.

    Args:
        rows: a table of TOKENIZER_COLUMNS.
        tokenization_prefixes: of queries and of passages.
    """
    query_prefix, passage_prefix = tokenization_prefixes
    columns = (rows.column(name).to_pylist() for name in TOKENIZER_COLUMNS)
    ordered = sorted(zip(*columns, strict=True), key=lambda row: (stable_hash64(*row[:3]), row[:3]))
    texts: list[str] = []
    for _, _, _, question, passage in ordered:
        if question is not None:
            texts.append(query_prefix + question)
        texts.append(passage_prefix + passage)
    return texts[:MAX_TOKENIZER_TEXTS]


class ShardResult(NamedTuple):
    """A written shard, and what was left out of it."""

    shard: WrittenShard
    rejects: pa.Table  # rows whose id is repeated, as `REJECTED`
    negatives_held_out: int  # negatives that were dropped because they are held-out passages


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
    items: dict[str, TokenItem] = {}
    for row, question, passage in zip(kept, questions, passages, strict=True):
        item = items.setdefault(row["item_id"], TokenItem(row["item_id"], {}, {}, {}, row["component"], {}))
        item.questions[row["language"]] = question
        item.passages[row["language"]] = passage
        item.negatives[row["language"]] = [next(negatives) for _ in row["negatives"]]
        item.negative_components[row["language"]] = row["negative_components"]
    # 4.
    shard = write_shard(folder, bucket.source, bucket.split, bucket.number, items.values(), tokenization.token_type)
    return ShardResult(shard, rejects_table(rejects), sum(row["negatives_held_out"] for row in kept))


def _reject_repeated_ids(rows: list[AssignedRow]) -> tuple[list[AssignedRow], list[RejectedRow]]:
    kept: dict[tuple[str, str], AssignedRow] = {}
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


def shard_to_json(result: ShardResult) -> str:
    """Serialize a result for a column of strings."""
    shard = result.shard
    runs = [[list(group.languages), group.negatives, items] for group, items in shard.runs]
    return json.dumps(
        {
            "shard": [shard.source, shard.split, shard.number, shard.file, shard.items, runs, shard.sha256],
            "tokens": shard.tokens,
            "rejects": result.rejects.to_pylist(),
            "negatives_held_out": result.negatives_held_out,
        }
    )


def shard_from_json(text: str) -> ShardResult:
    """Parse what `shard_to_json` returns."""
    data = load_json(text)
    source, split, number, file, num_items, runs, sha256 = data["shard"]
    groups = tuple((Group(tuple(languages), negatives), items) for languages, negatives, items in runs)
    tokens = {column: tuple(of_runs) for column, of_runs in data["tokens"].items()}
    shard = WrittenShard(source, split, number, file, num_items, groups, sha256, tokens)
    return ShardResult(shard, pa.Table.from_pylist(data["rejects"], REJECTED), data["negatives_held_out"])


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
            (counts.get("negatives_dropped_as_held_out", 0), "hard negatives that are held-out passages"),
        ]
        without = ", ".join(f"{number} {description}" for number, description in left_out if number)
        items, parallel = source.items() + source.items("validation"), source.parallel_items()
        question = " - do ids agree between files?" if not parallel and len(source.languages) > 1 else ""
        lines.append(
            f"  {name}: {source.items()} items to train on, {source.items('validation')} held out, "
            f"{len(source.languages)} languages ({' '.join(source.languages)})"
            + f"; {parallel} of {items} items in two or more languages{question}"
            + (f"; left out {without}" if without else "")
        )
    return "\n".join(lines)
