"""What batches draw from: items of a source that serve a language, an ordered pair, or languages drawn per row."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import numpy as np

from hbt_ray.config import MixConfig
from hbt_ray.data.token_store import Split, StoreManifest
from hbt_ray.errors import ConfigError
from hbt_ray.sampling.batch_kinds import BatchKind, kinds_of
from hbt_ray.utils.counter_rng import stable_hash64


@dataclass(frozen=True, slots=True)
class SamplerInputs:
    """What a plan is a function of."""

    manifest: StoreManifest
    mix: MixConfig
    seed: int
    global_batch_pairs: int  # G
    languages: tuple[str, ...]
    split: Split
    second_questions: bool = False  # each question is asked in a second language as well


@dataclass(frozen=True)
class Stream:
    """Items of one source that serve one language, one ordered pair, or (None) languages drawn per row."""

    kind: BatchKind
    source: str
    languages: tuple[str, str] | None  # question's, passage's
    starts: np.ndarray  # (runs,) first item row of each run of eligible items
    ends: np.ndarray  # (runs,) eligible items up to and with this run
    run_languages: tuple[tuple[str, ...], ...]  # what may be drawn for the items of each run
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


def build_streams(terms: SamplerInputs) -> tuple[list[Stream], np.ndarray]:
    """The streams, and (streams,) the probability that a batch of its kind draws from each.

    Raises:
        ConfigError: no source can serve a kind of batch that is asked for, or no question has a second language.
    """
    mix, sources = terms.mix, terms.manifest.sources
    streams: list[Stream] = []
    shares: list[float] = []
    too_small: list[Stream] = []
    for kind in kinds_of(mix):
        by_source = {}
        for source in sources:
            found = _streams_of(terms, kind, source)
            too_small += [s for s in found if 0 < s.num_items < terms.global_batch_pairs]
            usable = [s for s in found if s.num_items >= terms.global_batch_pairs]
            if usable:
                by_source[source] = usable
        if not by_source:
            raise ConfigError(_nothing_to_draw(terms, kind, too_small))
        source_weights = [sources[s].items(terms.split) ** mix.source_sampling for s in by_source]
        for (_, own), source_weight in zip(by_source.items(), source_weights, strict=True):
            weights = [stream.num_items**mix.language_sampling for stream in own]
            streams += own
            shares += [source_weight / sum(source_weights) * weight / sum(weights) for weight in weights]
    if too_small:
        smallest = min(too_small, key=lambda s: s.num_items)
        warnings.warn(
            f"{len(too_small)} of the language combinations have fewer items than a batch has pairs "
            f"({terms.global_batch_pairs}) and are never drawn, such as {smallest.name} with {smallest.num_items}",
            stacklevel=3,
        )
    if terms.second_questions and not any(len(own) > 1 for s in streams for own in set(s.run_languages)):
        raise ConfigError(
            f"no question has a second language among {', '.join(terms.languages)} to be consistent with; "
            "add a parallel corpus or write loss.consistency=0"
        )
    return streams, np.array(shares)


def _nothing_to_draw(terms: SamplerInputs, kind: BatchKind, too_small: list[Stream]) -> str:
    if too_small:
        largest = max(too_small, key=lambda s: s.num_items)
        return (
            f"no {kind} batch of {terms.global_batch_pairs} pairs can be made: the largest choice, {largest.name}, "
            f"has {largest.num_items} items in the {terms.split} split; write a smaller global_batch_pairs"
        )
    least = _least_languages(terms.mix, kind)
    needs = "any item" if least == 1 else f"an item in {'two' if least == 2 else least} languages"
    remedy = "mix.strategy=x-x-mono" if least <= 2 else "a smaller mix.positive_languages"
    return (
        f"no {kind} batch can be made: no source has {needs} of {', '.join(terms.languages)} with "
        f"{terms.mix.hard_negatives} hard negatives; add a parallel corpus or write {remedy}"
    )


def _streams_of(terms: SamplerInputs, kind: BatchKind, source: str) -> list[Stream]:
    wanted = [x for x in terms.languages if x in terms.manifest.sources[source].languages]
    if kind == "monolingual":
        return [_stream(terms, kind, source, (x, x)) for x in wanted]
    if kind == "cross-lingual" and terms.mix.cross_pairs == "one":
        return [_stream(terms, kind, source, pair) for pair in permutations(wanted, 2)]
    return [_stream(terms, kind, source, None)]


def _least_languages(mix: MixConfig, kind: BatchKind) -> int:
    """How many languages an item must have to serve a kind of batch."""
    if kind == "one-to-k":
        return mix.positive_languages
    return 2 if kind == "cross-lingual" else 1


def _stream(terms: SamplerInputs, kind: BatchKind, source: str, languages: tuple[str, str] | None) -> Stream:
    """The runs of a source's items that can serve the languages, from the manifest's counts alone.

    Neighbours that serve alike are one run, so a parallel corpus has one however many shards it fills.
    """
    groups = terms.manifest.sources[source].groups
    least = _least_languages(terms.mix, kind)
    own_languages = [tuple(x for x in group.languages if x in terms.languages) for group in groups]
    serves = [
        group.negatives >= terms.mix.hard_negatives and (set(languages) <= set(own) if languages else len(own) >= least)
        for group, own in zip(groups, own_languages, strict=True)
    ]
    starts: list[int] = []
    counts: list[int] = []
    run_languages: list[tuple[str, ...]] = []
    row = 0
    for shard in terms.manifest.sources[source].shards.get(terms.split, ()):
        for group, count in shard.runs:
            drawn_from = own_languages[group] if languages is None or terms.second_questions else languages
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
        stable_hash64(terms.seed, terms.split, kind, source, *(languages or ())),
    )
