"""The languages of each pair that its stream does not fix: drawn among those that the item has."""

from __future__ import annotations

from collections import Counter
from functools import cached_property, lru_cache
from itertools import permutations

import numpy as np

from hbt_ray.sampling.batch_kinds import BatchKind
from hbt_ray.sampling.streams import SamplerInputs, Stream
from hbt_ray.utils.counter_rng import Salt, random_uniforms, stable_hash64


class LanguageSampler:
    """Languages drawn for the pairs of a batch, among those that each item has.

    Legend: B items, K positives of each.
    """

    def __init__(self, terms: SamplerInputs) -> None:
        self._terms = terms
        self._choices = lru_cache(maxsize=None)(self._language_choices)

    def pairs(self, stream: Stream, ordinal: int, start: int, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Question's and passage's language of each, (B,) str both.

        Args:
            start: the place of the first of the items in the stream's batch `ordinal`.
            items: (B,) eligible items of the stream.
        """
        places = self._places(ordinal, start, items)
        draws = random_uniforms(stable_hash64(stream.key, Salt.LANGUAGES), places)
        runs = stream.runs_of(items)
        drawn = np.empty((len(items), 2), object)
        for run in np.unique(runs):
            mine = runs == run
            choices, cumulated = self._choices(stream.kind, stream.source, stream.run_languages[run])
            places_drawn = np.searchsorted(cumulated, draws[mine], side="right")
            drawn[mine] = choices[np.minimum(places_drawn, len(choices) - 1)]
        return drawn[:, 0].astype(str), drawn[:, 1].astype(str)

    def positives(self, stream: Stream, ordinal: int, start: int, items: np.ndarray) -> np.ndarray:
        """The languages of each item's passages where it has several, (B, K) str, those of a row all different.

        They do not depend on the question's language, so a passage's language never tells whether it answers.
        """
        places = self._places(ordinal, start, items)
        drawn = self._in_drawn_order(stream, Salt.POSITIVE_LANGUAGES, places, items)
        return drawn[:, : self._terms.mix.positive_languages]

    def seconds(
        self, stream: Stream, ordinal: int, start: int, items: np.ndarray, query_languages: np.ndarray
    ) -> np.ndarray:
        """The second language of each question, (B,) str, "" where its item has no other.

        Where the batch has one question language, all its items take the first that they have in one drawn order:
        one second language, but for items that lack it.
        """
        of_batch = np.full(len(items), ordinal)
        places = self._places(ordinal, start, items) if stream.languages is None else of_batch
        drawn = self._in_drawn_order(stream, Salt.QUERY_TRANSLATION, places, items)
        others = drawn != query_languages[:, None]
        first = np.take_along_axis(drawn, others.argmax(axis=1)[:, None], axis=1)[:, 0]
        return np.where(others.any(axis=1), first, "")

    def _places(self, ordinal: int, start: int, items: np.ndarray) -> np.ndarray:
        """(B,) places in the stream's endless row of pairs."""
        return ordinal * self._terms.global_batch_pairs + start + np.arange(len(items))

    def _in_drawn_order(self, stream: Stream, salt: Salt, places: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The languages of each item in random order, drawn one after the other without putting back: (B, all) str.

        The chance to be drawn next is as the languages' weights. So is that to come in first after times that are
        exponential at the weights as rates (Efraimidis and Spirakis 2006, "Weighted random sampling with a
        reservoir"), and a time is a function of place and language alone.

        Returns:
            languages (B, all the source has), "" behind an item's last.
        """
        languages = np.array(
            [x for x in self._terms.languages if x in self._terms.manifest.sources[stream.source].languages]
        )
        counts = self._items_per_language[stream.source]
        weights = np.array([max(counts[x], 1) ** self._terms.mix.language_sampling for x in languages.tolist()])
        draws = np.stack(
            [random_uniforms(stable_hash64(stream.key, salt, x), places) for x in languages.tolist()], axis=1
        )
        times = -np.log1p(-draws) / weights
        runs, run_of = np.unique(stream.runs_of(items), return_inverse=True)
        lacks = np.array([np.isin(languages, stream.run_languages[run], invert=True) for run in runs], bool)
        times[lacks.reshape(len(runs), len(languages))[run_of]] = np.inf
        order = np.argsort(times, axis=1, kind="stable")
        drawn = languages[order]
        drawn[np.isinf(np.take_along_axis(times, order, axis=1))] = ""
        return drawn

    def _language_choices(
        self, kind: BatchKind, source: str, languages: tuple[str, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """What a row may draw, (choices, 2) str, and the cumulated probabilities."""
        choices = list(permutations(languages, 2)) if kind == "cross-lingual" else [(x, x) for x in languages]
        counts = self._items_per_language[source]
        exponent = self._terms.mix.language_sampling / 2
        weights = np.array([(counts[x] * counts[y]) ** exponent for x, y in choices])
        return np.array(choices, object), np.cumsum(weights / weights.sum())

    @cached_property
    def _items_per_language(self) -> dict[str, Counter[str]]:
        counts: dict[str, Counter[str]] = {}
        for name, source in self._terms.manifest.sources.items():
            counts[name] = Counter()
            for shard in source.shards.get(self._terms.split, ()):
                for group, items in shard.runs:
                    for language in source.groups[group].languages:
                        counts[name][language] += items
        return counts
