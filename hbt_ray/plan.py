"""Which pairs stand in which batch: a pure function of (manifest, mix, seed, step).

The order has two layers. A *stream* is what one kind of batch draws from: the items of a source that have
a language, or an ordered pair of languages, in an endless row of epochs, each a seeded permutation. A
*schedule* says which stream each step draws from; the k-th batch of a stream takes its k-th G items. So
two runs that differ only in alpha meet the same batches in each stream, only interleaved differently.

Legend: G pairs in a global batch, B pairs of it that are asked for: all, or those of one rank.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import permutations
from typing import Literal

import numpy as np

from hbt_ray.config import MixConfig
from hbt_ray.errors import ConfigError
from hbt_ray.permutation import key_of, permute, uniforms
from hbt_ray.store import Split, StoreManifest

Kind = Literal["monolingual", "cross-lingual", "mixed"]
WINDOW_ITEMS = 65536  # items are permuted inside windows of this many neighbours, so that reading stays local
SCHEDULE_BLOCK = 8192  # steps scheduled at once
ORDER_BLOCK = 1024  # pairs of a stream worked out at once: those of one small batch take nearly as long
ORDER_BLOCKS_KEPT = 4096  # of all streams, 8 KiB each


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """The pairs of one global batch, or of a part of it, before any of their text is read."""

    step: int
    kind: Kind
    source: str
    split: Split
    epoch: int  # of the stream, at the batch's first pair
    rows: np.ndarray  # (B,) item rows of the source, each once
    query_languages: np.ndarray  # (B,) str
    passage_languages: np.ndarray  # (B,) str
    hard_negatives: int  # per pair
    first_pair: int  # place of the first of the B pairs in the global batch
    global_pairs: int  # G


@dataclass(frozen=True)
class Stream:
    """Items of one source that serve one language, one ordered pair, or (None) languages drawn per row."""

    kind: Kind
    source: str
    languages: tuple[str, str] | None  # question's, passage's
    starts: np.ndarray  # (runs,) first item row of each run of eligible items
    ends: np.ndarray  # (runs,) eligible items up to and with this run
    run_languages: tuple[tuple[str, ...], ...]  # languages to draw from for the items of each run
    key: int

    @property
    def num_items(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def name(self) -> str:
        languages = "-".join(self.languages) if self.languages else "languages mixed"
        return f"{self.source} {self.kind} {languages}"

    def runs_of(self, items: np.ndarray) -> np.ndarray:
        """(N,) which run each eligible item stands in."""
        return np.searchsorted(self.ends, items, side="right")

    @cached_property
    def _shifts(self) -> np.ndarray:
        """(runs,) the row of each run's items less their number among the eligible ones."""
        return self.starts - np.concatenate([[0], self.ends])[:-1]

    def rows_of(self, items: np.ndarray) -> np.ndarray:
        """(N,) item rows of the source for eligible items counted from 0."""
        rows: np.ndarray = items + self._shifts[self.runs_of(items)]
        return rows


class HybridPlan:
    """The order of training.

    Args:
        manifest: what the store holds.
        mix: how batches are composed.
        seed: the order's seed.
        global_batch_pairs: G.
        languages: restricts the plan to these languages; None takes all.

    Raises:
        ConfigError: a language is not in the store, or no source can serve a kind of batch that is asked for.
    """

    def __init__(
        self,
        manifest: StoreManifest,
        mix: MixConfig,
        *,
        seed: int,
        global_batch_pairs: int,
        languages: tuple[str, ...] | None = None,
        split: Split = "train",
    ) -> None:
        unknown = sorted(set(languages or ()) - set(manifest.languages))
        if unknown:
            raise ConfigError(
                f"language {unknown[0]!r} is not in the corpora; there are {', '.join(manifest.languages)}"
            )
        self.manifest = manifest
        self.mix = mix
        self.seed = seed
        self.global_batch_pairs = global_batch_pairs
        self.languages = tuple(languages or manifest.languages)
        self.split: Split = split
        self.streams, self._shares_of_kind = self._streams_and_shares()
        self._order_keys = (key_of(seed, "kind"), key_of(seed, "stream"))
        self._schedule_blocks: list[tuple[np.ndarray, np.ndarray]] = []
        self._batches_scheduled = np.zeros(len(self.streams), np.int64)
        self._epoch_head = lru_cache(maxsize=4)(self._separated_head)
        self._order_block = lru_cache(maxsize=ORDER_BLOCKS_KEPT)(self._items_of_batches)
        self._choices = lru_cache(maxsize=None)(self._language_choices)

    # Which streams there are, and how often each is drawn

    def _streams_and_shares(self) -> tuple[list[Stream], np.ndarray]:
        """The streams, and (streams,) the probability that a batch of its kind draws from each."""
        streams: list[Stream] = []
        shares: list[float] = []
        too_small: list[Stream] = []
        for kind in kinds_of(self.mix):
            by_source = {}
            for source in self.manifest.sources:
                found = self._streams_of(kind, source)
                too_small += [s for s in found if 0 < s.num_items < self.global_batch_pairs]
                usable = [s for s in found if s.num_items >= self.global_batch_pairs]
                if usable:
                    by_source[source] = usable
            if not by_source:
                raise ConfigError(self._nothing_to_draw(kind, too_small))
            source_weights = [self.manifest.sources[s].items(self.split) ** self.mix.source_sampling for s in by_source]
            for (_, own), source_weight in zip(by_source.items(), source_weights, strict=True):
                weights = [stream.num_items**self.mix.language_sampling for stream in own]
                streams += own
                shares += [source_weight / sum(source_weights) * weight / sum(weights) for weight in weights]
        if too_small:
            smallest = min(too_small, key=lambda s: s.num_items)
            warnings.warn(
                f"{len(too_small)} of the language combinations have fewer items than a batch has pairs "
                f"({self.global_batch_pairs}) and are never drawn, such as {smallest.name} with {smallest.num_items}",
                stacklevel=3,
            )
        return streams, np.array(shares)

    def _nothing_to_draw(self, kind: Kind, too_small: list[Stream]) -> str:
        if too_small:
            largest = max(too_small, key=lambda s: s.num_items)
            return (
                f"no {kind} batch of {self.global_batch_pairs} pairs can be made: the largest choice, {largest.name}, "
                f"has {largest.num_items} items in the {self.split} split; write a smaller global_batch_pairs"
            )
        needs = "an item in two languages" if kind == "cross-lingual" else "any item"
        return (
            f"no {kind} batch can be made: no source has {needs} of {', '.join(self.languages)} with "
            f"{self.mix.hard_negatives} hard negatives; add a parallel corpus or write mix.strategy=x-x-mono"
        )

    def _streams_of(self, kind: Kind, source: str) -> list[Stream]:
        wanted = [x for x in self.languages if x in self.manifest.sources[source].languages]
        if kind == "monolingual":
            return [self._stream(kind, source, (x, x)) for x in wanted]
        if kind == "cross-lingual" and self.mix.cross_pairs == "one":
            return [self._stream(kind, source, pair) for pair in permutations(wanted, 2)]
        return [self._stream(kind, source, None)]

    def _stream(self, kind: Kind, source: str, languages: tuple[str, str] | None) -> Stream:
        """The runs of a source's items that can serve the languages, from the manifest's counts alone.

        Neighbours that serve alike are one run, so a parallel corpus has one however many shards it fills.
        """
        groups = self.manifest.sources[source].groups
        least_languages = 2 if kind == "cross-lingual" else 1
        own_languages = [tuple(x for x in group.languages if x in self.languages) for group in groups]
        serves = [
            group.negatives >= self.mix.hard_negatives
            and (set(languages) <= set(own) if languages else len(own) >= least_languages)
            for group, own in zip(groups, own_languages, strict=True)
        ]
        starts: list[int] = []
        counts: list[int] = []
        run_languages: list[tuple[str, ...]] = []
        row = 0
        for shard in self.manifest.sources[source].shards.get(self.split, ()):
            for group, count in shard.runs:
                drawn_from = own_languages[group] if languages is None else languages
                if serves[group] and starts and starts[-1] + counts[-1] == row and run_languages[-1] == drawn_from:
                    counts[-1] += count
                elif serves[group]:
                    starts.append(row)
                    counts.append(count)
                    run_languages.append(drawn_from)
                row += count
        return Stream(
            kind,
            source,
            languages,
            np.array(starts, np.int64),
            np.cumsum(counts, dtype=np.int64),
            tuple(run_languages),
            key_of(self.seed, self.split, kind, source, *(languages or ())),
        )

    # Which stream a step draws from

    @cached_property
    def _cumulated(self) -> dict[Kind, tuple[np.ndarray, np.ndarray]]:
        """For each kind its streams' numbers and their cumulated shares within the kind."""
        by_kind: dict[Kind, tuple[np.ndarray, np.ndarray]] = {}
        for kind in dict.fromkeys(stream.kind for stream in self.streams):
            numbers = np.array([n for n, stream in enumerate(self.streams) if stream.kind == kind])
            cumulated = np.cumsum(self._shares_of_kind[numbers])
            by_kind[kind] = (numbers, cumulated / cumulated[-1])
        return by_kind

    def stream_numbers(self, steps: np.ndarray) -> np.ndarray:
        """(N,) the number of the stream that each step draws from."""
        kind_key, stream_key = self._order_keys
        monolingual = uniforms(kind_key, steps) < alphas(self.mix, steps)
        places = uniforms(stream_key, steps)
        numbers = np.zeros(len(steps), np.int64)
        for kind, (of_kind, cumulated) in self._cumulated.items():
            mine = monolingual if kind == "monolingual" else ~monolingual
            choice = np.searchsorted(cumulated, places[mine], side="right")
            numbers[mine] = of_kind[np.minimum(choice, len(of_kind) - 1)]
        return numbers

    def _scheduled(self, step: int) -> tuple[int, int]:
        """The stream of a step, and how many earlier steps drew from the same one.

        Blocks of the schedule are laid once, each in the time of a few array operations.
        """
        while len(self._schedule_blocks) * SCHEDULE_BLOCK <= step:
            first = len(self._schedule_blocks) * SCHEDULE_BLOCK
            numbers = self.stream_numbers(np.arange(first, first + SCHEDULE_BLOCK))
            order = np.argsort(numbers, kind="stable")
            counts = np.bincount(numbers, minlength=len(self.streams))
            within = np.empty(SCHEDULE_BLOCK, np.int64)
            within[order] = np.arange(SCHEDULE_BLOCK) - np.repeat(np.cumsum(counts) - counts, counts)
            self._schedule_blocks.append((numbers, self._batches_scheduled[numbers] + within))
            self._batches_scheduled = self._batches_scheduled + counts
        numbers, ordinals = self._schedule_blocks[step // SCHEDULE_BLOCK]
        return int(numbers[step % SCHEDULE_BLOCK]), int(ordinals[step % SCHEDULE_BLOCK])

    # Which items a batch takes from its stream

    def batch(self, step: int, part: slice | None = None) -> BatchSpec:
        """The global batch of a step, for any step >= 0, in any order of calls.

        Args:
            part: the pairs that are asked for, such as a rank's by `rank_slice`; no others are worked out. None: all.
        """
        start, stop, _ = (part or slice(None)).indices(self.global_batch_pairs)
        number, ordinal = self._scheduled(step)
        stream = self.streams[number]
        items = self._items(number, ordinal, start, stop)
        if stream.languages is None:
            query_languages, passage_languages = self._drawn_languages(stream, ordinal, start, items)
        else:
            query_languages, passage_languages = (np.full(len(items), x) for x in stream.languages)
        return BatchSpec(
            step,
            stream.kind,
            stream.source,
            self.split,
            self._epoch_and_place(stream, ordinal)[0],
            stream.rows_of(items),
            query_languages,
            passage_languages,
            self.mix.hard_negatives,
            start,
            self.global_batch_pairs,
        )

    def _epoch_and_place(self, stream: Stream, ordinal: int) -> tuple[int, int]:
        """Where the stream's batch `ordinal` begins.

        Epochs follow each other without a gap, so a batch may take the last rows of one and the first of the
        next. The next epoch's head is then rearranged so that the batch holds no item twice. A stream shorter
        than two batches has no room for that: each of its epochs is one batch, and passes the rest over.
        """
        if stream.num_items < 2 * self.global_batch_pairs:
            return ordinal, 0
        return divmod(ordinal * self.global_batch_pairs, stream.num_items)

    def _items(self, number: int, ordinal: int, start: int, stop: int) -> np.ndarray:
        """(stop - start,) eligible items at these places of the stream's batch `ordinal`, no item twice.

        Those of some of the stream's following batches are worked out with them, of no more than an epoch.
        """
        epoch_batches = self.streams[number].num_items // self.global_batch_pairs
        together = max(1, min(ORDER_BLOCK // max(stop - start, 1), epoch_batches if epoch_batches > 1 else 1))
        block, place = divmod(ordinal, together)
        items: np.ndarray = self._order_block(number, block * together, together, start, stop)[place]
        return items

    def _items_of_batches(self, number: int, first: int, batches: int, start: int, stop: int) -> np.ndarray:
        """(batches, stop - start) items at these places of the stream's batches from `first` on."""
        stream, size = self.streams[number], self.streams[number].num_items
        begins = [self._epoch_and_place(stream, ordinal) for ordinal in range(first, first + batches)]
        # Places counted over all epochs.
        places = np.array([epoch * size + place for epoch, place in begins])[:, None] + np.arange(start, stop)
        epochs = places // size
        items = np.empty(places.shape, np.int64)
        for epoch in range(int(epochs.min(initial=0)), int(epochs.max(initial=-1)) + 1):
            mine = epochs == epoch
            items[mine] = self._epoch_items(number, epoch, places[mine] - epoch * size)
        return items

    def _epoch_items(self, number: int, epoch: int, places: np.ndarray) -> np.ndarray:
        """(N,) the items at these places of an epoch's order."""
        stream, pairs = self.streams[number], self.global_batch_pairs
        items = _shuffled(stream, epoch, places)
        if stream.num_items >= 2 * pairs and (epoch * stream.num_items) % pairs:
            in_head = places < pairs
            if in_head.any():
                items[in_head] = self._epoch_head(number, epoch)[places[in_head]]
        return items

    def _separated_head(self, number: int, epoch: int) -> np.ndarray:
        """(G,) the first items of an epoch, those that the batch before still holds moved to their end."""
        stream, pairs = self.streams[number], self.global_batch_pairs
        held = (epoch * stream.num_items) % pairs
        tail = _shuffled(stream, epoch - 1, np.arange(stream.num_items - held, stream.num_items))
        head = _shuffled(stream, epoch, np.arange(pairs))
        repeated = np.isin(head, tail)
        return np.concatenate([head[~repeated], head[repeated]])

    def _drawn_languages(
        self, stream: Stream, ordinal: int, start: int, items: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(B,) each: every pair's own languages, among those that its item has."""
        places = ordinal * self.global_batch_pairs + start + np.arange(len(items))
        draws = uniforms(key_of(stream.key, "languages"), places)
        runs = stream.runs_of(items)
        drawn = np.empty((len(items), 2), object)
        for run in np.unique(runs):
            mine = runs == run
            choices, cumulated = self._choices(stream.kind, stream.source, stream.run_languages[run])
            places_drawn = np.searchsorted(cumulated, draws[mine], side="right")
            drawn[mine] = choices[np.minimum(places_drawn, len(choices) - 1)]
        return drawn[:, 0].astype(str), drawn[:, 1].astype(str)

    def _language_choices(self, kind: Kind, source: str, languages: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """What a row may draw, (choices, 2) str, and the cumulated probabilities."""
        choices = list(permutations(languages, 2)) if kind == "cross-lingual" else [(x, x) for x in languages]
        counts = self._items_per_language[source]
        weights = np.array([(counts[x] * counts[y]) ** (self.mix.language_sampling / 2) for x, y in choices])
        return np.array(choices, object), np.cumsum(weights / weights.sum())

    @cached_property
    def _items_per_language(self) -> dict[str, Counter[str]]:
        counts: dict[str, Counter[str]] = {}
        for name, source in self.manifest.sources.items():
            counts[name] = Counter()
            for shard in source.shards.get(self.split, ()):
                for group, items in shard.runs:
                    for language in source.groups[group].languages:
                        counts[name][language] += items
        return counts

    # What an order amounts to

    def batches_of_streams(self, first_step: int, last_step: int) -> np.ndarray:
        """How many of the batches of steps [first_step, last_step) each stream gives, (streams,) int64."""
        return np.bincount(self.stream_numbers(np.arange(first_step, last_step)), minlength=len(self.streams))

    def intended_mix(self, first_step: int, last_step: int) -> dict[str, dict[str, float]]:
        """Probabilities of a batch's kind, source and languages, a mean over steps [first_step, last_step)."""
        monolingual = float(alphas(self.mix, np.arange(first_step, max(last_step, first_step + 1))).mean())
        shares = {"monolingual": monolingual, "cross-lingual": 1 - monolingual, "mixed": 1.0}
        return self._mix(self._shares_of_kind * np.array([shares[stream.kind] for stream in self.streams]))

    def realised_mix(self, first_step: int, last_step: int) -> dict[str, dict[str, float]]:
        """Shares of the batches of steps [first_step, last_step) by kind, source and languages."""
        return self._mix(self.batches_of_streams(first_step, last_step) / max(last_step - first_step, 1))

    def _mix(self, shares: np.ndarray) -> dict[str, dict[str, float]]:
        """Shares of the streams, (streams,), added up by what the streams have in common."""
        mix: dict[str, dict[str, float]] = {"kind": {}, "source": {}, "languages": {}}
        for stream, share in zip(self.streams, shares.tolist(), strict=True):
            languages = "-".join(stream.languages) if stream.languages else "mixed"
            for of, value in (("kind", stream.kind), ("source", stream.source), ("languages", languages)):
                mix[of][value] = mix[of].get(value, 0.0) + share
        return mix


def alphas(mix: MixConfig, steps: np.ndarray) -> np.ndarray:
    """The probability of a monolingual batch at each step: (N,) -> (N,).

    >>> falling = MixConfig.model_validate({"alpha_schedule": {"points": [[0, 0.9], [100, 0.1]]}})
    >>> alphas(falling, np.array([0, 50, 100, 1000])).tolist()
    [0.9, 0.5, 0.1, 0.1]
    """
    if mix.strategy != "hybrid":
        return np.full(len(steps), 1.0 if mix.strategy == "x-x-mono" else 0.0)
    if mix.alpha_schedule is None:
        return np.full(len(steps), mix.alpha)
    points = mix.alpha_schedule.points
    at, values = np.array([batch for batch, _ in points]), np.array([alpha for _, alpha in points])
    before = np.clip(np.searchsorted(at, steps, side="right") - 1, 0, len(at) - 1)
    behind = np.minimum(before + 1, len(at) - 1)
    way = np.clip((steps - at[before]) / np.maximum(at[behind] - at[before], 1), 0, 1)
    if mix.alpha_schedule.between == "hold":
        way = np.zeros(len(steps))
    elif mix.alpha_schedule.between == "cosine":
        way = (1 - np.cos(np.pi * way)) / 2
    found: np.ndarray = values[before] + way * (values[behind] - values[before])
    return found


def kinds_of(mix: MixConfig) -> tuple[Kind, ...]:
    """The kinds of batches that a mix has at any time."""
    if mix.strategy == "x-x":
        return ("mixed",)
    steps = [batch for batch, _ in mix.alpha_schedule.points] if mix.alpha_schedule else [0]
    shares = alphas(mix, np.array(steps))
    monolingual: tuple[Kind, ...] = ("monolingual",) if shares.max() > 0 else ()
    cross_lingual: tuple[Kind, ...] = ("cross-lingual",) if shares.min() < 1 else ()
    return monolingual + cross_lingual


def rank_slice(global_batch_pairs: int, num_ranks: int, rank: int, chunk_pairs: int = 1) -> slice:
    """The pairs of a global batch that a rank trains on. Slices are disjoint, in order, and join to the batch.

    Each is of whole chunks, and where the ranks do not divide the chunks, the first ranks take one more. Where
    there are fewer chunks than ranks, pairs are dealt out in the same way instead.

    >>> [rank_slice(10, 4, rank) for rank in range(4)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None), slice(8, 10, None)]
    >>> [rank_slice(16, 3, rank, chunk_pairs=4) for rank in range(3)]
    [slice(0, 8, None), slice(8, 12, None), slice(12, 16, None)]
    """
    chunks = -(-global_batch_pairs // chunk_pairs)
    if chunks < num_ranks:
        chunks, chunk_pairs = global_batch_pairs, 1
    each, more = divmod(chunks, num_ranks)
    start = rank * each + min(rank, more)
    end = start + each + (rank < more)
    return slice(min(start * chunk_pairs, global_batch_pairs), min(end * chunk_pairs, global_batch_pairs))


def rank_pairs(global_batch_pairs: int, num_ranks: int, chunk_pairs: int = 1) -> list[int]:
    """How many pairs each rank has."""
    slices = (rank_slice(global_batch_pairs, num_ranks, rank, chunk_pairs) for rank in range(num_ranks))
    return [own.stop - own.start for own in slices]


def _shuffled(stream: Stream, epoch: int, places: np.ndarray) -> np.ndarray:
    """Items at some places of an epoch's permutation, before heads are separated.

    The stream is turned by a random amount and cut in windows of neighbours; windows come in random order
    (the short one, if any, at a random place among them), and items in random order inside their window.
    """
    size = stream.num_items
    key = key_of(stream.key, epoch)
    num_full, short = divmod(size, WINDOW_ITEMS)
    short_start = int(key_of(key, "short") % (num_full + 1)) * WINDOW_ITEMS
    in_short = (places >= short_start) & (places < short_start + short)
    after_short = places >= short_start + short
    full_places = places - np.where(after_short, short, 0)
    items = np.empty(len(places), np.int64)
    windows = np.full(len(places), num_full)
    if num_full:
        turns, which = np.unique(full_places[~in_short] // WINDOW_ITEMS, return_inverse=True)
        windows[~in_short] = permute(turns, num_full, key_of(key, "windows"))[which]
    within = np.where(in_short, places - short_start, full_places % WINDOW_ITEMS)
    for window in np.unique(windows):
        mine = windows == window
        window_size = short if window == num_full else WINDOW_ITEMS
        items[mine] = window * WINDOW_ITEMS + permute(within[mine], window_size, key_of(key, "window", window))
    return (items + key_of(key, "turn") % size) % size
