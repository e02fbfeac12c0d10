"""Queries as people also write them: with typing errors, in capitals, without accents, in another language.

A perturbed benchmark has the queries, passages and judgements of the one it is made from; the queries' words differ.
What is drawn follows from a query's id, so every model is asked the same.
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

TYPO_SHARE = 0.2  # of a query's words; one word at least
_SHORTEST = 3  # letters of a word that gets a typing error
_WITH_ACCENTS = ("LATIN", "GREEK", "CYRILLIC")  # elsewhere marks are vowels and tones: to drop them is no habit


def perturbed(benchmark: Benchmark, kind: Perturbation) -> Benchmark:
    """The benchmark `<name>-<kind>`, whose queries are perturbed.

    typos: two letters swapped, one left out or one doubled in a fifth of the words; case: capitals; accents: none;
    translation: each query in another language, drawn among its translations.

    Raises:
        CorpusError: translation is asked for, and no query has one.
    """
    change = _translations(benchmark) if kind == "translation" else _CHANGES[kind]
    queries = [replace(query, text=change(query)) for query in benchmark.queries]
    return replace(benchmark, name=f"{benchmark.name}-{kind}", queries=queries)


def without_accents(text: str) -> str:
    """Letters of Latin, Greek and Cyrillic script without their marks.

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
    """A fifth of the words, one at least, with a typing error; a text of short words alone stays."""
    words = text.split(" ")
    long_enough = [place for place, word in enumerate(words) if sum(map(str.isalpha, word)) >= _SHORTEST]
    if not long_enough:
        return text
    count = min(max(1, round(TYPO_SHARE * len(words))), len(long_enough))
    for place in generator.choice(long_enough, count, replace=False):
        words[place] = _mistyped(words[place], generator)
    return " ".join(words)


def _mistyped(word: str, generator: np.random.Generator) -> str:
    letters = [place for place, character in enumerate(word) if character.isalpha()]
    place = letters[int(generator.integers(1, len(letters)))]  # people get the first letter right
    kind = int(generator.integers(3))
    if kind == 0:
        return word[: place - 1] + word[place] + word[place - 1] + word[place + 1 :]
    if kind == 1:
        return word[:place] + word[place + 1 :]
    return word[: place + 1] + word[place:]


def _translations(benchmark: Benchmark) -> Callable[[Query], str]:
    texts: dict[str, dict[str, str]] = {}
    for query in benchmark.queries:
        if query.group:
            texts.setdefault(query.group, {})[query.language] = query.text
    if not any(len(of_group) > 1 for of_group in texts.values()):
        raise CorpusError(f"no query of the benchmark {benchmark.name!r} has a translation; leave out translation")

    def translated(query: Query) -> str:
        others = sorted(language for language in texts.get(query.group, {}) if language != query.language)
        if not others:
            return query.text
        return texts[query.group][others[int(_generator(query).integers(len(others)))]]

    return translated


def _generator(query: Query) -> np.random.Generator:
    return np.random.default_rng(stable_hash64(0, Salt.PERTURBATION, query.query_id))


_CHANGES: dict[str, Callable[[Query], str]] = {
    "typos": lambda query: with_typos(query.text, _generator(query)),
    "case": lambda query: query.text.upper(),
    "accents": lambda query: without_accents(query.text),
}
