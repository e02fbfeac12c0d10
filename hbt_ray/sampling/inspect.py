"""An order of training looked at without training: who gets which pair at which step, and what batches amount to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError, StoreError
from hbt_ray.sampling import HybridBatchSampler, rank_pairs, rank_slice

PAIRS = pa.schema(
    [
        ("step", pa.int64()),  # optimizer step, counted from 0
        ("rank", pa.int32()),
        ("kind", pa.string()),
        ("query_language", pa.string()),
        ("second_language", pa.string()),  # in which the question is asked once more; null where it is not
        ("passage_language", pa.string()),
        ("source", pa.string()),
        ("item_id", pa.string()),  # null where only the manifest is at hand
        ("row", pa.int64()),  # the item's place in its source
        ("epoch", pa.int64()),  # of what the batch is drawn from
        ("batch", pa.int64()),  # several to a step where gradients are accumulated
    ]
)
STEPS_PER_GROUP = 64  # of rows in the file


@dataclass(frozen=True, slots=True)
class SamplerTrace:
    """A range of steps of a plan, dealt to a number of ranks."""

    plan: HybridBatchSampler
    store: TokenStore
    first_step: int
    last_step: int  # exclusive
    num_ranks: int
    chunk_pairs: int
    batches_per_step: int

    def pairs(self) -> Iterator[pa.Table]:
        """One row per question and positive, as `PAIRS`, step by step and rank by rank within a batch."""
        with_ids = True
        for step in range(self.first_step, self.last_step):
            for number in range(step * self.batches_per_step, (step + 1) * self.batches_per_step):
                spec = self.plan.batch(number)
                size = len(spec.rows)
                ids: list[str | None] = [None] * size
                if with_ids:
                    try:
                        ids = [*self.store.item_ids(spec.source, spec.rows, spec.split)]
                    except StoreError:
                        if (self.store.folder / self.store.shards[0].file).exists():
                            raise
                        with_ids = False  # a manifest without its shards
                ranks = np.empty(size, np.int32)
                for rank in range(self.num_ranks):
                    ranks[rank_slice(size, self.num_ranks, rank, self.chunk_pairs)] = rank
                pair = np.repeat(np.arange(size), spec.positives)  # which each row is of
                yield pa.table(
                    [
                        np.full(len(pair), step),
                        ranks[pair],
                        [spec.kind] * len(pair),
                        spec.query_languages[pair].tolist(),
                        [language or None for language in spec.second_languages[pair].tolist()],
                        spec.passage_languages.tolist(),
                        [spec.source] * len(pair),
                        pa.array(ids, pa.string()).take(pa.array(pair)),
                        spec.rows[pair],
                        np.full(len(pair), spec.epoch),
                        np.full(len(pair), number),
                    ],
                    schema=PAIRS,
                )

    def pairs_per_rank(self) -> list[int]:
        """How many pairs of each batch the ranks get."""
        return rank_pairs(self.plan.global_batch_pairs, self.num_ranks, self.chunk_pairs)

    @property
    def _batches(self) -> tuple[int, int]:
        """The plan's first batch in these steps, and the first after them."""
        return self.first_step * self.batches_per_step, self.last_step * self.batches_per_step

    def shares(self) -> list[tuple[str, str, float, float]]:
        """(of what, which, share intended, share in these steps), by kind, by source and by languages."""
        intended, realised = self.plan.intended_mix(*self._batches), self.plan.realised_mix(*self._batches)
        return [(of, which, share, realised[of][which]) for of, by in intended.items() for which, share in by.items()]

    def epochs(self) -> list[tuple[str, int, float]]:
        """(stream, its items, how many times these steps go through them), the most seen first."""
        pairs = self.plan.batches_of_streams(*self._batches) * self.plan.global_batch_pairs
        seen = [
            (stream.name, stream.num_items, own / stream.num_items)
            for stream, own in zip(self.plan.streams, pairs.tolist(), strict=True)
        ]
        return sorted(seen, key=lambda entry: (-entry[2], entry[0]))


def parse_steps(text: str | None, steps: int) -> tuple[int, int]:
    """The range that "A:B" names, B not included; all of a run's where there is none.

    >>> parse_steps("5:8", 40), parse_steps("5:", 40), parse_steps(None, 40)
    ((5, 8), (5, 40), (0, 40))

    Raises:
        ConfigError: it is no such range.
    """
    first, colon, last = (text or ":").partition(":")
    try:
        found = (int(first or 0), int(last or steps))
    except ValueError:
        found = (0, -1)
    if not colon or not 0 <= found[0] <= found[1]:
        raise ConfigError(f"{text!r} is no range of steps; write --steps FIRST:LAST, such as 0:100, LAST not included")
    return found


def write_trace(order: SamplerTrace, folder: Path) -> None:
    """Leaves `plan.parquet`, one row per pair, and `plan.png`, the shares that the steps amount to."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "plan.parquet.partial"
    with pq.ParquetWriter(partial, PAIRS) as writer:
        kept: list[pa.Table] = []
        for table in order.pairs():
            kept.append(table)
            if len(kept) == STEPS_PER_GROUP:
                writer.write_table(pa.concat_tables(kept))
                kept = []
        if kept:
            writer.write_table(pa.concat_tables(kept))
    partial.replace(folder / "plan.parquet")
    figure = order_figure(order)
    FigureCanvasAgg(figure)
    figure.savefig(folder / "plan.png", dpi=150)


def order_tables(order: SamplerTrace, most: int = 12) -> Iterator[Table]:
    """Shares, epochs and what ranks get, as a terminal shows them; of long ones the first `most` rows."""
    table = Table(title=f"steps {order.first_step} to {order.last_step}")
    for heading in ("of", "which"):
        table.add_column(heading)
    for heading in ("intended", "realised"):
        table.add_column(heading, justify="right")
    shares = order.shares()
    for of in ("kind", "source", "languages"):
        own = [entry for entry in shares if entry[0] == of]
        for entry in own[:most]:
            table.add_row(entry[0], entry[1], f"{entry[2]:.4f}", f"{entry[3]:.4f}")
        if len(own) > most:
            table.add_row(of, f"... {len(own) - most} more", "", "")
    yield table

    table = Table(title="how often their items are seen")
    table.add_column("drawn from")
    for heading in ("items", "epochs"):
        table.add_column(heading, justify="right")
    epochs = order.epochs()
    for name, items, times in epochs[:most]:
        table.add_row(name, f"{items:,}", f"{times:.3f}")
    if len(epochs) > most:
        table.add_row(f"... {len(epochs) - most} more", "", "")
    yield table

    table = Table(title=f"a batch of {order.plan.global_batch_pairs} pairs over {order.num_ranks} workers")
    table.add_column("workers", justify="right")
    table.add_column("pairs of each", justify="right")
    for pairs, workers in sorted(Counter(order.pairs_per_rank()).items(), reverse=True):
        table.add_row(f"{workers:,}", str(pairs))
    yield table


def order_figure(order: SamplerTrace) -> Figure:
    """Realised and intended shares by kind and source, and a heat map of realised shares by language pair."""
    shares = order.shares()
    bars = [entry for entry in shares if entry[0] != "languages"]
    languages = order.plan.languages
    grid = np.zeros((len(languages), len(languages)))
    for of, which, _, realised in shares:
        question, _, passage = which.partition("-")
        if of == "languages" and question in languages and passage in languages:
            grid[languages.index(question), languages.index(passage)] = realised
    figure = Figure(figsize=(7.5 + 0.35 * len(languages), 3.4 + 0.2 * len(languages)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.5])
    places = np.arange(len(bars))
    left.barh(places - 0.19, [entry[3] for entry in bars], height=0.36, color="#2f6f9f", label="in these steps")
    left.barh(places + 0.19, [entry[2] for entry in bars], height=0.36, color="#9fb3c1", label="intended")
    left.set_yticks(places, [entry[1] for entry in bars])
    left.invert_yaxis()
    left.set_xlabel("share of batches")
    left.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    image = right.imshow(grid, cmap="YlGnBu", vmin=0)
    right.set_xticks(range(len(languages)), languages)
    right.set_yticks(range(len(languages)), languages)
    right.set_xlabel("passage language")
    right.set_ylabel("question language")
    right.tick_params(length=0)
    right.spines[:].set_visible(False)
    figure.colorbar(image, ax=right, fraction=0.046, pad=0.03, label="share of batches")
    figure.suptitle(f"Batches of steps {order.first_step} to {order.last_step}", x=0.01, ha="left")
    return figure
