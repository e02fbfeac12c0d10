"""The corpus shipped with the package: a few thousand questions and passages, parallel in many languages.

It is built on first use from facts and names of CLDR (`facts.py`, `cldr.json`) and the templates of this folder,
without a download. An item is a relation and a subject, "currency/CH", and exists in all languages or in none.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.embedded.facts import Entity, Fact, all_facts, name_in
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.errors import CorpusError
from hbt_ray.utils.digests import JsonObject

LANGUAGES: tuple[str, ...] = (
    "am", "ar", "bn", "de", "el", "en", "es", "fa", "fr", "hi", "ru", "sw", "th", "tr", "vi", "zh",
)  # fmt: skip
SPLITS = ("train", "test")

# Of the items that may become test items; a few fewer do, because what a test item needs must stay in training.
_TEST_FRACTION = 0.125


@dataclass(frozen=True, slots=True)
class EmbeddedItem:
    item_id: str  # "currency/CH"
    texts: dict[str, tuple[str, str]]  # language -> (question, passage)


def items(split: str) -> tuple[EmbeddedItem, ...]:
    """Return the items of "train" or "test", sorted by id, each in all `LANGUAGES`.

    A test item is a combination that training lacks: its subject occurs in training with other relations only, its
    relation with other subjects, and its answer in other items.

    Raises:
        CorpusError: there is no such split.
    """
    _check_split(split)
    return _items_by_split()[split]


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """List a shard for each language, sorted. Raises CorpusError if a language or the split does not exist."""
    _check_split(corpus.split)
    languages = LANGUAGES if corpus.languages is None else corpus.languages
    unknown = sorted(set(languages) - set(LANGUAGES))
    if unknown:
        raise CorpusError(f"the embedded corpus is not in {', '.join(unknown)}; there are {', '.join(LANGUAGES)}")
    return [
        CorpusShard("embedded", corpus.name, f"embedded:{language}", language, options={"split": corpus.split})
        for language in sorted(set(languages))
    ]


def read_shard(shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Yield every row of a language, sorted by item id; none is rejected."""
    assert shard.language is not None
    for item in items(shard.options["split"]):
        question, passage = item.texts[shard.language]
        location = f"{shard.location}:{item.item_id}"
        yield CorpusRow(shard.source, item.item_id, shard.language, question, passage, location=location)


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise CorpusError(f"the embedded corpus has no split {split!r}; there are {' and '.join(SPLITS)}")


@cache
def _items_by_split() -> dict[str, tuple[EmbeddedItem, ...]]:
    by_split: dict[str, list[EmbeddedItem]] = {split: [] for split in SPLITS}
    splits = _split_by_id()
    for fact in _facts():
        texts = {language: _question_and_passage(fact, language) for language in LANGUAGES}
        by_split[splits[fact.item_id]].append(EmbeddedItem(fact.item_id, texts))
    return {split: tuple(found) for split, found in by_split.items()}


@cache
def _facts() -> tuple[Fact, ...]:
    """Return the facts whose subject and answer have a name in every language, sorted by item id."""
    named = [fact for fact in all_facts() if _is_named(fact.subject) and _is_named(fact.value)]
    ambiguous = _ambiguous_subjects(fact.subject for fact in named)
    return tuple(fact for fact in named if fact.subject not in ambiguous)


def _is_named(entity: Entity) -> bool:
    return all(_name(language, entity) for language in LANGUAGES)


def _ambiguous_subjects(subjects: Iterable[Entity]) -> set[Entity]:
    """Return subjects that share a name in some language, so that a question about one has two answers.

    A place with the name of a territory is left out as well: Luxembourg the city, but not Luxembourg the country.
    """
    distinct = set(subjects)
    ambiguous = set()
    for language in LANGUAGES:
        name_of = {subject: str(_name(language, subject)).casefold() for subject in distinct}
        uses = Counter((subject.entity_type, name) for subject, name in name_of.items())
        for subject, name in name_of.items():
            is_territory_name = subject.entity_type == "place" and uses["territory", name]
            if uses[subject.entity_type, name] > 1 or is_territory_name:
                ambiguous.add(subject)
    return ambiguous


@cache
def _split_by_id() -> dict[str, str]:
    """Return item id -> split.

    Candidates move from training to test in the order of their hash, unless training would lose the last item with
    their subject or their answer.
    """
    facts = _facts()
    split_by_id = {fact.item_id: "train" for fact in facts}
    uses_in_training = Counter(entity for fact in facts for entity in (fact.subject, ("answer", fact.value)))
    for fact in sorted(facts, key=lambda fact: hash_fraction(fact.item_id, "split")):
        if hash_fraction(fact.item_id, "split") >= _TEST_FRACTION:
            break
        needed = (fact.subject, ("answer", fact.value))
        if all(uses_in_training[entity] > 1 for entity in needed):
            split_by_id[fact.item_id] = "test"
            uses_in_training.subtract(needed)
    return split_by_id


def _question_and_passage(fact: Fact, language: str) -> tuple[str, str]:
    """Return both texts, each in one of the language's wordings, chosen by a hash."""
    templates = _templates(language)[fact.relation]
    names = {"subject": _name(language, fact.subject), "value": _name(language, fact.value)}
    chosen = (
        wordings[int(hash_fraction(fact.item_id, f"{language} {field}") * len(wordings))]
        for field, wordings in templates.items()
    )
    question, passage = (wording.format_map(names) for wording in chosen)
    return question, passage


def _name(language: str, entity: Entity) -> str | None:
    if entity.entity_type == "direction":
        return str(_templates(language)["directions"][entity.code])
    return name_in(language, entity)


@cache
def _templates(language: str) -> JsonObject:
    """Return relation -> {"questions": wordings, "passages": wordings}, and the names of the writing directions."""
    text = files(__package__).joinpath("templates", f"{language}.yaml").read_text(encoding="utf-8")
    loaded: JsonObject = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


def hash_fraction(item_id: str, purpose: str) -> float:
    """Return a pseudo-random number in [0, 1) that is the same in every process."""
    digest = hashlib.sha256(f"{purpose} {item_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
