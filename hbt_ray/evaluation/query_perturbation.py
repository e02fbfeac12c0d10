"""Perturbed queries: with typing errors, in capitals, without accents, or in another language.

A perturbed benchmark has the passages and judgements of the original; only the texts of the queries differ. Random
choices are keyed by the query's id, so every model gets the same queries.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from hbt_ray.config import Perturbation
from hbt_ray.data.types import Benchmark, Query
from hbt_ray.errors import CorpusError
from hbt_ray.utils.counter_rng import Salt, stable_hash64

TYPO_FRACTION = 0.2  # of a query's words; at least one word
_MIN_LETTERS = 3  # of a word that gets a typing error
_WITH_ACCENTS = ("LATIN", "GREEK", "CYRILLIC")  # in other scripts marks are vowels and tones, which are always written


def perturbed(benchmark: Benchmark, perturbation: Perturbation) -> Benchmark:
    """Return the benchmark `<name>-<perturbation>`, whose queries are perturbed.

    - typos: two letters swapped, one left out or one doubled, in a fifth of the words
    - case: capitals
    - accents: removed
    - translation: each query replaced by one of its translations, drawn at random

    Raises:
        CorpusError: the perturbation is "translation", and no query has a translation.
    """
    if perturbation == "translation":
        queries = list(map(_translations(benchmark), benchmark.queries))
    else:
        queries = [replace(query, text=_CHANGES[perturbation](query)) for query in benchmark.queries]
    return replace(benchmark, name=f"{benchmark.name}-{perturbation}", queries=queries)


def without_accents(text: str) -> str:
    """Remove the marks of letters of Latin, Greek and Cyrillic script.

    >>> without_accents("Où est Malmö? Πού είναι;")
    'Ou est Malmo? Που ειναι;'
    """
    kept: list[str] = []
    accented = False
    for character in unicodedata.normalize("NFD", text):
        if not unicodedata.combining(character):
            accented = unicodedata.name(character, "").startswith(_WITH_ACCENTS)
        elif accented:
            continue
        kept.append(character)
    return unicodedata.normalize("NFC", "".join(kept))


def with_typos(text: str, generator: np.random.Generator) -> str:
    """Put a typing error into a fifth of the words, at least one; a text of only short words is unchanged."""
    words = text.split(" ")
    long_enough = [index for index, word in enumerate(words) if sum(map(str.isalpha, word)) >= _MIN_LETTERS]
    if not long_enough:
        return text
    count = min(max(1, round(TYPO_FRACTION * len(words))), len(long_enough))
    for index in generator.choice(long_enough, count, replace=False):
        words[index] = _mistyped(words[index], generator)
    return " ".join(words)


def _mistyped(word: str, generator: np.random.Generator) -> str:
    letters = [index for index, character in enumerate(word) if character.isalpha()]
    index = letters[int(generator.integers(1, len(letters)))]  # the first letter stays as it is
    error = int(generator.integers(3))
    if error == 0 and word[index] != word[index - 1]:  # swapped
        return word[: index - 1] + word[index] + word[index - 1] + word[index + 1 :]
    if error == 1:  # left out
        return word[:index] + word[index + 1 :]
    return word[: index + 1] + word[index:]  # doubled, also where equal letters would be swapped


def _translations(benchmark: Benchmark) -> Callable[[Query], Query]:
    texts: dict[str, dict[str, str]] = {}
    for query in benchmark.queries:
        if query.group:
            texts.setdefault(query.group, {})[query.language] = query.text
    if not any(len(of_group) > 1 for of_group in texts.values()):
        raise CorpusError(f"no query of the benchmark {benchmark.name!r} has a translation; leave out translation")

    def translated(query: Query) -> Query:
        others = sorted(language for language in texts.get(query.group, {}) if language != query.language)
        if not others:
            return query
        language = others[int(_generator(query).integers(len(others)))]
        return replace(query, text=texts[query.group][language], other_language=language)

    return translated


def _generator(query: Query) -> np.random.Generator:
    return np.random.default_rng(stable_hash64(0, Salt.PERTURBATION, query.query_id))


_CHANGES: dict[str, Callable[[Query], str]] = {
    "typos": lambda query: with_typos(query.text, _generator(query)),
    "case": lambda query: query.text.upper(),
    "accents": lambda query: without_accents(query.text),
}
