"""The languages of each pair, where a stream leaves them to be drawn."""

from __future__ import annotations

from collections import Counter
from functools import cached_property, lru_cache
from itertools import permutations

import numpy as np

from hbt_ray.permutation import key_of, uniforms
from hbt_ray.plan.kinds import Kind
from hbt_ray.plan.streams import Stream, Terms


class LanguageDraws:
    """Languages drawn for the pairs of a batch, among those that each item has."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._choices = lru_cache(maxsize=None)(self._language_choices)

    def pairs(self, stream: Stream, ordinal: int, start: int, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Question's and passage's language of each, (B,) str both.

        Args:
            start: the place of the first of the items in the stream's batch `ordinal`.
            items: (B,) eligible items of the stream.
        """
        places = ordinal * self._terms.global_batch_pairs + start + np.arange(len(items))
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
