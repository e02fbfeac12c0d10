"""Inspect a sampler without training: write every (step, rank, pair) to Parquet, and summarize the realised mix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError, StoreError
from hbt_ray.sampling.hybrid_sampler import BatchSpec, HybridStepSampler
from hbt_ray.sampling.rank_sharding import pairs_per_rank, rank_slice
from hbt_ray.utils.atomic_write import atomic_file
from hbt_ray.utils.plotting import ACCENT, MUTED, draw_heat_map, hide_spines, save_figure

PAIRS = pa.schema(
    [
        ("step", pa.int64()),  # optimizer step, counted from 0
        ("rank", pa.int32()),
        ("kind", pa.string()),
        ("query_language", pa.string()),
        ("second_language", pa.string()),  # of the query's translation; null if there is none
        ("passage_language", pa.string()),
        ("source", pa.string()),
        ("item_id", pa.string()),  # null if the store has no shards
        ("row", pa.int64()),  # the item's row in its source
        ("epoch", pa.int64()),  # of the batch's stream
        ("batch", pa.int64()),  # index of the batch; several to a step with gradient accumulation
    ]
)
BATCHES_PER_ROW_GROUP = 64


@dataclass(frozen=True, slots=True)
class MixEntry:
    """The fraction of batches with one value of an attribute, such as the source "embedded"."""

    attribute: str  # "kind", "source" or "languages"
    value: str
    intended: float  # by the mix's probabilities
    realised: float  # in the steps of the trace


@dataclass(frozen=True, slots=True)
class StreamEpochs:
    """The number of times that the items of a stream are drawn."""

    stream: str
    num_items: int
    epochs: float


@dataclass(frozen=True, slots=True)
class SamplerTrace:
    """A sampler's batches in a range of steps, divided among ranks."""

    sampler: HybridStepSampler
    store: TokenStore
    first_step: int
    last_step: int  # exclusive
    num_ranks: int
    chunk_pairs: int
    batches_per_step: int

    def pair_tables(self) -> Iterator[pa.Table]:
        """Yield a table for each batch, with a row for each query and positive passage, ordered by rank."""
        has_shards = True
        for index in range(*self._batch_range):
            spec = self.sampler.batch(index)
            item_ids: list[str | None] = [None] * len(spec.rows)
            if has_shards:
                try:
                    item_ids = [*self.store.item_ids(spec.source, spec.rows, spec.split)]
                except StoreError:
                    if (self.store.folder / self.store.shards[0].file).exists():
                        raise
                    has_shards = False  # a manifest without its shards
            yield self._pair_table(index, spec, item_ids)

    def _pair_table(self, index: int, spec: BatchSpec, item_ids: list[str | None]) -> pa.Table:
        size = len(spec.rows)
        ranks = np.empty(size, np.int32)
        for rank in range(self.num_ranks):
            ranks[rank_slice(size, self.num_ranks, rank, self.chunk_pairs)] = rank
        pair = np.repeat(np.arange(size), spec.positives)  # the pair of each row
        return pa.table(
            [
                np.full(len(pair), index // self.batches_per_step),
                ranks[pair],
                [spec.kind] * len(pair),
                spec.query_languages[pair].tolist(),
                [language or None for language in spec.second_languages[pair].tolist()],
                spec.passage_languages.tolist(),
                [spec.source] * len(pair),
                pa.array(item_ids, pa.string()).take(pa.array(pair)),
                spec.rows[pair],
                np.full(len(pair), spec.epoch),
                np.full(len(pair), index),
            ],
            schema=PAIRS,
        )

    def pairs_per_rank(self) -> list[int]:
        """Return the number of pairs of each batch that each rank gets."""
        return pairs_per_rank(self.sampler.global_batch_size, self.num_ranks, self.chunk_pairs)

    @property
    def _batch_range(self) -> tuple[int, int]:
        """Index of the first batch of the steps, and of the first after them."""
        return self.first_step * self.batches_per_step, self.last_step * self.batches_per_step

    def mix(self) -> list[MixEntry]:
        """Return the intended and realised fractions of batches by kind, by source and by languages."""
        intended = self.sampler.intended_mix(*self._batch_range)
        realised = self.sampler.realised_mix(*self._batch_range)
        return [
            MixEntry(attribute, value, fraction, realised[attribute][value])
            for attribute, by_value in intended.items()
            for value, fraction in by_value.items()
        ]

    def language_pairs(self) -> np.ndarray:
        """Return the fraction of pairs of each query language (row) and passage language (column)."""
        languages = np.array(self.sampler.languages)
        order = np.argsort(languages)
        grid = np.zeros((len(languages), len(languages)))
        for index in range(*self._batch_range):
            spec = self.sampler.batch(index)  # the batches of most streams mix languages
            pair = np.repeat(spec.query_languages, spec.positives), spec.passage_languages
            np.add.at(grid, tuple(order[np.searchsorted(languages, of, sorter=order)] for of in pair), 1)
        return grid / max(grid.sum(), 1)

    def epochs(self) -> list[StreamEpochs]:
        """Return the number of epochs of each stream, the highest first."""
        pairs = self.sampler.batches_per_stream(*self._batch_range) * self.sampler.global_batch_size
        epochs = [
            StreamEpochs(stream.name, stream.num_items, drawn / stream.num_items)
            for stream, drawn in zip(self.sampler.streams, pairs.tolist(), strict=True)
        ]
        return sorted(epochs, key=lambda entry: (-entry.epochs, entry.stream))


def parse_steps(text: str | None, steps: int) -> tuple[int, int]:
    """Parse a range of steps "FIRST:LAST", LAST exclusive. None is the whole run; a missing end is that of the run.

    >>> parse_steps("5:8", 40), parse_steps("5:", 40), parse_steps(None, 40)
    ((5, 8), (5, 40), (0, 40))

    Raises:
        ConfigError: the text is not such a range.
    """
    first, colon, last = (text or ":").partition(":")
    try:
        parsed = (int(first or 0), int(last or steps))
    except ValueError:
        parsed = (0, -1)
    if not colon or not 0 <= parsed[0] <= parsed[1]:
        raise ConfigError(f"{text!r} is no range of steps; write --steps FIRST:LAST, such as 0:100, LAST not included")
    return parsed


def write_trace(trace: SamplerTrace, folder: Path) -> None:
    """Write `plan.parquet`, a row for each pair, and `plan.png`, the intended and realised mix."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / "plan.parquet") as partial, pq.ParquetWriter(partial, PAIRS) as writer:
        tables: list[pa.Table] = []
        for table in trace.pair_tables():
            tables.append(table)
            if len(tables) == BATCHES_PER_ROW_GROUP:
                writer.write_table(pa.concat_tables(tables))
                tables = []
        if tables:
            writer.write_table(pa.concat_tables(tables))
    save_figure(trace_figure(trace), folder / "plan.png")


def trace_tables(trace: SamplerTrace, max_rows: int = 12) -> Iterator[Table]:
    """Yield tables for a terminal: mix, epochs, and pairs of each rank; at most `max_rows` rows for each attribute."""
    table = Table(title=f"steps {trace.first_step} to {trace.last_step}")
    for heading in ("of", "which"):
        table.add_column(heading)
    for heading in ("intended", "realised"):
        table.add_column(heading, justify="right")
    mix = trace.mix()
    for attribute in ("kind", "source", "languages"):
        entries = [entry for entry in mix if entry.attribute == attribute]
        for entry in entries[:max_rows]:
            table.add_row(attribute, entry.value, f"{entry.intended:.4f}", f"{entry.realised:.4f}")
        if len(entries) > max_rows:
            table.add_row(attribute, f"... {len(entries) - max_rows} more", "", "")
    yield table

    table = Table(title="how often items are drawn")
    table.add_column("stream")
    for heading in ("items", "epochs"):
        table.add_column(heading, justify="right")
    epochs = trace.epochs()
    for stream in epochs[:max_rows]:
        table.add_row(stream.stream, f"{stream.num_items:,}", f"{stream.epochs:.3f}")
    if len(epochs) > max_rows:
        table.add_row(f"... {len(epochs) - max_rows} more", "", "")
    yield table

    table = Table(title=f"a batch of {trace.sampler.global_batch_size} pairs over {trace.num_ranks} workers")
    table.add_column("workers", justify="right")
    table.add_column("pairs of each", justify="right")
    for pairs, workers in sorted(Counter(trace.pairs_per_rank()).items(), reverse=True):
        table.add_row(f"{workers:,}", str(pairs))
    yield table


def trace_figure(trace: SamplerTrace) -> Figure:
    """Draw realised and intended fractions by kind and source, and the realised fraction of pairs by language."""
    mix = trace.mix()
    languages = trace.sampler.languages
    figure = Figure(figsize=(7.5 + 0.35 * len(languages), 3.4 + 0.2 * len(languages)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.5])
    _draw_bars(left, [entry for entry in mix if entry.attribute != "languages"])
    _draw_language_pairs(right, trace.language_pairs(), languages)
    figure.suptitle(f"Batches of steps {trace.first_step} to {trace.last_step}", x=0.01, ha="left")
    return figure


def _draw_bars(axes: Axes, entries: list[MixEntry]) -> None:
    positions = np.arange(len(entries))
    axes.barh(
        positions - 0.19, [entry.realised for entry in entries], height=0.36, color=ACCENT, label="in these steps"
    )
    axes.barh(positions + 0.19, [entry.intended for entry in entries], height=0.36, color=MUTED, label="intended")
    axes.set_yticks(positions, [entry.value for entry in entries])
    axes.invert_yaxis()
    axes.set_xlabel("fraction of batches")
    hide_spines(axes, "top", "right")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def _draw_language_pairs(axes: Axes, grid: np.ndarray, languages: tuple[str, ...]) -> None:
    image = draw_heat_map(axes, grid, columns=languages, rows=languages, vmin=0)
    axes.set_xlabel("passage language")
    axes.set_ylabel("query language")
    axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, label="fraction of pairs")
