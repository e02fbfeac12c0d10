"""Language codes and their spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.utils.language_codes import language_at_end, language_code, language_of_name, same_language, spell_code

CODES = "af pcm pt-BR zh-Hant es-419 zh-HK deu eng-GB aze-Latn zh-Hant-TW eng_Latn de-1996 ber quz"
ACCEPTED = CODES.split()


@pytest.mark.parametrize("code", ACCEPTED)
def test_codes_in_the_usual_spelling_stay_as_they_are(code: str):
    assert language_code(code) == language_of_name(code) == spell_code(code) == code


@pytest.mark.parametrize(
    ("written", "code"),
    [("zh_CN", "zh-CN"), ("pt-br", "pt-BR"), ("zh_hant_tw", "zh-Hant-TW"), ("sr-latn", "sr-Latn"), ("DE", "de")],
)
def test_other_spellings_become_the_usual_one(written: str, code: str):
    assert language_code(written) == code


@pytest.mark.parametrize("text", ["", "nq", "train", "en-questions", "de-XX", "xx-Latn", "english", "spa-2"])
def test_text_that_names_no_language_is_no_code(text: str):
    assert language_code(text) is None


@pytest.mark.parametrize("word", ["dev", "val", "all", "raw", "DEV", "gis", "tex", "old", "new", "src", "tmp"])
def test_usual_word_is_no_language_of_a_file(word: str):
    assert language_of_name(word) is None
    assert language_at_end(f"set-{word}") is None


@pytest.mark.parametrize("code", ["mar", "que", "run", "bak", "mar_Deva"])
def test_language_of_large_corpora_is_no_usual_word(code: str):
    assert language_of_name(code) == code


@given(st.sampled_from(ACCEPTED), st.sampled_from([str.lower, str.upper, str.title]), st.sampled_from("-_"))
def test_spelling_is_idempotent_and_names_the_same_language(code: str, case, separator: str):
    written = case(code.replace("_", "-")).replace("-", separator)
    assert spell_code(spell_code(written)) == spell_code(written)
    assert same_language(written, code)


@pytest.mark.parametrize(
    ("first", "second"), [("de", "fr"), ("zh-Hans", "zh-Hant"), ("en", "English"), ("pt-PT", "pt-BR")]
)
def test_other_language_script_or_region_differs(first: str, second: str):
    assert not same_language(first, second)
