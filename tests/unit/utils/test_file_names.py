from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.utils.file_names import benchmark_slug, check_distinct, file_name, with_hash, word_name

NAMES = st.text(st.characters(exclude_categories=()), max_size=300)


@given(NAMES)
def test_file_names_are_short_and_within_their_folder(name: str):
    for named in (file_name(name), word_name(name)):
        assert 0 < len(named.encode("utf-8")) <= 255
        assert not set(named) & set("/.\\\0 ")


@given(st.lists(NAMES, unique=True, max_size=20))
def test_names_that_pass_the_check_have_distinct_files(names: list[str]):
    for file_name_of in (file_name, word_name, benchmark_slug):
        try:
            check_distinct("names", names, file_name_of)
        except ValueError:
            continue
        assert len({file_name_of(name).casefold() for name in names}) == len(names)


@given(st.text(st.sampled_from("aB- /._"), max_size=60), st.text(st.sampled_from("aB- /._"), max_size=60))
def test_names_with_replaced_characters_keep_their_files_apart(one: str, other: str):
    assert (file_name(one) == file_name(other)) == (one == other)


def test_names_of_one_file_are_refused_with_both():
    with pytest.raises(ValueError, match="the methods 'hybrid' and 'Hybrid!' have one file name, 'hybrid'; rename one"):
        check_distinct("methods", ["hybrid", "x-y", "Hybrid!"], word_name)
    with pytest.raises(ValueError, match="the corpora 'FAQ' and 'faq' have one file name"):  # without regard to case
        check_distinct("corpora", ["FAQ", "faq"])
    with pytest.raises(ValueError, match="rename one"):  # a name that has the hash of another one
        check_distinct("corpora", ["a b", with_hash("a_b", "a b")])


def test_word_name_keeps_letters_and_digits():
    assert word_name("X-X mono + mined") == "x-x-mono-mined"
    assert word_name("a" * 61) != word_name("a" * 62)
    assert word_name("+") != word_name("-")
