"""Prepare a token store from corpora, mapped over the cluster with Ray Data."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from hbt_ray.cluster.errors import unwrap_ray_errors
from hbt_ray.cluster.runtime import connect
from hbt_ray.config import PrepareInputs
from hbt_ray.data.components import ItemComponents, find_components, link_items, list_text_keys
from hbt_ray.data.corpora import CorpusShard, list_shards
from hbt_ray.data.manifest import SourceCounts, write_manifest
from hbt_ray.data.model_files import check_trainable
from hbt_ray.data.prepare import (
    ASSIGNED_ROWS,
    ShardResult,
    assign_shards,
    count_items,
    count_shards,
    make_shard,
    shard_from_json,
    shard_to_json,
    tokenizer_texts,
)
from hbt_ray.data.row_tables import (
    REJECTS,
    ItemKey,
    check_languages,
    check_rejects,
    count_rows,
    count_rows_read,
    find_duplicate_items,
    read_rows,
    write_rejects,
)
from hbt_ray.data.store_inputs import (
    TOKENIZER,
    fault_of_store,
    index_evaluation_sets,
    load_evaluation_sets,
    store_fingerprint,
)
from hbt_ray.data.tokenizer import PairTokenizer, check_lengths, load_tokenizer, train_tokenizer
from hbt_ray.data.types import Benchmark, RejectedRow
from hbt_ray.data.zero_shot import write_decontaminated
from hbt_ray.errors import CorpusError, StoreError
from hbt_ray.utils.progress import stage
from hbt_ray.utils.shared_folder import new_shared_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KEYS_PER_BUCKET = 1 << 20  # of pairs or texts, that one task compares in memory


@dataclass(frozen=True, slots=True)
class _StoreSource:
    """What a store is made of."""

    shards: list[CorpusShard]
    evaluation_sets: list[Benchmark]
    tokenizer: PreTrainedTokenizerFast | None  # None: one is trained
    folder: Path  # of the store


def prepare(inputs: PrepareInputs, stores: Path, *, blocks: int | None = None, verify: bool = False) -> Path:
    """Return the store of some inputs; it is made if it does not exist yet, and made again if it is damaged.

    It contains, with the shards and the manifest, the tokenizer and `rejects.jsonl`.

    Args:
        inputs: corpora, settings and evaluation sets.
        stores: folder of stores. Each is named by its fingerprint, so runs share them.
        blocks: number of tasks that read the corpora; None: one for each shard of a corpus.
        verify: compare the checksums of a store that exists.

    Raises:
        ConfigError: the model cannot be trained, has no tokenizer, or takes shorter texts.
        CorpusError: a corpus or evaluation set cannot be read, or too many of its rows are rejected.
        StoreError: the store cannot be written; no part of it exists then.
        StorageError: the folder of stores cannot be written.
    """
    source = _list_source(inputs, stores)
    fault_of = functools.partial(fault_of_store, inputs=inputs, verify=verify)
    with new_shared_folder(source.folder, fault_of, keep=REJECTS) as unfinished, unwrap_ray_errors("preparing"):
        if unfinished is not None:
            connect()
            with stage("preparing the store"):
                _make_store(inputs, source.shards, source.evaluation_sets, source.tokenizer, unfinished, blocks)
    return source.folder


def verify_store(inputs: PrepareInputs, stores: Path) -> Path:
    """Compare all checksums of the store of some inputs, and change nothing; return its folder.

    Raises:
        StoreError: there is no such store, or it is damaged; the message names all that is.
        CorpusError: a corpus or evaluation set cannot be read.
    """
    folder = _list_source(inputs, stores).folder
    fault = fault_of_store(folder, inputs, verify=True)
    if fault is not None:
        raise StoreError(fault)
    return folder


def _list_source(inputs: PrepareInputs, stores: Path) -> _StoreSource:
    """List the corpora's shards, read the evaluation sets and the tokenizer, and name the store of them."""
    shards = [shard for corpus in inputs.corpora for shard in list_shards(corpus)]
    evaluation_sets = load_evaluation_sets(inputs)
    tokenizer = None
    if inputs.model.path is not None:
        check_trainable(inputs.model.path, (inputs.text.query_prefix, inputs.text.passage_prefix))
        tokenizer = load_tokenizer(inputs.model)
    if tokenizer and not inputs.whole_texts:
        check_lengths(tokenizer, inputs.text)
    tokenization = PairTokenizer(tokenizer, inputs.text) if tokenizer else None
    described = tokenization.fingerprint() if tokenization else f"trained, {inputs.model.small.vocabulary} pieces"
    name = store_fingerprint(inputs, shards, evaluation_sets, described)
    return _StoreSource(shards, evaluation_sets, tokenizer, stores / name)


def _make_store(
    inputs: PrepareInputs,
    shards: Sequence[CorpusShard],
    evaluation_sets: Sequence[Benchmark],
    tokenizer: PreTrainedTokenizerFast | None,
    folder: Path,
    blocks: int | None,
) -> None:
    """Make a store.

    1. Read the corpora; check the number of rejected rows and the languages.
    2. Find the items to leave out and those with texts in common, and assign items to splits and shards.
    3. Train a tokenizer if the model has none.
    4. Write the shards; check the rejected rows again.
    5. Write the manifest.
    """
    # 1.
    rows = _read(inputs, shards, evaluation_sets, blocks)
    summary = _summarize_rows(rows)
    rows_read = count_rows_read(summary.counts)
    write_rejects(folder / REJECTS, summary.rejects)
    check_rejects(rows_read, summary.rejects, inputs.prepare.max_reject_share, folder / REJECTS)
    check_languages(inputs.corpora, summary.counts)
    # 2.
    repeated = _find_duplicates(rows)
    num_shards = count_shards(summary.counts, inputs.prepare.items_per_shard)
    left_out = set(summary.contaminated) | repeated
    components = _find_components(rows, summary.texts)
    num_items = count_items(summary.counts)
    assigned = _assign_shards(rows, left_out, num_shards, inputs.prepare.validation_share, components, num_items)
    if not assigned.count():
        raise CorpusError(
            f"no item is left to train on: {len(summary.contaminated)} occur in evaluation sets, "
            f"{len(repeated)} are repeated"
        )
    # 3.
    if tokenizer is None:
        tokenizer = _train_tokenizer(inputs, assigned)
    tokenizer.save_pretrained(folder / TOKENIZER)
    write_decontaminated(folder, evaluation_sets)
    tokenization = PairTokenizer(tokenizer, inputs.text)
    # 4.
    results = _make_shards(assigned, sum(num_shards.values()), folder, tokenization)
    rejects = summary.rejects + [reject for result in results for reject in result.rejects]
    write_rejects(folder / REJECTS, rejects)
    check_rejects(rows_read, rejects, inputs.prepare.max_reject_share, folder / REJECTS)
    # 5.
    write_manifest(
        folder,
        [result.shard for result in results],
        text_fingerprint=tokenization.fingerprint(),
        token_type=tokenization.token_type,
        counts=_source_counts(summary, rejects, repeated - set(summary.contaminated)),
    )


def _read(
    inputs: PrepareInputs, shards: Sequence[CorpusShard], evaluation_sets: Sequence[Benchmark], blocks: int | None
) -> ray.data.Dataset:
    """Read the corpora into a data set of `ROWS`."""
    evaluation_ref = ray.put(index_evaluation_sets(evaluation_sets, inputs.prepare.near_duplicate_threshold))

    def read(batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        yield from read_rows([shards[number] for number in batch["shard"]], ray.get(evaluation_ref))

    return (
        ray.data.from_items([{"shard": n} for n in range(len(shards))], override_num_blocks=blocks or len(shards))
        .map_batches(read, batch_size=None)
        .materialize()
    )


@dataclass(slots=True)
class _RowSummary:
    """The counts of all rows, the rejected ones, and the items that occur in evaluation sets."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # see `RowCounts`
    rejects: list[RejectedRow] = field(default_factory=list)
    contaminated: dict[ItemKey, str] = field(default_factory=dict)  # item -> `occurs_in_evaluation`
    texts: int = 0  # questions, passages and negatives


def _summarize_rows(rows: ray.data.Dataset) -> _RowSummary:
    rejected = ["source", "place", "rejected", "detail"]
    occurring = ["source", "item_id", "occurs_in_evaluation"]

    def list_valid(table: pa.Table, columns: list[str]) -> list[list[str]]:
        selected = table.filter(pc.is_valid(table.column(columns[2]))).select(columns)
        return [list(row.values()) for row in selected.to_pylist()]

    def summarize(table: pa.Table) -> pa.Table:
        counts = [[*key, number] for key, number in count_rows(table).items()]
        texts = 2 * table.num_rows + len(pc.list_flatten(table.column("negatives")))
        valid = [list_valid(table, columns) for columns in (rejected, occurring)]
        return pa.table({"summary": [json.dumps([counts, *valid, texts])]})

    summary = _RowSummary()
    for row in rows.map_batches(summarize, batch_format="pyarrow", batch_size=None).iter_rows():
        counts, rejects, contaminated, texts = json.loads(row["summary"])
        summary.texts += texts
        for source, language, reason, number in counts:
            summary.counts[source, language, reason] += number
        summary.rejects += [RejectedRow(*fields) for fields in rejects]
        summary.contaminated |= {(source, item_id): text for source, item_id, text in contaminated}
    return summary


def _find_duplicates(rows: ray.data.Dataset) -> set[ItemKey]:
    """Find the items that `find_duplicate_items` finds, in buckets of pair keys."""
    buckets = -(-rows.count() // KEYS_PER_BUCKET)

    def select_keys(table: pa.Table) -> pa.Table:
        accepted = table.filter(pc.is_null(table.column("rejected"))).select(["pair_key", "source", "item_id"])
        keys = accepted.column("pair_key").to_numpy() % buckets
        return accepted.append_column("bucket", pa.array(keys, pa.int64()))

    keys = rows.map_batches(select_keys, batch_format="pyarrow", batch_size=None)
    if buckets == 1:  # needs no shuffle
        tables = list(keys.iter_batches(batch_format="pyarrow", batch_size=None))
        duplicates = find_duplicate_items(pa.concat_tables(tables)).to_pylist()
    else:
        grouped = keys.groupby("bucket", num_partitions=buckets)
        duplicates = grouped.map_groups(find_duplicate_items, batch_format="pyarrow").take_all()
    return {(row["source"], row["item_id"]) for row in duplicates}


def _find_components(rows: ray.data.Dataset, texts: int) -> ItemComponents:
    """Find the items that have texts in common, in buckets of text keys; the driver receives only links."""
    buckets = max(1, -(-texts // KEYS_PER_BUCKET))

    def select_keys(table: pa.Table) -> pa.Table:
        keys = list_text_keys(table)
        bucket = keys.column("key").to_numpy() % np.uint64(buckets)
        return keys.append_column("bucket", pa.array(bucket.astype(np.int64)))

    keys = rows.map_batches(select_keys, batch_format="pyarrow", batch_size=None)
    if buckets == 1:  # needs no shuffle
        return find_components(
            [link_items(pa.concat_tables(keys.iter_batches(batch_format="pyarrow", batch_size=None)))]
        )
    links = keys.groupby("bucket", num_partitions=buckets).map_groups(link_items, batch_format="pyarrow")
    return find_components(links.iter_batches(batch_format="pyarrow", batch_size=None))


def _assign_shards(
    rows: ray.data.Dataset,
    left_out: set[ItemKey],
    num_shards: dict[str, int],
    validation_fraction: float,
    components: ItemComponents,
    num_items: int,
) -> ray.data.Dataset:
    inputs_ref = ray.put((left_out, components))

    def assign(table: pa.Table) -> pa.Table:
        left_out, components = ray.get(inputs_ref)
        return assign_shards(table, left_out, num_shards, validation_fraction, components, num_items)

    return rows.map_batches(assign, batch_format="pyarrow", batch_size=None).materialize()


def _train_tokenizer(inputs: PrepareInputs, assigned: ray.data.Dataset) -> PreTrainedTokenizerFast:
    def select_training(table: pa.Table) -> pa.Table:
        return table.filter(pc.match_substring(table.column("bucket"), '"train"'))

    rows = assigned.map_batches(select_training, batch_format="pyarrow", batch_size=None)
    tables = list(rows.iter_batches(batch_format="pyarrow", batch_size=None))
    texts = tokenizer_texts(pa.concat_tables(tables), (inputs.text.query_prefix, inputs.text.passage_prefix))
    return train_tokenizer(texts, inputs.model.small.vocabulary)


def _make_shards(
    assigned: ray.data.Dataset, num_shards: int, folder: Path, tokenization: PairTokenizer
) -> list[ShardResult]:
    """Write the shards, a task for each group of rows of one bucket."""
    tokenization_ref = ray.put(tokenization)

    def make(rows: pa.Table) -> pa.Table:
        result = make_shard(rows.cast(ASSIGNED_ROWS), folder, ray.get(tokenization_ref))
        return pa.table({"shard": [shard_to_json(*result)]})

    made = assigned.groupby("bucket", num_partitions=num_shards).map_groups(make, batch_format="pyarrow")
    return [shard_from_json(row["shard"]) for row in made.take_all()]


def _source_counts(
    summary: _RowSummary, rejects: Sequence[RejectedRow], repeated: set[ItemKey]
) -> Mapping[str, SourceCounts]:
    """Return the manifest's counts of each source."""
    rows_read = count_rows_read(summary.counts)
    rejected: dict[str, Counter[str]] = {source: Counter() for source in rows_read}
    for reject in rejects:
        rejected[reject.source][reject.reason] += 1
    return {
        name: {
            "rows_read": rows_read[name],
            "rows_rejected": dict(sorted(rejected[name].items())),
            "items_dropped_for_evaluation": [
                {"item": item_id, "found": text}
                for (source, item_id), text in sorted(summary.contaminated.items())
                if source == name
            ],
            "items_dropped_as_repeated": sorted(item_id for source, item_id in repeated if source == name),
        }
        for name in sorted(rows_read)
    }
