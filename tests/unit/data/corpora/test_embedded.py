import hashlib
import os
import subprocess
import sys
import unicodedata
from collections import defaultdict
from pathlib import Path

import pytest

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.embedded import dataset
from hbt_ray.data.corpora.embedded.dataset import (
    LANGUAGES,
    EmbeddedItem,
    items,
    list_shards,
    read_shard,
)
from hbt_ray.data.corpora.embedded.facts import Fact, all_facts, content_fingerprint
from hbt_ray.data.types import CorpusRow
from hbt_ray.errors import CorpusError
from tests.helpers.paths import REPOSITORY

SCRIPT_OF_LANGUAGE = {
    "am": "ETHIOPIC", "ar": "ARABIC", "bn": "BENGALI", "de": "LATIN", "el": "GREEK", "en": "LATIN", "es": "LATIN",
    "fa": "ARABIC", "fr": "LATIN", "hi": "DEVANAGARI", "ru": "CYRILLIC", "sw": "LATIN", "th": "THAI", "tr": "LATIN",
    "vi": "LATIN", "zh": "CJK",
}  # fmt: skip


def all_items() -> tuple[EmbeddedItem, ...]:
    return items("train") + items("test")


def facts_of(split: str) -> list[Fact]:
    fact_by_id = {fact.item_id: fact for fact in all_facts()}
    return [fact_by_id[item.item_id] for item in items(split)]


def texts_of(item_id: str, language: str) -> tuple[str, str]:
    (item,) = [item for item in all_items() if item.item_id == item_id]
    return item.texts[language]


def digest_of_corpus() -> str:
    content = [(item.item_id, sorted(item.texts.items())) for item in all_items()]
    return hashlib.sha256(repr(content).encode()).hexdigest()


def test_embedded_corpus_has_2000_items_in_12_languages_or_more():
    assert len(all_items()) >= 2000
    assert len(LANGUAGES) >= 12
    assert list(LANGUAGES) == sorted(set(LANGUAGES))


def test_every_item_has_both_texts_in_every_language():
    for item in all_items():
        assert sorted(item.texts) == list(LANGUAGES)
        for question, passage in item.texts.values():
            assert question.strip()
            assert passage.strip()
            assert "{" not in question + passage


def test_item_ids_are_unique_and_sorted_within_a_split():
    ids = [item.item_id for item in all_items()]
    assert len(set(ids)) == len(ids)
    for split in ("train", "test"):
        assert [item.item_id for item in items(split)] == sorted(item.item_id for item in items(split))


@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_and_passages_of_a_language_are_distinct(language: str):
    questions = [item.texts[language][0].casefold() for item in all_items()]
    passages = [item.texts[language][1].casefold() for item in all_items()]
    assert len(set(questions)) == len(questions)
    assert len(set(passages)) == len(passages)


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_mostly_in_the_script_of_their_language(language: str):
    for item in all_items():
        for text in item.texts[language]:
            letters = [unicodedata.name(char).split()[0] for char in text if char.isalpha()]
            assert letters.count(SCRIPT_OF_LANGUAGE[language]) > len(letters) / 2, text


def test_every_relation_has_two_wordings_in_every_language():
    relations = {fact.relation for fact in all_facts()}
    for language in LANGUAGES:
        templates = dataset._templates(language)
        assert set(templates) == relations | {"directions"}
        for relation in relations:
            questions, passages = templates[relation]["questions"], templates[relation]["passages"]
            assert len(set(questions)) >= 2
            assert len(set(passages)) >= 2
            assert all("{subject}" in question and "{value}" not in question for question in questions)
            assert all("{subject}" in passage and "{value}" in passage for passage in passages)


def test_test_split_has_a_tenth_of_the_items_of_all_relations():
    share = len(items("test")) / len(all_items())
    assert 0.10 <= share <= 0.12
    assert {fact.relation for fact in facts_of("test")} == {fact.relation for fact in facts_of("train")}


def test_test_items_are_new_combinations_of_known_entities():
    training = facts_of("train")
    combinations = {(fact.relation, fact.subject) for fact in training}
    subjects_of_relation = defaultdict(set)
    for fact in training:
        subjects_of_relation[fact.relation].add(fact.subject)
    subjects = {fact.subject for fact in training}
    answers = {fact.value for fact in training}
    for fact in facts_of("test"):
        assert (fact.relation, fact.subject) not in combinations
        assert fact.subject in subjects
        assert subjects_of_relation[fact.relation]
        assert fact.value in answers


def test_split_by_id_agrees_with_items():
    for split in ("train", "test"):
        assert {dataset._split_by_id()[item.item_id] for item in items(split)} == {split}


def test_corpus_is_the_same_for_any_hash_seed():
    command = f"from {__name__} import digest_of_corpus; print(digest_of_corpus())"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", command], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == digest_of_corpus()


@pytest.mark.parametrize(
    ("item_id", "language", "answer"),
    [
        ("currency/CH", "de", "Schweizer Franken"),
        ("currency/JP", "zh", "日元"),
        ("currency_since/DE", "fa", "۱۹۹۹"),
        ("language/BR", "ru", "португальский"),
        ("script/GR", "es", "griego"),
        ("region/KE", "fr", "Afrique orientale"),
        ("time_zone/IN", "en", "India Standard Time"),
        ("first_day/US", "tr", "Pazar"),
        ("weekend/FR", "th", "วันเสาร์และวันอาทิตย์"),
        ("written_in/uk", "de", "Kyrillisch"),
        ("direction/he", "sw", "kutoka kulia kwenda kushoto"),
        ("home/ca", "el", "Ισπανία"),
        ("country/Vienna", "hi", "ऑस्ट्रिया"),
        ("country/Kolkata", "bn", "ভারত"),
        ("place_currency/Warsaw", "vi", "Zloty Ba Lan"),
    ],
)
def test_passage_contains_the_answer(item_id: str, language: str, answer: str):
    question, passage = texts_of(item_id, language)
    assert answer in passage
    assert answer not in question


def test_city_with_the_name_of_a_country_is_left_out():
    ids = {item.item_id for item in all_items()}
    assert "currency/LU" in ids
    assert "country/Luxembourg" not in ids


def test_each_language_is_one_shard_of_the_split():
    corpus = CorpusConfig(format="embedded", name="facts", languages=("sw", "en"), split="test")
    shards = list_shards(corpus)
    assert [(shard.location, shard.language, shard.source) for shard in shards] == [
        ("embedded:en", "en", "facts"),
        ("embedded:sw", "sw", "facts"),
    ]
    rows = list(read_shard(shards[1]))
    first = items("test")[0]
    question, passage = first.texts["sw"]
    assert len(rows) == len(items("test"))
    assert rows[0] == CorpusRow(
        "facts", first.item_id, "sw", question, passage, location=f"embedded:sw:{first.item_id}"
    )


def test_corpus_without_languages_has_all_of_them():
    shards = list_shards(CorpusConfig(format="embedded"))
    assert [shard.language for shard in shards] == list(LANGUAGES)


def test_unknown_language_or_split_is_refused():
    with pytest.raises(CorpusError, match=r"not in la, xx; there are am, ar, .*, zh"):
        list_shards(CorpusConfig(format="embedded", languages=("xx", "en", "la")))
    with pytest.raises(CorpusError, match=r"no split 'dev'; there are train and test"):
        list_shards(CorpusConfig(format="embedded", split="dev"))
    with pytest.raises(CorpusError, match=r"no split 'dev'; there are train and test"):
        items("dev")


def test_corpus_is_the_same_with_every_babel():
    digest = hashlib.sha256()
    for split in dataset.SPLITS:
        for item in dataset.items(split):
            digest.update(repr((split, item.item_id, sorted(item.texts.items()))).encode())
    assert [len(dataset.items(split)) for split in dataset.SPLITS] == [3365, 425]
    assert digest.hexdigest() == "7505b0398217773860c58637eb2e21e2150dc9b1eb523af1dc14eb952cdb5afe"


def test_corpus_is_made_without_babel():
    code = "import sys\nfrom hbt_ray.data.corpora.embedded import dataset\ndataset.items('test')\n"
    subprocess.run([sys.executable, "-c", code + "assert 'babel' not in sys.modules"], check=True)


def test_fingerprint_changes_with_the_content(monkeypatch: pytest.MonkeyPatch):
    before = content_fingerprint()
    assert content_fingerprint() == before
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"other")
    assert content_fingerprint() != before
