"""Streams: the items of a source that have a language, an ordered language pair, or enough languages to draw from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import numpy as np

from hbt_ray.config import MixConfig
from hbt_ray.data.manifest import Split, StoreManifest
from hbt_ray.errors import ConfigError
from hbt_ray.sampling.batch_kinds import BatchKind, batch_kinds
from hbt_ray.utils.counter_rng import stable_hash64


@dataclass(frozen=True, slots=True)
class SamplerInputs:
    """Everything that the batches are a function of, besides the step."""

    manifest: StoreManifest
    mix: MixConfig
    seed: int
    global_batch_pairs: int  # G
    languages: tuple[str, ...]
    split: Split
    with_query_translations: bool = False  # also draw a second language for each query


@dataclass(frozen=True)
class Stream:
    """The eligible items of one source for one language, one ordered pair of languages, or languages drawn per pair.

    Eligible items are numbered from 0 in the order of the source's rows. They are stored as ranges of consecutive rows,
    so memory does not grow with the number of items.
    """

    kind: BatchKind
    source: str
    languages: tuple[str, str] | None  # of query and passage; None: drawn for each pair
    range_starts: np.ndarray  # (ranges,) first row of each range
    range_ends: np.ndarray  # (ranges,) eligible items up to the end of each range
    range_languages: tuple[tuple[str, ...], ...]  # languages that may be drawn for the items of each range
    key: int  # of the stream's permutations and language draws

    @property
    def num_items(self) -> int:
        """Number of eligible items."""
        return int(self.range_ends[-1]) if len(self.range_ends) else 0

    @property
    def name(self) -> str:
        """Name for messages and tables: source, batch kind and languages."""
        languages = "-".join(self.languages) if self.languages else "languages mixed"
        return f"{self.source} {self.kind} {languages}"

    def ranges_of(self, items: np.ndarray) -> np.ndarray:
        """Return the range of each eligible item, (N,) -> (N,)."""
        return np.searchsorted(self.range_ends, items, side="right")

    @cached_property
    def _row_offsets(self) -> np.ndarray:
        """Row minus item number of the items of each range, (ranges,)."""
        return self.range_starts - np.concatenate([[0], self.range_ends])[:-1]

    def rows_of(self, items: np.ndarray) -> np.ndarray:
        """Return the source's rows of eligible items, (N,) -> (N,)."""
        rows: np.ndarray = items + self._row_offsets[self.ranges_of(items)]
        return rows


def build_streams(inputs: SamplerInputs) -> tuple[list[Stream], np.ndarray]:
    """Find the streams of a mix, and the probability of each.

    For each batch kind of the mix:

    1. Find the streams of every source. Leave out those with fewer items than a batch has pairs, with a warning.
    2. For each phase of the mix, give each source a weight: its `source_weights`, or number of items **
       `source_sampling`.
    3. Divide it among the source's streams in proportion to the geometric mean of their `language_weights`, or to their
       number of items ** `language_sampling`.

    Returns:
        The streams, and (phases, streams) the probability of each, given its batch kind.

    Raises:
        ConfigError: no source has the items for a batch kind of the mix, or translations of queries are configured and
            no item has two languages, or weights are not those of all languages or sources.
    """
    mix, sources = inputs.mix, inputs.manifest.sources
    mixes = [constant for _, constant in mix.constant_mixes]
    for constant in mixes:
        _check_names("language_weights", constant.language_weights, inputs.languages)
        _check_names("source_weights", constant.source_weights, sources)
    streams: list[Stream] = []
    probabilities: list[list[float]] = [[] for _ in mixes]
    too_small: list[Stream] = []
    for batch_kind in batch_kinds(mix):
        # 1. Streams
        by_source = {}
        for source in sources:
            found = _streams_of_source(inputs, batch_kind, source)
            too_small += [stream for stream in found if 0 < stream.num_items < inputs.global_batch_pairs]
            large_enough = [stream for stream in found if stream.num_items >= inputs.global_batch_pairs]
            if large_enough:
                by_source[source] = large_enough
        if not by_source:
            raise ConfigError(_no_stream_message(inputs, batch_kind, too_small))
        streams += [stream for source_streams in by_source.values() for stream in source_streams]
        for constant, of_phase in zip(mixes, probabilities, strict=True):
            # 2. Weights of sources
            source_weights = [
                constant.source_weights.get(source, sources[source].items(inputs.split) ** constant.source_sampling)
                for source in by_source
            ]
            # 3. Probabilities of streams
            for source_streams, source_weight in zip(by_source.values(), source_weights, strict=True):
                weights = [_language_weight(stream, constant) for stream in source_streams]
                of_phase += [source_weight / sum(source_weights) * weight / sum(weights) for weight in weights]
    if too_small:
        smallest = min(too_small, key=lambda stream: stream.num_items)
        warnings.warn(
            f"{len(too_small)} of the language combinations have fewer items than a batch has pairs "
            f"({inputs.global_batch_pairs}) and are never drawn, such as {smallest.name} with {smallest.num_items}",
            stacklevel=3,
        )
    multilingual = any(len(languages) > 1 for stream in streams for languages in set(stream.range_languages))
    if inputs.with_query_translations and not multilingual:
        raise ConfigError(
            f"no question has a second language among {', '.join(inputs.languages)} to be consistent with; "
            "add a parallel corpus or write loss.consistency=0"
        )
    return streams, np.array(probabilities)


def _check_names(key: str, weights: Mapping[str, float], names: Collection[str]) -> None:
    """Raise ConfigError if weights are given, and not of exactly these names."""
    if weights and set(weights) != set(names):
        raise ConfigError(f"mix.{key} is of {', '.join(weights)}; write a weight for each of {', '.join(names)}")


def _language_weight(stream: Stream, mix: MixConfig) -> float:
    """Return the weight of a stream within its source. Where languages are drawn for each pair there is one stream."""
    if mix.language_weights and stream.languages is not None:
        question, passage = (mix.language_weights[language] for language in stream.languages)
        return math.sqrt(question * passage)
    return float(stream.num_items**mix.language_sampling)


def _no_stream_message(inputs: SamplerInputs, batch_kind: BatchKind, too_small: list[Stream]) -> str:
    if too_small:
        largest = max(too_small, key=lambda stream: stream.num_items)
        # A batch has two pairs at least: with one item no smaller batch helps.
        remedy = (
            "write a smaller global_batch_pairs" if largest.num_items > 1 else "add items: a batch takes two or more"
        )
        return (
            f"no {batch_kind} batch of {inputs.global_batch_pairs} pairs can be made: the largest choice, "
            f"{largest.name}, has {largest.num_items} item{'s' if largest.num_items > 1 else ''} in the "
            f"{inputs.split} split; {remedy}"
        )
    min_languages = _min_languages(inputs.mix, batch_kind)
    needs = {1: "any item", 2: "an item in two languages"}.get(min_languages, f"an item in {min_languages} languages")
    remedy = "mix.strategy=x-x-mono" if min_languages <= 2 else "a smaller mix.positive_languages"
    return (
        f"no {batch_kind} batch can be made: no source has {needs} of {', '.join(inputs.languages)} with "
        f"{inputs.mix.hard_negatives} hard negatives; add a parallel corpus or write {remedy}"
    )


def _streams_of_source(inputs: SamplerInputs, batch_kind: BatchKind, source: str) -> list[Stream]:
    languages = [x for x in inputs.languages if x in inputs.manifest.sources[source].languages]
    if batch_kind == "monolingual":
        return [_stream(inputs, batch_kind, source, (x, x)) for x in languages]
    if batch_kind == "cross-lingual" and inputs.mix.cross_pairs == "one":
        return [_stream(inputs, batch_kind, source, pair) for pair in permutations(languages, 2)]
    return [_stream(inputs, batch_kind, source, None)]


def _min_languages(mix: MixConfig, batch_kind: BatchKind) -> int:
    """Return the number of languages that an item must have to be in a batch of this kind."""
    if batch_kind == "one-to-k":
        return mix.positive_languages
    return 2 if batch_kind == "cross-lingual" else 1


def _stream(inputs: SamplerInputs, batch_kind: BatchKind, source: str, languages: tuple[str, str] | None) -> Stream:
    """Find the ranges of a source's eligible items from the manifest's counts, without reading a shard.

    1. An item's group says which languages it has and how many hard negatives. Decide for each group if its items are
       eligible, and which languages may be drawn for them.
    2. Go through the groups of every shard in row order, and merge adjacent ranges with the same languages. A parallel
       corpus is therefore one range, however many shards it has.
    """
    groups = inputs.manifest.sources[source].groups
    min_languages = _min_languages(inputs.mix, batch_kind)
    # 1. Groups
    group_languages = [tuple(x for x in group.languages if x in inputs.languages) for group in groups]
    eligible = [
        group.negatives >= inputs.mix.hard_negatives
        and (set(languages) <= set(available) if languages else len(available) >= min_languages)
        for group, available in zip(groups, group_languages, strict=True)
    ]
    # 2. Ranges of rows
    starts: list[int] = []
    counts: list[int] = []
    range_languages: list[tuple[str, ...]] = []
    row = 0
    for shard in inputs.manifest.sources[source].shards.get(inputs.split, ()):
        for group, count in shard.runs:
            drawn_from = group_languages[group] if languages is None or inputs.with_query_translations else languages
            if eligible[group] and starts and starts[-1] + counts[-1] == row and range_languages[-1] == drawn_from:
                counts[-1] += count
            elif eligible[group]:
                starts.append(row)
                counts.append(count)
                range_languages.append(drawn_from)
            row += count
    return Stream(
        kind=batch_kind,
        source=source,
        languages=languages,
        range_starts=np.array(starts, np.int64),
        range_ends=np.cumsum(counts, dtype=np.int64),
        range_languages=tuple(range_languages),
        key=stable_hash64(inputs.seed, inputs.split, batch_kind, source, *(languages or ())),
    )
