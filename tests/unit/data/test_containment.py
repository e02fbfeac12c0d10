"""A text matches an evaluation text of which it has a long part, and the reverse."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.config import CorpusConfig
from hbt_ray.data.containment import ContainmentIndex, Shingles
from hbt_ray.data.corpora import list_shards, read_shard
from hbt_ray.data.decontamination import DecontaminationIndex
from hbt_ray.data.text_normalization import normalize_for_matching
from hbt_ray.data.types import Benchmark, CorpusRow

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
CHINESE = "天地玄黄宇宙洪荒日月盈昃辰宿列张"  # 16 characters, each once


def words(seed: int, number: int) -> str:
    generator = random.Random(seed)
    return " ".join("".join(generator.choices("abcdfghijklmnopqrstuvwxyz", k=6)) for _ in range(number))  # no "ae"


def fraction(one: str, other: str, threshold: float = 0.8) -> float:
    found = ContainmentIndex([], threshold).contained_fraction(one, other)
    assert found == ContainmentIndex([], threshold).contained_fraction(other, one)
    return found


def match_types(evaluation: list[str], texts: list[str]) -> list[str | None]:
    found = DecontaminationIndex(evaluation, 0.8).find_all([normalize_for_matching(text) for text in texts])
    return [match and match.match_type for match in found]


# The measure, worked out on paper


def test_fraction_is_of_the_shorter_texts_shingles():
    assert fraction(ALPHABET, f"0123456789 {ALPHABET} 01234567890") == 1.0
    # 22 shingles; another last letter changes one of them, a letter in the middle five.
    assert fraction(ALPHABET[:-1] + "0", ALPHABET) == 21 / 22
    assert fraction(ALPHABET.replace("m", "0"), ALPHABET) == 0.0  # 17 / 22 is below 2 * 0.8 / 1.8
    assert fraction(ALPHABET.replace("m", "0"), ALPHABET, 0.6) == 17 / 22  # and above 2 * 0.6 / 1.6


def test_a_shingle_of_chinese_has_two_characters():
    assert len(Shingles.of(CHINESE).hashes) == 15
    assert fraction(CHINESE.replace("盈", "国"), CHINESE) == 13 / 15
    # Korean and Japanese as well; a word of letters in between has shingles of five characters.
    assert [len(Shingles.of(text).hashes) for text in ("서울특별시", "ひらがな", "天abcdefg地")] == [4, 3, 5]


def test_a_short_text_matches_one_of_similar_length_only():
    sentence = words(1, 4)  # 27 characters
    assert fraction(sentence, f"{sentence} {words(2, 5)}") == 1.0
    assert fraction(sentence, f"{sentence} {words(2, 6)}") == 0.0
    assert fraction(words(1, 6), f"{words(1, 6)} {words(2, 90)}") == 1.0  # 41 characters
    assert fraction("in the year of 1985", "in the year of 1985 x") == 0.0  # 19


def test_a_stretch_of_120_shingles_is_enough():
    stretch = words(3, 18)  # 125 characters
    assert fraction(f"{words(4, 50)} {stretch} {words(5, 60)}", f"{words(6, 50)} {stretch} {words(7, 60)}") == 1.0
    shorter = words(3, 9)  # 62 characters, half of such a stretch
    assert fraction(f"{words(4, 50)} {shorter} {words(5, 60)}", f"{words(6, 50)} {shorter} {words(7, 60)}") == 0.0


# Candidates


@given(st.integers(0, 10_000), st.integers(6, 60), st.integers(0, 40), st.integers(0, 40), st.integers(0, 300))
def test_a_contained_text_is_a_candidate_wherever_it_is(seed: int, number: int, before: int, after: int, others: int):
    contained = words(seed, number)
    text = f"{words(seed + 1, before)} {contained} {words(seed + 2, after)}"
    index = ContainmentIndex([words(one, 3) for one in range(others)] + [contained], 0.8)
    assert (0, others) in index.candidates([text])
    assert (1, 0) in ContainmentIndex([text], 0.8).candidates(["", contained])


def test_texts_without_a_common_part_are_no_candidates():
    index = ContainmentIndex([words(one, 60) for one in range(300)], 0.8)
    assert not list(index.candidates([words(one, 60) for one in range(1000, 1300)]))
    assert not list(ContainmentIndex([], 0.8).candidates(["text"]))
    assert not list(index.candidates([]))


# Matches


def test_spellings_of_one_text_are_equal():
    evaluation = ["Wo liegt die Universität Köln?", "कब हुआ था 1985 में", "Où est la forêt déjà célèbre"]
    texts = [
        "wo liegt die universitaet koeln",
        "Wo liegt die Universitat Koln",
        "कब हुआ था १९८५ में",
        "OU EST LA FORET DEJA CELEBRE",
    ]
    assert match_types(evaluation, texts) == ["equal"] * 4


def test_a_long_text_that_holds_a_short_evaluation_text_does_not_match():
    assert match_types(["Yes.", "He was born in Paris."], [f"He was born in Paris. Yes. {words(1, 30)}"]) == [None]


# Real data


@pytest.fixture(scope="module")
def index(xquad_r: Benchmark) -> DecontaminationIndex:
    return DecontaminationIndex(xquad_r.texts, 0.8)


def halves(benchmark: Benchmark) -> list[str]:
    return [text[: len(text) // 2] for text in benchmark.contexts if len(text) > 400][:70]


def joined(benchmark: Benchmark) -> list[str]:
    return [f"{one} {other}" for one, other in zip(benchmark.contexts[:100], benchmark.contexts[1:101], strict=True)]


def lengthened(benchmark: Benchmark) -> list[str]:
    return [f"{query.text} Please answer briefly." for query in benchmark.queries if query.language == "en"][:100]


def without_umlauts(benchmark: Benchmark) -> list[str]:
    german = [query.text for query in benchmark.queries if query.language == "de" and len(query.text) < 60]
    plain = ["".join(c for c in unicodedata.normalize("NFD", t) if not unicodedata.combining(c)) for t in german]
    return [other for text, other in zip(german, plain, strict=True) if text != other][:80]


def with_another_character(benchmark: Benchmark) -> list[str]:
    generator = random.Random(0)
    chinese = [query.text for query in benchmark.queries if query.language == "zh"][::7][:100]
    places = [generator.randrange(len(text) - 1) for text in chinese]
    changed = zip(chinese, places, strict=True)
    return [text[:n] + generator.choice(CHINESE) + text[n + 1 :] for text, n in changed]


@pytest.mark.parametrize(
    ("made", "least"),  # before: 8 of 70, 11 of 100, 6 of 100, 24 of 80 and 6 of 100 were found
    [(halves, 70), (joined, 100), (lengthened, 100), (without_umlauts, 80), (with_another_character, 95)],
)
def test_changed_texts_of_xquad_r_are_found(xquad_r, index, made: Callable[[Benchmark], list[str]], least: int):
    texts = made(xquad_r)
    found = index.find_all([normalize_for_matching(text) for text in texts])
    assert sum(match is not None for match in found) >= least


@pytest.mark.parametrize("corpus", ["courses", "support", "erp"])
def test_few_texts_of_other_corpora_match_xquad_r(shared_data: Path, index, corpus: str):
    # Measured on all of them: 0 of 27,268; and 1 of 6,175 of other articles of SQuAD, in `squad-parallel`.
    shards = list_shards(CorpusConfig(format="jsonl", path=str(shared_data / "docs-parallel" / corpus)), {"de", "zh"})
    rows = [row for shard in shards for row in list(read_shard(shard))[::40] if isinstance(row, CorpusRow)]
    texts = [text for row in rows for text in (row.question, row.passage) if text]
    assert len(texts) > 100
    assert not [match for match in index.find_all([normalize_for_matching(text) for text in texts]) if match]
