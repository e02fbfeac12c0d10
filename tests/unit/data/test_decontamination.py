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
from hbt_ray.data import minhash
from hbt_ray.data.corpora import list_shards, read_shard
from hbt_ray.data.decontamination import DecontaminationIndex, Match, is_near_duplicate
from hbt_ray.data.minhash import choose_band_rows, shingle_set
from hbt_ray.data.text_normalization import normalize_for_matching
from hbt_ray.data.types import CorpusRow
from hbt_ray.errors import ConfigError

ALPHABET = string.ascii_lowercase  # 26 characters: 22 shingles of 5, all distinct


def random_text(generator: random.Random, words: int) -> str:
    letters = ALPHABET.replace("e", "")  # "ae" is compared as "a"
    return " ".join("".join(generator.choices(letters, k=generator.randint(2, 9))) for _ in range(words))


def shingles(text: str) -> set[str]:
    return {text[n : n + 5] for n in range(len(text) - 4)}


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of two texts' shingles, by Python's sets."""
    return len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))


def near_duplicate(texts: DecontaminationIndex, queried: str) -> Match | None:
    """Return the match unless it is by containment, which `test_containment.py` is about."""
    found = texts.find(queried)
    return None if found and found.match_type == "contained" else found


def changed(text: str, positions: Sequence[int], generator: random.Random) -> str:
    """Return the text with some words replaced."""
    words = text.split()
    for position in positions:
        words[position] = random_text(generator, 1)
    return " ".join(words)


def test_match_ignores_case_width_and_punctuation():
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


def test_similarity_equal_to_the_threshold_matches():
    shorter = ALPHABET[:20]  # 16 of the alphabet's 22 shingles
    assert DecontaminationIndex([ALPHABET], 16 / 22).find(shorter) == Match("near-duplicate", ALPHABET, 16 / 22)
    # Also one of which the whole text is a part; 16 of its 16 shingles.
    assert DecontaminationIndex([ALPHABET], 16 / 22 + 0.001).find(shorter) == Match("contained", ALPHABET, 1.0)


def test_is_near_duplicate_follows_the_rule_of_the_index():
    assert is_near_duplicate(ALPHABET, ALPHABET[:20], 16 / 22)
    assert not is_near_duplicate(ALPHABET, ALPHABET[:20], 16 / 22 + 0.001)
    assert not is_near_duplicate(ALPHABET, ALPHABET + "0", 1.0)
    assert is_near_duplicate(ALPHABET, ALPHABET, 1.0)
    assert not is_near_duplicate("in the year of 1985", "in the year of 1986", 0.1)  # 19 characters
    assert is_near_duplicate("in the years of 1985", "in the years of 1986", 0.1)


def test_threshold_1_finds_only_equal_texts():
    assert DecontaminationIndex([ALPHABET], 1.0).find(ALPHABET + "0") is None


def test_equal_text_is_preferred_then_the_most_similar():
    texts = DecontaminationIndex([ALPHABET + "012", ALPHABET + "0"], 0.5)
    found = texts.find(ALPHABET)
    assert found == Match("near-duplicate", ALPHABET + "0", 22 / 23)
    assert texts.find(ALPHABET + "012") == Match("equal", ALPHABET + "012", 1.0)


def test_short_texts_match_only_if_equal():
    texts = DecontaminationIndex(["Yes.", "In 1985", "How old is Anna B?"], 0.5)
    assert texts.find("yes") == Match("equal", "Yes.", 1.0)
    assert texts.find("In 1986") is None
    assert texts.find("How old is Anna C?") is None


def test_passage_does_not_match_a_short_text_that_it_contains():
    assert DecontaminationIndex(["Yes.", "1985."], 0.8).find("Yes. It was founded in 1985.") is None


def test_texts_of_only_punctuation_are_left_out():
    texts = DecontaminationIndex(["?!", "", "…"], 0.8)
    assert len(texts) == 0
    assert texts.find("?!") is None
    assert texts.find(ALPHABET) is None


def test_equal_texts_are_indexed_once():
    assert len(DecontaminationIndex(["Where?", "where", "WHERE!"], 0.8)) == 1


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.1])
def test_threshold_outside_of_0_to_1_is_refused(threshold: float):
    with pytest.raises(ConfigError, match="choose above 0 and up to 1"):
        DecontaminationIndex([], threshold)


@given(st.lists(st.text(st.characters())), st.text(st.characters()))
def test_every_text_finds_itself_unless_it_is_empty(texts: list[str], other: str):
    found = DecontaminationIndex([*texts, other], 0.8).find(other)
    assert found is None if normalize_for_matching(other) == "" else found and found.match_type == "equal"


def test_index_finds_the_same_after_pickling():
    generator = random.Random(0)
    originals = [random_text(generator, 20) for _ in range(50)]
    texts = DecontaminationIndex(originals, 0.8)
    copy = pickle.loads(pickle.dumps(texts))
    queried = [originals[0], originals[1] + " x", random_text(generator, 20)]
    assert [copy.find(text) for text in queried] == [texts.find(text) for text in queried]
    assert [found and found.match_type for found in map(copy.find, queried)] == ["equal", "near-duplicate", None]


ORIGINALS = [random_text(random.Random(number), 20) for number in range(10)]
MATCHES = {
    **{text: Match("equal", text, 1.0) for text in ORIGINALS},
    **{text + " x": Match("near-duplicate", text, similarity(text, text + " x")) for text in ORIGINALS},
    **{random_text(random.Random(number), 20): None for number in range(20, 25)},
    "yes": Match("equal", "Yes.", 1.0),
    "no": None,
    "": None,
}


@given(st.lists(st.sampled_from(list(MATCHES)), max_size=40))
def test_find_all_equals_find_of_each_text(queried: list[str]):
    texts = DecontaminationIndex([*ORIGINALS, "Yes."], 0.8)
    assert texts.find_all(queried) == [MATCHES[text] for text in queried] == list(map(texts.find, queried))


def test_near_duplicates_equal_a_comparison_with_every_text():
    generator = random.Random(1)
    originals = [random_text(generator, generator.randint(10, 60)) for _ in range(100)]
    texts = DecontaminationIndex(originals, 0.8)
    known = [shingles(original) for original in originals]
    outcomes = set()
    for original in originals:
        words = original.split()
        for changes in range(1, 6):
            for position in generator.sample(range(len(words)), changes):
                words[position] = random_text(generator, 1)
            queried = " ".join(words)
            of_text = shingles(queried)
            best = max(len(of_text & other) / len(of_text | other) for other in known)
            found = near_duplicate(texts, queried)
            assert (found.similarity if found else 0.0) == pytest.approx(best if best >= 0.8 else 0.0)
            outcomes.add(found is None)
    assert outcomes == {True, False}


def test_near_duplicates_are_missed_where_datasketch_misses_them(monkeypatch):
    # Bands so strict that half of the texts at the threshold share none: so the matches show which texts were compared.
    monkeypatch.setattr(minhash, "MAX_MISS_PROBABILITY", 0.5)
    generator = random.Random(2)
    originals = [random_text(generator, 15) for _ in range(60)]
    texts = DecontaminationIndex(originals, 0.5)
    rows = choose_band_rows(0.5)
    index = MinHashLSH(num_perm=128, params=(128 // rows, rows))

    def sketch(text: str) -> MinHash:
        made = MinHash(num_perm=128, seed=1, hashfunc=int)
        made.update_batch((shingle_set(text) >> np.uint64(32)).tolist())
        return made

    for number, original in enumerate(originals):
        index.insert(number, sketch(original))
    found = missed = 0
    for original in originals * 2:
        queried = changed(original, generator.sample(range(15), generator.randint(2, 4)), generator)
        listed = [originals[number] for number in index.query(sketch(queried))]
        best = max(listed, key=lambda text: similarity(text, queried), default=None)
        match = near_duplicate(texts, queried)
        if best is None or similarity(best, queried) < 0.5:
            assert match is None
            missed += similarity(original, queried) >= 0.5
        else:
            assert match == Match("near-duplicate", best, similarity(best, queried))
            found += 1
    assert min(found, missed) > 5


def test_xquad_r_questions_are_found_in_every_language(shared_data: Path):
    parts = list_shards(CorpusConfig(format="squad", path=str(shared_data / "xquad-r")), {"de", "th", "zh"})
    rows = [row for part in parts for row in read_shard(part) if isinstance(row, CorpusRow)][::50]
    texts = DecontaminationIndex([row.question for row in rows], 0.8)
    for row in rows:
        found = texts.find(row.question.replace("?", "").upper())
        assert found is not None
        assert found.match_type == "equal"
