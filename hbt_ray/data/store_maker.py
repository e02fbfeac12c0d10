"""From corpora to a token store, in this process or mapped over a cluster.

`make_store` has the steps. They run on an `Engine`: `ThisProcess`, or Ray Data in `cluster/prepare.py`. The store does
not depend on which.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.config import PrepareInputs
from hbt_ray.data.components import ItemComponents
from hbt_ray.data.corpora import CorpusShard, list_shards, split_shards
from hbt_ray.data.engine import Engine, RowTables, ThisProcess
from hbt_ray.data.left_out import LeftOut, RowSummary, find_left_out, link_kept_items, summarize_rows
from hbt_ray.data.manifest import SourceCounts, write_manifest
from hbt_ray.data.model_files import check_trainable
from hbt_ray.data.prepare import (
    ASSIGNED_ROWS,
    MAX_TOKENIZER_TEXTS,
    ShardResult,
    assign_shards,
    count_items,
    count_shards,
    make_shard,
    sample_for_tokenizer,
    shard_from_json,
    shard_to_json,
    tokenizer_texts,
)
from hbt_ray.data.row_tables import (
    REJECTS,
    check_languages,
    check_rejects,
    count_rejects,
    count_rows_read,
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
from hbt_ray.data.types import Benchmark
from hbt_ray.data.zero_shot import write_decontaminated
from hbt_ray.errors import CorpusError, StoreError
from hbt_ray.utils.progress import stage
from hbt_ray.utils.shared_folder import new_shared_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

OnStage = Callable[[str, float], None]
MARGIN = 1.1  # of the rows that are sampled for the tokenizer: a hash may select fewer than its fraction


@dataclass(frozen=True, slots=True)
class StoreSource:
    """What a store is made of."""

    inputs: PrepareInputs
    shards: list[CorpusShard]
    evaluation_sets: list[Benchmark]
    tokenizer: PreTrainedTokenizerFast | None  # None: one is trained
    folder: Path  # of the store

    def new_folder(self, *, verify: bool) -> AbstractContextManager[Path | None]:
        """Yield a folder to make the store in; None if there is one already that is not damaged.

        Args:
            verify: compare the checksums of a store that exists.
        """
        fault_of = functools.partial(fault_of_store, inputs=self.inputs, verify=verify)
        return new_shared_folder(self.folder, fault_of, keep=REJECTS)


def list_source(inputs: PrepareInputs, stores: Path) -> StoreSource:
    """List the corpora's shards, read the evaluation sets and the tokenizer, and name the store of them.

    Args:
        inputs: corpora, settings and evaluation sets.
        stores: folder of stores. Each is named by its fingerprint, so runs share them.

    Raises:
        ConfigError: the model cannot be trained, has no tokenizer, or takes shorter texts.
        CorpusError: a corpus or evaluation set cannot be read.
    """
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
    return StoreSource(inputs, shards, evaluation_sets, tokenizer, stores / name)


def prepare_here(inputs: PrepareInputs, stores: Path, *, verify: bool = False) -> Path:
    """Return the store of some inputs, made in this process if it does not exist; see `cluster.prepare.prepare`."""
    source = list_source(inputs, stores)
    with source.new_folder(verify=verify) as unfinished:
        if unfinished is not None:
            make_store(source, unfinished, ThisProcess())
    return source.folder


def verify_store(inputs: PrepareInputs, stores: Path) -> Path:
    """Compare all checksums of the store of some inputs, and change nothing; return its folder.

    Raises:
        StoreError: there is no such store, or it is damaged; the message names all that is.
        CorpusError: a corpus or evaluation set cannot be read.
    """
    folder = list_source(inputs, stores).folder
    fault = fault_of_store(folder, inputs, verify=True)
    if fault is not None:
        raise StoreError(fault)
    return folder


def log_stage(stage: str, seconds: float) -> None:
    """Log the seconds of a stage of `make_store`."""
    logger.info("prepare: %s took %.1f s", stage, seconds)


def make_store(source: StoreSource, folder: Path, engine: Engine, on_stage: OnStage = log_stage) -> None:
    """Make a store: shards, manifest, tokenizer and `rejects.jsonl`.

    1. Read the corpora; check the number of rejected rows and the languages.
    2. Find the items to leave out and those with texts in common, and assign items to splits and shards.
    3. Train a tokenizer if the model has none.
    4. Write the shards; check the rejected rows again.
    5. Write the manifest.

    Args:
        source: what the store is made of.
        folder: an empty one.
        engine: that the steps run on.
        on_stage: called with the name and the seconds of each stage when it has ended.

    Raises:
        CorpusError: a corpus cannot be read, too many of its rows are rejected, or no item is left.
        StoreError: a shard cannot be written.
    """
    began_s = time.perf_counter()

    def ended(name: str) -> None:
        nonlocal began_s
        now_s = time.perf_counter()
        on_stage(name, now_s - began_s)
        began_s = now_s

    with stage("preparing the store") as shown:
        # 1.
        inputs, max_share = source.inputs, source.inputs.prepare.max_reject_share
        shown.detail = f"reading {len(source.shards):,} files"
        rows = _read(source, engine)
        ended("read")
        summary = summarize_rows(rows)
        rows_read = count_rows_read(summary.counts)
        write_rejects(folder / REJECTS, summary.rejects)
        check_rejects(rows_read, summary.rejects, max_share, folder / REJECTS)
        check_languages(inputs.corpora, summary.counts, inputs.languages or ())
        ended("count")
        # 2.
        shown.detail = f"finding repeated and linked items in {sum(rows_read.values()):,} rows"
        left_out = find_left_out(rows, summary.contaminated)
        num_shards = count_shards(summary.counts, inputs.prepare.items_per_shard)
        components, kept = link_kept_items(rows, summary, left_out, engine)
        shared = engine.share((left_out.keys, components))
        assigned = _assign_shards(rows, shared, num_shards, inputs.prepare.validation_share, count_items(kept))
        num_assigned = assigned.count()
        ended("find repeated and linked items")
        if not num_assigned:
            raise CorpusError(f"no item is left to train on: {left_out}")
        # 3.
        shown.detail = f"training a tokenizer on {num_assigned:,} rows"
        tokenizer = source.tokenizer or _train_tokenizer(inputs, assigned, num_assigned)
        ended("train a tokenizer")
        tokenizer.save_pretrained(folder / TOKENIZER)
        write_decontaminated(folder, source.evaluation_sets)
        tokenization = PairTokenizer(tokenizer, inputs.text)
        # 4.
        shown.detail = f"tokenizing {num_assigned:,} rows and writing {sum(num_shards.values()):,} shards"
        results = _make_shards(assigned, sum(num_shards.values()), folder, engine.share(tokenization))
        ended("tokenize and write")
        rejects = pa.concat_tables([summary.rejects, *(result.rejects for result in results)])
        write_rejects(folder / REJECTS, rejects)
        check_rejects(rows_read, rejects, max_share, folder / REJECTS)
        # 5.
        write_manifest(
            folder,
            [result.shard for result in results],
            text_fingerprint=tokenization.fingerprint(),
            token_type=tokenization.token_type,
            counts=_source_counts(summary, rejects, left_out, results),
        )
        shown.detail = ""


def _read(source: StoreSource, engine: Engine) -> RowTables:
    """Read the corpora into tables of `ROWS`."""
    threshold = source.inputs.prepare.near_duplicate_threshold
    shards = split_shards(source.shards)
    evaluation = engine.share(index_evaluation_sets(source.evaluation_sets, threshold))
    return engine.read(len(shards), lambda numbers: read_rows([shards[number] for number in numbers], evaluation()))


def _strings(tables: RowTables, column: str) -> Iterator[str]:
    for table in tables:
        yield from table.column(column).to_pylist()


def _assign_shards(
    rows: RowTables,
    shared: Callable[[], tuple[np.ndarray, ItemComponents]],
    num_shards: dict[str, int],
    validation_fraction: float,
    num_items: int,
) -> RowTables:
    def assign(table: pa.Table) -> pa.Table:
        left_out, components = shared()
        return assign_shards(table, left_out, num_shards, validation_fraction, components, num_items)

    return rows.map(assign).compute()


def _train_tokenizer(inputs: PrepareInputs, assigned: RowTables, num_rows: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer on the first texts by a hash, where these are gathered; no text passes this process."""
    prefixes, vocabulary = (inputs.text.query_prefix, inputs.text.passage_prefix), inputs.model.small.vocabulary

    def train(sampled: pa.Table) -> PreTrainedTokenizerFast | None:
        texts = tokenizer_texts(sampled, prefixes)
        is_enough = len(texts) == MAX_TOKENIZER_TEXTS or fraction >= 1
        return train_tokenizer(texts, vocabulary) if is_enough else None

    fraction = MARGIN * MAX_TOKENIZER_TEXTS / num_rows
    while True:
        tokenizer = assigned.map(functools.partial(sample_for_tokenizer, fraction=fraction)).gather(train)
        if tokenizer is not None:
            return tokenizer
        fraction *= 2


def _make_shards(
    assigned: RowTables, num_shards: int, folder: Path, tokenization: Callable[[], PairTokenizer]
) -> list[ShardResult]:
    """Write the shards, each from the rows of one bucket."""

    def make(rows: pa.Table) -> pa.Table:
        result = make_shard(rows.cast(ASSIGNED_ROWS), folder, tokenization())
        return pa.table({"shard": [shard_to_json(result)]})

    return [shard_from_json(text) for text in _strings(assigned.map_groups("bucket", make, num_shards), "shard")]


def _source_counts(
    summary: RowSummary, rejects: pa.Table, left_out: LeftOut, results: list[ShardResult]
) -> Mapping[str, SourceCounts]:
    """Return the manifest's counts of each source."""
    rejected = count_rejects(rejects)
    negatives = Counter[str]()
    for result in results:
        negatives[result.shard.source] += result.negatives_held_out

    def items_of(items: pa.Table, source: str) -> pa.Table:
        return items.filter(pc.equal(items.column("source"), source))

    return {
        name: {
            "rows_read": rows,
            "rows_rejected": dict(sorted(rejected[name].items())),
            "items_dropped_for_evaluation": [
                {"item": row["item_id"], "found": row["occurs_in_evaluation"]}
                for row in items_of(left_out.contaminated, name).to_pylist()
            ],
            "items_dropped_as_repeated": items_of(left_out.repeated, name).column("item_id").to_pylist(),
            **({"negatives_dropped_as_held_out": negatives[name]} if negatives[name] else {}),
        }
        for name, rows in sorted(count_rows_read(summary.counts).items())
    }
