"""The corpus shipped with the package: a few thousand questions and passages, parallel in many languages.

Made from CLDR's facts and names (`facts`, `names`) and this folder's templates when first asked for, with no
download. An item is a relation and a subject, "currency/CH", and is there in every language or not at all.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.embedded.cldr_facts import Entity, Fact, all_facts
from hbt_ray.data.corpora.embedded.cldr_names import name_in
from hbt_ray.data.types import Benchmark, CorpusRow, Passage, Query, RejectedRow
from hbt_ray.errors import CorpusError

LANGUAGES: tuple[str, ...] = (
    "am", "ar", "bn", "de", "el", "en", "es", "fa", "fr", "hi", "ru", "sw", "th", "tr", "vi", "zh",
)  # fmt: skip
SPLITS = ("train", "test")
POOL_ITEMS = 1000  # of the benchmark, in each language

_TEST_SHARE = 0.125  # asked for; a little less is found, for what a test item needs must stay in training


@dataclass(frozen=True, slots=True)
class EmbeddedItem:
    item_id: str  # "currency/CH"
    texts: dict[str, tuple[str, str]]  # language -> (question, passage)


def items(split: str) -> tuple[EmbeddedItem, ...]:
    """The items of "train" or "test", sorted by id, each in all of `LANGUAGES`. Raises CorpusError on another split."""
    if split not in SPLITS:
        raise CorpusError(f"the embedded corpus has no split {split!r}; there are {' and '.join(SPLITS)}")
    return _items_by_split()[split]


def split_of(item_id: str) -> str:
    """Where an item stands, "train" or "test". Raises KeyError for an id that the corpus lacks.

    A test item asks for a combination never trained on: its subject occurs in training with other relations
    only, its relation with other subjects, and its answer in other items.
    """
    return _split_by_id()[item_id]


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """One part per language, sorted. Raises CorpusError for a language or split that is not there."""
    if corpus.split not in SPLITS:
        raise CorpusError(f"the embedded corpus has no split {corpus.split!r}; there are {' and '.join(SPLITS)}")
    wanted = LANGUAGES if corpus.languages is None else corpus.languages
    unknown = sorted(set(wanted) - set(LANGUAGES))
    if unknown:
        raise CorpusError(f"the embedded corpus is not in {', '.join(unknown)}; there are {', '.join(LANGUAGES)}")
    return [
        CorpusShard("embedded", corpus.name, f"embedded:{language}", language, {"split": corpus.split})
        for language in sorted(set(wanted))
    ]


def read_shard(part: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Every row of one language's part, sorted by item id; nothing is ever rejected."""
    assert part.language is not None
    for item in items(part.options["split"]):
        question, passage = item.texts[part.language]
        location = f"{part.location}:{item.item_id}"
        yield CorpusRow(part.source, item.item_id, part.language, question, passage, location=location)


def benchmark(split: str = "test") -> Benchmark:
    """The split's questions in every language over a pool of passages in every language.

    Every language's passage of a question's own item is relevant, with grade 1. The pool holds the passages of
    `POOL_ITEMS` items: the split's own, and others by a hash of their id.
    """
    asked = items(split)
    others = [item for name in SPLITS if name != split for item in items(name)]
    others.sort(key=lambda item: _fraction(item.item_id, "pool"))
    pooled = [*asked, *others][: max(POOL_ITEMS, len(asked))]
    pool = [(language, item) for item in pooled for language in LANGUAGES]
    passages = [Passage(f"{lang}:{item.item_id}", lang, item.texts[lang][1]) for lang, item in pool]
    return Benchmark(
        name="embedded",
        queries=[
            Query(f"{lang}:{item.item_id}", lang, item.texts[lang][0], item.item_id)
            for item in asked
            for lang in LANGUAGES
        ],
        passages=sorted(passages, key=lambda passage: passage.passage_id),
        judgements={
            f"{lang}:{item.item_id}": {f"{other}:{item.item_id}": 1 for other in LANGUAGES}
            for item in asked
            for lang in LANGUAGES
        },
    )


@cache
def _items_by_split() -> dict[str, tuple[EmbeddedItem, ...]]:
    by_split: dict[str, list[EmbeddedItem]] = {split: [] for split in SPLITS}
    for fact in _facts():
        texts = {language: _texts(fact, language) for language in LANGUAGES}
        by_split[_split_by_id()[fact.item_id]].append(EmbeddedItem(fact.item_id, texts))
    return {split: tuple(found) for split, found in by_split.items()}


@cache
def _facts() -> tuple[Fact, ...]:
    """The facts whose subject and answer every language names, sorted by item id."""
    named = [fact for fact in all_facts() if _is_named(fact.subject) and _is_named(fact.value)]
    ambiguous = _ambiguous(fact.subject for fact in named)
    return tuple(fact for fact in named if fact.subject not in ambiguous)


def _is_named(entity: Entity) -> bool:
    return all(_name(language, entity) for language in LANGUAGES)


def _ambiguous(subjects: Iterable[Entity]) -> set[Entity]:
    """Subjects that share a name in some language: a question about one would have two answers.

    Places and territories are told apart too. Luxembourg the city gives way to Luxembourg the country.
    """
    distinct = set(subjects)
    found = set()
    for language in LANGUAGES:
        name_of = {subject: str(_name(language, subject)).casefold() for subject in distinct}
        uses = Counter((subject.kind, name) for subject, name in name_of.items())
        for subject, name in name_of.items():
            taken = subject.kind == "place" and uses["territory", name]
            if uses[subject.kind, name] > 1 or taken:
                found.add(subject)
    return found


@cache
def _split_by_id() -> dict[str, str]:
    """Item id -> split. Candidates leave training in the order of their hash, if nothing then goes missing there."""
    facts = _facts()
    split_by_id = {fact.item_id: "train" for fact in facts}
    uses_in_training = Counter(entity for fact in facts for entity in (fact.subject, ("answer", fact.value)))
    for fact in sorted(facts, key=lambda fact: _fraction(fact.item_id, "split")):
        if _fraction(fact.item_id, "split") >= _TEST_SHARE:
            break
        needed = (fact.subject, ("answer", fact.value))
        if all(uses_in_training[entity] > 1 for entity in needed):
            split_by_id[fact.item_id] = "test"
            uses_in_training.subtract(needed)
    return split_by_id


def _texts(fact: Fact, language: str) -> tuple[str, str]:
    """Question and passage, each in one of the language's wordings, drawn by a hash."""
    templates = _templates(language)[fact.relation]
    names = {"subject": _name(language, fact.subject), "value": _name(language, fact.value)}
    chosen = (
        wordings[int(_fraction(fact.item_id, f"{language} {part}") * len(wordings))]
        for part, wordings in templates.items()
    )
    question, passage = (wording.format_map(names) for wording in chosen)
    return question, passage


def _name(language: str, entity: Entity) -> str | None:
    if entity.kind == "direction":
        return str(_templates(language)["directions"][entity.code])
    return name_in(language, entity)


@cache
def _templates(language: str) -> dict[str, Any]:
    """Relation -> {"questions": wordings, "passages": wordings}, and the words for the directions of writing."""
    text = files(__package__).joinpath("templates", f"{language}.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


def _fraction(item_id: str, purpose: str) -> float:
    """A number in [0, 1) that looks drawn at random and is the same in every process."""
    digest = hashlib.sha256(f"{purpose} {item_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
