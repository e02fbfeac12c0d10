"""Corpora to a token store, mapped over the cluster with Ray Data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from hbt_ray.cluster.errors import unwrap_ray_errors
from hbt_ray.config import RunConfig
from hbt_ray.data.corpora import CorpusShard, list_shards
from hbt_ray.data.prepare import (
    REJECTS,
    ROWS,
    TOKENIZER,
    assign_shards,
    check_languages,
    check_rejects,
    count_rows,
    count_shards,
    evaluation_texts,
    find_duplicate_items,
    load_evaluation_sets,
    make_shard,
    read_rows,
    shard_from_json,
    shard_to_json,
    store_fingerprint,
    tokenizer_texts,
    write_rejects,
)
from hbt_ray.data.token_store import MANIFEST, StoreManifest, write_manifest
from hbt_ray.data.tokenizer import PairTokenizer, check_lengths, load_tokenizer, train_tokenizer
from hbt_ray.data.types import Benchmark, RejectedRow
from hbt_ray.errors import CorpusError, StoreError
from hbt_ray.utils.atomic_write import atomic_shared_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KEYS_PER_BUCKET = 1 << 20  # that one task compares in memory


def prepare(config: RunConfig, stores: Path, *, blocks: int | None = None, whole_texts: bool = False) -> Path:
    """The store for a configuration, made where there is none yet.

    Args:
        stores: folder of stores; each is named by the fingerprint of what made it, so runs share them.
        blocks: tasks to read the corpora in; None: one per part.
        whole_texts: texts may be longer than the model takes, since they will not pass it in one piece.

    Returns:
        The store's folder. Beside the shards it holds the tokenizer and `rejects.jsonl`.

    Raises:
        CorpusError: a corpus or evaluation set cannot be read, or too many of its rows are bad.
        StoreError: the store cannot be written; there is none then, and no part of one.
    """
    parts = [part for corpus in config.corpora for part in list_shards(corpus)]
    evaluation_sets = load_evaluation_sets(config)
    tokenizer = load_tokenizer(config.model) if config.model.path is not None else None
    if tokenizer and not whole_texts:
        check_lengths(tokenizer, config.text)
    tokenization = PairTokenizer(tokenizer, config.text) if tokenizer else None
    described = tokenization.fingerprint() if tokenization else f"trained, {config.model.small.vocabulary} pieces"
    folder = stores / store_fingerprint(config, parts, evaluation_sets, described)
    if (folder / MANIFEST).exists():
        return folder
    # After a StoreError the shards would only fill the disk. If rows are bad, their list is kept to be read.
    with atomic_shared_folder(folder, delete_on=StoreError) as unfinished, unwrap_ray_errors("preparing"):
        _make_store(config, parts, evaluation_sets, tokenizer, unfinished, blocks)
    return folder


def _make_store(
    config: RunConfig,
    parts: list[CorpusShard],
    evaluation_sets: list[Benchmark],
    tokenizer: PreTrainedTokenizerFast | None,
    folder: Path,
    blocks: int | None,
) -> StoreManifest:
    rows = _read(config, parts, evaluation_sets, blocks)
    counts, rejects, contaminated = _looked_through(rows)
    rows_read = Counter[str]()
    for (source, _, _), number in counts.items():
        rows_read[source] += number
    write_rejects(folder / REJECTS, rejects)
    check_rejects(rows_read, rejects, config.prepare.max_reject_share, folder / REJECTS)
    check_languages(config.corpora, counts)

    repeated = _repeated(rows)
    left_out = set(contaminated) | repeated
    num_shards = count_shards(counts, config.prepare.items_per_shard)
    placed = _placed(rows, left_out, num_shards, config)
    if not placed.count():
        raise CorpusError(
            f"no item is left to train on: {len(contaminated)} occur in evaluation sets, {len(repeated)} are repeated"
        )
    if tokenizer is None:
        tokenizer = _train_tokenizer(config, placed)
    tokenizer.save_pretrained(folder / TOKENIZER)
    tokenization = PairTokenizer(tokenizer, config.text)

    shards = []
    for text in _make_shards(placed, sum(num_shards.values()), folder, tokenization):
        shard, repeated_ids = shard_from_json(text)
        shards.append(shard)
        rejects += repeated_ids
    write_rejects(folder / REJECTS, rejects)
    check_rejects(rows_read, rejects, config.prepare.max_reject_share, folder / REJECTS)
    return write_manifest(
        folder,
        shards,
        text_fingerprint=tokenization.fingerprint(),
        token_type=tokenization.token_type,
        counts=_summary(rows_read, rejects, contaminated, repeated - set(contaminated)),
    )


def _read(
    config: RunConfig, parts: list[CorpusShard], evaluation_sets: list[Benchmark], blocks: int | None
) -> ray.data.Dataset:
    evaluation_ref = ray.put(evaluation_texts(config, evaluation_sets))

    def read(batch: dict[str, Any]) -> Iterator[pa.Table]:
        yield from read_rows([parts[number] for number in batch["part"]], ray.get(evaluation_ref))

    return (
        ray.data.from_items([{"part": n} for n in range(len(parts))], override_num_blocks=blocks or len(parts))
        .map_batches(read, batch_size=None)
        .materialize()
    )


def _looked_through(
    rows: ray.data.Dataset,
) -> tuple[dict[tuple[str, str, str], int], list[RejectedRow], dict[tuple[str, str], str]]:
    """Rows as `count_rows` counts them, those that were rejected, and the items that occur in evaluation sets."""
    rejected = ["source", "place", "rejected", "detail"]
    occurring = ["source", "item_id", "occurs_in_evaluation"]

    def listed(table: pa.Table, columns: list[str]) -> list[list[str]]:
        chosen = table.filter(pc.is_valid(table.column(columns[2]))).select(columns)
        return [list(row.values()) for row in chosen.to_pylist()]

    def look(table: pa.Table) -> pa.Table:
        counts = [[*key, number] for key, number in count_rows(table).items()]
        return pa.table({"seen": [json.dumps([counts, listed(table, rejected), listed(table, occurring)])]})

    total: Counter[tuple[str, str, str]] = Counter()
    rejects: list[RejectedRow] = []
    contaminated: dict[tuple[str, str], str] = {}
    for row in rows.map_batches(look, batch_format="pyarrow", batch_size=None).iter_rows():
        counts, bad, found = json.loads(row["seen"])
        for source, language, reason, number in counts:
            total[source, language, reason] += number
        rejects += [RejectedRow(*one) for one in bad]
        contaminated |= {(source, item): text for source, item, text in found}
    return dict(total), rejects, contaminated


def _repeated(rows: ray.data.Dataset) -> set[tuple[str, str]]:
    buckets = -(-rows.count() // KEYS_PER_BUCKET)

    def keyed(table: pa.Table) -> pa.Table:
        good = table.filter(pc.is_null(table.column("rejected"))).select(["pair_key", "source", "item_id"])
        keys = good.column("pair_key").to_numpy() % buckets
        return good.append_column("bucket", pa.array(keys, pa.int64()))

    keys = rows.map_batches(keyed, batch_format="pyarrow", batch_size=None)
    if buckets == 1:  # not worth a shuffle
        found = find_duplicate_items(
            pa.concat_tables(keys.iter_batches(batch_format="pyarrow", batch_size=None))
        ).to_pylist()
    else:
        grouped = keys.groupby("bucket", num_partitions=buckets)
        found = grouped.map_groups(find_duplicate_items, batch_format="pyarrow").take_all()
    return {(row["source"], row["item_id"]) for row in found}


def _placed(
    rows: ray.data.Dataset, left_out: set[tuple[str, str]], num_shards: dict[str, int], config: RunConfig
) -> ray.data.Dataset:
    left_out_ref = ray.put(left_out)
    share = config.prepare.validation_share

    def place(table: pa.Table) -> pa.Table:
        return assign_shards(table, ray.get(left_out_ref), num_shards, share)

    return rows.map_batches(place, batch_format="pyarrow", batch_size=None).materialize()


def _train_tokenizer(config: RunConfig, placed: ray.data.Dataset) -> PreTrainedTokenizerFast:
    def training(table: pa.Table) -> pa.Table:
        return table.filter(pc.match_substring(table.column("bucket"), '"train"'))

    rows = placed.map_batches(training, batch_format="pyarrow", batch_size=None)
    tables = list(rows.iter_batches(batch_format="pyarrow", batch_size=None))
    texts = tokenizer_texts(pa.concat_tables(tables), (config.text.query_prefix, config.text.passage_prefix))
    return train_tokenizer(texts, config.model.small.vocabulary)


def _make_shards(placed: ray.data.Dataset, num_shards: int, folder: Path, tokenization: PairTokenizer) -> list[str]:
    tokenization_ref = ray.put(tokenization)
    schema = ROWS.append(pa.field("bucket", pa.string()))

    def make(rows: pa.Table) -> pa.Table:
        shard, rejects = make_shard(rows.cast(schema), folder, ray.get(tokenization_ref))
        return pa.table({"shard": [shard_to_json(shard, rejects)]})

    made = placed.groupby("bucket", num_partitions=num_shards).map_groups(make, batch_format="pyarrow")
    return [row["shard"] for row in made.take_all()]


def _summary(
    rows_read: Mapping[str, int],
    rejects: list[RejectedRow],
    contaminated: dict[tuple[str, str], str],
    repeated: set[tuple[str, str]],
) -> dict[str, Any]:
    rejected: dict[str, Counter[str]] = {source: Counter() for source in rows_read}
    for reject in rejects:
        rejected[reject.source][reject.reason] += 1
    return {
        source: {
            "rows_read": rows_read[source],
            "rows_rejected": dict(sorted(rejected[source].items())),
            "items_dropped_for_evaluation": [
                {"item": item, "found": found} for (s, item), found in sorted(contaminated.items()) if s == source
            ],
            "items_dropped_as_repeated": sorted(item for s, item in repeated if s == source),
        }
        for source in sorted(rows_read)
    }
