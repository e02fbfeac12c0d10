from __future__ import annotations

import pickle
import random
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.config import CorpusConfig
from hbt_ray.data import decontamination
from hbt_ray.data.corpora import list_shards, read_shard
from hbt_ray.data.decontamination import DecontaminationIndex, Match, is_near_duplicate
from hbt_ray.data.types import CorpusRow
from hbt_ray.errors import ConfigError

ALPHABET = string.ascii_lowercase  # 26 characters: 22 shingles of 5, all distinct


def random_text(generator: random.Random, words: int) -> str:
    return " ".join("".join(generator.choices(ALPHABET, k=generator.randint(2, 9))) for _ in range(words))


def shingles(text: str) -> set[str]:
    return {text[n : n + 5] for n in range(len(text) - 4)}


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of two texts' shingles, by Python's sets."""
    return len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))


def changed(text: str, places: Sequence[int], generator: random.Random) -> str:
    """Return the text with some words replaced."""
    words = text.split()
    for place in places:
        words[place] = random_text(generator, 1)
    return " ".join(words)


def test_a_text_is_found_whatever_its_case_width_and_punctuation():
    texts = DecontaminationIndex(["Where is it?"], 1.0)
    assert texts.find("“where IS　it”") == Match("equal", "Where is it?", 1.0)
    assert texts.find("Where was it?") is None


def test_similarity_is_shared_shingles_over_all_shingles():
    texts = DecontaminationIndex([ALPHABET], 0.8)
    # With "0" appended: 22 shared, 23 in all.
    assert texts.find(ALPHABET + "0") == Match("near-duplicate", ALPHABET, 22 / 23)
    # The middle character changed: 5 of 22 shingles differ on each side, so 17 shared of 27.
    assert texts.find(ALPHABET.replace("m", "0")) is None
    assert DecontaminationIndex([ALPHABET], 0.5).find(ALPHABET.replace("m", "0")) == Match(
        "near-duplicate", ALPHABET, 17 / 27
    )


def test_a_similarity_exactly_at_the_threshold_counts():
    shorter = ALPHABET[:20]  # 16 of the alphabet's 22 shingles
    assert DecontaminationIndex([ALPHABET], 16 / 22).find(shorter) == Match("near-duplicate", ALPHABET, 16 / 22)
    assert DecontaminationIndex([ALPHABET], 16 / 22 + 0.001).find(shorter) is None


def test_two_texts_are_near_duplicates_by_the_same_rule():
    assert is_near_duplicate(ALPHABET, ALPHABET[:20], 16 / 22)
    assert not is_near_duplicate(ALPHABET, ALPHABET[:20], 16 / 22 + 0.001)
    assert not is_near_duplicate(ALPHABET, ALPHABET + "0", 1.0)
    assert is_near_duplicate(ALPHABET, ALPHABET, 1.0)
    assert not is_near_duplicate("in the year of 1985", "in the year of 1986", 0.1)  # 19 characters
    assert is_near_duplicate("in the years of 1985", "in the years of 1986", 0.1)


def test_threshold_1_finds_equal_texts_alone():
    assert DecontaminationIndex([ALPHABET], 1.0).find(ALPHABET + "0") is None


def test_the_most_similar_text_is_told_and_an_equal_one_before_all():
    texts = DecontaminationIndex([ALPHABET + "012", ALPHABET + "0"], 0.5)
    found = texts.find(ALPHABET)
    assert found == Match("near-duplicate", ALPHABET + "0", 22 / 23)
    assert texts.find(ALPHABET + "012") == Match("equal", ALPHABET + "012", 1.0)


def test_short_texts_match_by_equality_alone():
    texts = DecontaminationIndex(["Yes.", "In 1985", "How old is Anna B?"], 0.5)
    assert texts.find("yes") == Match("equal", "Yes.", 1.0)
    assert texts.find("In 1986") is None
    assert texts.find("How old is Anna C?") is None


def test_a_passage_that_contains_a_short_evaluation_text_does_not_match_it():
    assert DecontaminationIndex(["Yes.", "1985."], 0.8).find("Yes. It was founded in 1985.") is None


def test_texts_of_punctuation_alone_are_no_texts():
    texts = DecontaminationIndex(["?!", "", "…"], 0.8)
    assert len(texts) == 0
    assert texts.find("?!") is None
    assert texts.find(ALPHABET) is None


def test_equal_texts_are_kept_once():
    assert len(DecontaminationIndex(["Where?", "where", "WHERE!"], 0.8)) == 1


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.1])
def test_a_threshold_that_means_nothing_is_refused(threshold: float):
    with pytest.raises(ConfigError, match="choose above 0 and up to 1"):
        DecontaminationIndex([], threshold)


@given(st.lists(st.text(st.characters())), st.text(st.characters()))
def test_every_text_finds_itself_unless_it_is_empty(texts: list[str], other: str):
    found = DecontaminationIndex([*texts, other], 0.8).find(other)
    assert found is None if decontamination.normalize_for_matching(other) == "" else found and found.kind == "equal"


def test_what_is_found_after_pickling_is_what_was_found_before():
    generator = random.Random(0)
    originals = [random_text(generator, 20) for _ in range(50)]
    texts = DecontaminationIndex(originals, 0.8)
    copy = pickle.loads(pickle.dumps(texts))
    asked = [originals[0], originals[1] + " x", random_text(generator, 20)]
    assert [copy.find(text) for text in asked] == [texts.find(text) for text in asked]
    assert [found and found.kind for found in map(copy.find, asked)] == ["equal", "near-duplicate", None]


ORIGINALS = [random_text(random.Random(number), 20) for number in range(10)]
ASKED = {
    **{text: Match("equal", text, 1.0) for text in ORIGINALS},
    **{text + " x": Match("near-duplicate", text, similarity(text, text + " x")) for text in ORIGINALS},
    **{random_text(random.Random(number), 20): None for number in range(20, 25)},
    "yes": Match("equal", "Yes.", 1.0),
    "no": None,
    "": None,
}


@given(st.lists(st.sampled_from(list(ASKED)), max_size=40))
def test_of_many_texts_each_is_found_as_it_is_alone(asked: list[str]):
    texts = DecontaminationIndex([*ORIGINALS, "Yes."], 0.8)
    assert texts.find_all(asked) == [ASKED[text] for text in asked] == list(map(texts.find, asked))


def test_near_duplicates_are_those_of_a_comparison_with_every_text():
    generator = random.Random(1)
    originals = [random_text(generator, generator.randint(10, 60)) for _ in range(100)]
    texts = DecontaminationIndex(originals, 0.8)
    known = [shingles(original) for original in originals]
    kinds = set()
    for original in originals:
        words = original.split()
        for changes in range(1, 6):
            for place in generator.sample(range(len(words)), changes):
                words[place] = random_text(generator, 1)
            asked = " ".join(words)
            own = shingles(asked)
            best = max(len(own & other) / len(own | other) for other in known)
            found = texts.find(asked)
            assert (found.similarity if found else 0.0) == pytest.approx(best if best >= 0.8 else 0.0)
            kinds.add(found is None)
    assert kinds == {True, False}


def test_near_duplicates_are_missed_where_datasketch_misses_them_with_the_same_bands(monkeypatch):
    # Bands so strict that half of the texts at the threshold share none: what is found tells what was looked at.
    monkeypatch.setattr(decontamination, "_MAX_MISS_PROBABILITY", 0.5)
    generator = random.Random(2)
    originals = [random_text(generator, 15) for _ in range(60)]
    texts = DecontaminationIndex(originals, 0.5)
    rows = decontamination._rows_per_band(0.5)
    index = MinHashLSH(num_perm=128, params=(128 // rows, rows))

    def sketch(text: str) -> MinHash:
        made = MinHash(num_perm=128, seed=1, hashfunc=int)
        made.update_batch((decontamination._shingles(text) >> np.uint64(32)).tolist())
        return made

    for number, original in enumerate(originals):
        index.insert(number, sketch(original))
    found = missed = 0
    for original in originals * 2:
        asked = changed(original, generator.sample(range(15), generator.randint(2, 4)), generator)
        listed = [originals[number] for number in index.query(sketch(asked))]
        best = max(listed, key=lambda text: similarity(text, asked), default=None)
        match = texts.find(asked)
        if best is None or similarity(best, asked) < 0.5:
            assert match is None
            missed += similarity(original, asked) >= 0.5
        else:
            assert match == Match("near-duplicate", best, similarity(best, asked))
            found += 1
    assert min(found, missed) > 5


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_a_text_at_the_threshold_is_missed_once_in_a_thousand_at_most(threshold: float):
    assert decontamination._miss_probability(threshold, decontamination._rows_per_band(threshold)) <= 1e-3


def test_shingles_are_as_many_as_distinct_substrings_in_any_script():
    for text in ("abcdefg abcdefg", "ความรู้เกี่ยวกับ", "𝒳𝒴😀😀😀😀😀😀", "abcd", ""):
        assert len(decontamination._shingles(text)) == len(shingles(text))


def test_bands_of_equal_values_differ_by_their_place():
    bands = decontamination._bands(np.zeros(128, np.uint32), 4)
    assert len(set(bands.tolist())) == 32


def test_questions_of_xquad_r_are_found_again_in_every_language(shared_data: Path):
    parts = list_shards(CorpusConfig(format="squad", path=str(shared_data / "xquad-r")), {"de", "th", "zh"})
    rows = [row for part in parts for row in read_shard(part) if isinstance(row, CorpusRow)][::50]
    texts = DecontaminationIndex([row.question for row in rows], 0.8)
    for row in rows:
        found = texts.find(row.question.replace("?", "").upper())
        assert found is not None
        assert found.kind == "equal"
