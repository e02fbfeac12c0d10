"""The languages of each pair that its stream does not fix, drawn among those that the item has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from itertools import permutations

import numpy as np

from hbt_ray.sampling.batch_kinds import BatchKind
from hbt_ray.sampling.streams import SamplerInputs, Stream
from hbt_ray.utils.caching import lru_cached_method
from hbt_ray.utils.counter_rng import Salt, random_uniforms, stable_hash64


class LanguageSampler:
    """Draw the languages of the pairs of a batch.

    Each draw is a function of the stream's key and the pair's index in its stream, so it does not depend on how the
    batch is divided among ranks.

    Legend: B items, L languages of the source, K positives of each item.
    """

    def __init__(self, inputs: SamplerInputs) -> None:
        self._inputs = inputs

    def language_pairs(
        self, stream: Stream, ordinal: int, start: int, items: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw the languages of query and passage, (B,) str each: equal, or different in a cross-lingual stream.

        Args:
            stream: whose languages are not fixed.
            ordinal: number of the batch in the stream.
            start: position of the first item in the batch.
            items: (B,) eligible items of the stream.
        """
        draws = random_uniforms(
            stable_hash64(stream.key, Salt.LANGUAGES), self._pair_indices(ordinal, start, len(items))
        )
        ranges = stream.ranges_of(items)
        drawn = np.empty((len(items), 2), object)
        for range_ in np.unique(ranges):
            in_range = ranges == range_
            choices, cumulative = self._choices(stream.kind, stream.source, stream.range_languages[range_])
            chosen = np.searchsorted(cumulative, draws[in_range], side="right")
            drawn[in_range] = choices[np.minimum(chosen, len(choices) - 1)]  # the last sum may round below 1
        return drawn[:, 0].astype(str), drawn[:, 1].astype(str)

    def positive_languages(self, stream: Stream, ordinal: int, start: int, items: np.ndarray) -> np.ndarray:
        """Draw K different languages for the passages of each item, (B, K) str.

        They do not depend on the query's language. Otherwise the language of a passage would show whether it is
        relevant.
        """
        indices = self._pair_indices(ordinal, start, len(items))
        drawn = self._ordered_languages(stream, Salt.POSITIVE_LANGUAGES, indices, items)
        return drawn[:, : self._inputs.mix.positive_languages]

    def translation_languages(
        self, stream: Stream, ordinal: int, start: int, items: np.ndarray, query_languages: np.ndarray
    ) -> np.ndarray:
        """Draw a second language for each query, (B,) str; "" if its item has no other language.

        If the batch has one query language, all its items use one random order of the languages and take the first
        that they have: one second language, except for items that lack it.
        """
        indices = (
            self._pair_indices(ordinal, start, len(items)) if stream.languages is None else np.full(len(items), ordinal)
        )
        drawn = self._ordered_languages(stream, Salt.QUERY_TRANSLATION, indices, items)
        is_other = drawn != query_languages[:, None]
        first = np.take_along_axis(drawn, is_other.argmax(axis=1)[:, None], axis=1)[:, 0]
        return np.where(is_other.any(axis=1), first, "")

    def _pair_indices(self, ordinal: int, start: int, count: int) -> np.ndarray:
        """Return the indices of pairs in the endless sequence of the stream's pairs, (count,)."""
        return ordinal * self._inputs.global_batch_pairs + start + np.arange(count)

    def _ordered_languages(self, stream: Stream, salt: Salt, indices: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the languages of each item in random order, (B, L) str; "" after an item's last.

        The order is a weighted draw without replacement: each next language has a probability in proportion to its
        weight; see `_weights`. Algorithm of Efraimidis and Spirakis 2006, "Weighted random
        sampling with a reservoir":

        1. Draw an exponential time for each language, with its weight as rate, from (stream, salt, language, index).
        2. Set the time of languages that the item lacks to infinity.
        3. Sort the languages by time.
        """
        languages = np.array(
            [x for x in self._inputs.languages if x in self._inputs.manifest.sources[stream.source].languages]
        )
        values, exponent = self._weights(stream.source)
        weights = np.array([values[x] ** exponent for x in languages.tolist()])
        # 1. Times, (B, L)
        draws = np.stack(
            [random_uniforms(stable_hash64(stream.key, salt, x), indices) for x in languages.tolist()], axis=1
        )
        times = -np.log1p(-draws) / weights
        # 2. Languages that the item lacks
        ranges, range_of = np.unique(stream.ranges_of(items), return_inverse=True)
        lacks = np.array([np.isin(languages, stream.range_languages[range_], invert=True) for range_ in ranges], bool)
        times[lacks.reshape(len(ranges), len(languages))[range_of]] = np.inf
        # 3. Order
        order = np.argsort(times, axis=1, kind="stable")
        drawn = languages[order]
        drawn[np.isinf(np.take_along_axis(times, order, axis=1))] = ""
        return drawn

    @lru_cached_method(maxsize=None)
    def _choices(self, batch_kind: BatchKind, source: str, languages: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return the language pairs that a pair may have, (choices, 2) str, and their cumulative probabilities.

        The weight of a pair is the geometric mean of its languages' weights.
        """
        choices = list(permutations(languages, 2)) if batch_kind == "cross-lingual" else [(x, x) for x in languages]
        values, exponent = self._weights(source)
        weights = np.array([(values[x] * values[y]) ** (exponent / 2) for x, y in choices])
        return np.array(choices, object), np.cumsum(weights / weights.sum())

    def _weights(self, source: str) -> tuple[Mapping[str, float], float]:
        """Return values by language, and the exponent that makes them weights.

        The values are `language_weights`, or numbers of items, at least 1, with the exponent `language_sampling`.
        """
        mix = self._inputs.mix
        if mix.language_weights:
            return mix.language_weights, 1.0
        return self._items_per_language[source], mix.language_sampling

    @cached_property
    def _items_per_language(self) -> dict[str, Counter[str]]:
        """Source -> language -> items, at least 1."""
        counts: dict[str, Counter[str]] = {}
        for name, source in self._inputs.manifest.sources.items():
            counts[name] = Counter()
            for shard in source.shards.get(self._inputs.split, ()):
                for group, items in shard.runs:
                    for language in source.groups[group].languages:
                        counts[name][language] += items
            counts[name] |= Counter(source.languages)
        return counts
