"""Text becomes the tokens that the model's own tokenizer would give, and a fingerprint tells one way from another."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from hbt_ray.config import ModelConfig, TextConfig
from hbt_ray.errors import ConfigError
from hbt_ray.store import Side
from hbt_ray.tokenization import Tokenization, load_tokenizer, train_tokenizer
from tests import tiny

TEXTS = [
    "the cat sat on the mat",
    "die Katze saß auf der Matte",
    "le chat était assis",
    "猫はマットの上に座った",
    "кот",
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 400)


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.text(max_size=60), max_size=5),
    prefix=st.sampled_from(["", "Query: ", "query:"]),
    max_tokens=st.integers(4, 24),
)
@pytest.mark.parametrize("side", ["question", "passage"])
def test_tokens_are_those_of_the_transformers_tokenizer(
    tokenizer: PreTrainedTokenizerFast, side: Side, texts, prefix, max_tokens
):
    if side == "question":
        text = TextConfig(
            query_prefix=prefix, max_query_tokens=max_tokens, passage_prefix="other", max_passage_tokens=9
        )
    else:
        text = TextConfig(
            passage_prefix=prefix, max_passage_tokens=max_tokens, query_prefix="other", max_query_tokens=9
        )
    encoded = Tokenization(tokenizer, text).encode(texts, side)
    expected = [tokenizer(prefix + one, truncation=True, max_length=max_tokens)["input_ids"] for one in texts]
    assert [ids.tolist() for ids in encoded] == expected
    assert all(ids.dtype == np.uint16 for ids in encoded)


def test_a_text_begins_and_ends_with_its_special_tokens_even_where_it_is_cut(tokenizer):
    own = Tokenization(tokenizer, TextConfig(max_query_tokens=6))
    [ids] = own.encode([" ".join(TEXTS)], "question")
    assert len(ids) == 6
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_a_call_for_one_side_leaves_the_other_as_it_was(tokenizer):
    own = Tokenization(tokenizer, TextConfig(max_query_tokens=4, max_passage_tokens=12))
    text = " ".join(TEXTS)
    lengths = [len(own.encode([text], side)[0]) for side in ("question", "passage", "question", "passage")]
    assert lengths == [4, 12, 4, 12]


@pytest.mark.parametrize(
    "other",
    [
        TextConfig(query_prefix="q: "),
        TextConfig(passage_prefix="p: "),
        TextConfig(max_query_tokens=65),
        TextConfig(max_passage_tokens=129),
    ],
    ids=["query prefix", "passage prefix", "query length", "passage length"],
)
def test_the_fingerprint_changes_with_the_text_settings(tokenizer, other):
    assert Tokenization(tokenizer, TextConfig()).fingerprint() != Tokenization(tokenizer, other).fingerprint()


def test_the_fingerprint_changes_with_the_tokenizer(tokenizer):
    other = train_tokenizer(TEXTS[:3], 400)
    assert Tokenization(tokenizer, TextConfig()).fingerprint() != Tokenization(other, TextConfig()).fingerprint()


def test_the_fingerprint_does_not_change_with_earlier_calls():
    fresh = train_tokenizer(TEXTS, 400)
    before = Tokenization(fresh, TextConfig())
    found = before.fingerprint()
    fresh(TEXTS, truncation=True, max_length=5, padding="max_length")  # leaves both in the tokenizer
    before.encode(TEXTS, "passage")
    assert before.fingerprint() == Tokenization(fresh, TextConfig()).fingerprint() == found


def test_a_tokenizer_trained_twice_is_the_same_one():
    texts = [tiny.passage(x, i) for x in tiny.LANGUAGES for i in range(40)] + TEXTS
    one, other = train_tokenizer(texts, 500), train_tokenizer(iter(texts), 500)
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()
    assert len(one) <= 500


def test_pieces_join_the_letters_of_frequent_words(tokenizer):
    assert tokenizer.tokenize("the cat") == ["▁the", "▁cat"]
    assert tokenizer.unk_token_id in tokenizer("Ж§")["input_ids"]


def test_it_pickles_small_and_says_the_same(tokenizer):
    own = Tokenization(tokenizer, tiny.TEXT)
    own.encode(TEXTS, "question")
    sent = pickle.dumps(own)
    assert len(sent) < len(own.definition) + 1000
    back = pickle.loads(sent)
    assert back.fingerprint() == own.fingerprint()
    for one, other in zip(back.encode(TEXTS, "passage"), own.encode(TEXTS, "passage"), strict=True):
        assert np.array_equal(one, other)


def test_ids_take_two_bytes_while_the_vocabulary_allows_it(tokenizer):
    own = Tokenization(tokenizer, TextConfig())
    assert own.num_tokens == len(tokenizer)
    own.num_tokens = 65_536
    assert own.token_type == own.encode(["x"], "question")[0].dtype == "uint16"
    own.num_tokens = 65_537
    assert own.token_type == own.encode(["x"], "question")[0].dtype == "int32"


def test_a_saved_tokenizer_is_loaded_with_its_fingerprint(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(ModelConfig(path=str(tmp_path)))
    assert Tokenization(loaded, TextConfig()).fingerprint() == Tokenization(tokenizer, TextConfig()).fingerprint()


def test_the_tokenizer_of_a_sentence_transformers_folder_is_that_of_its_first_module(tmp_path):
    tiny.make_encoder(tmp_path / "encoder")
    loaded = load_tokenizer(ModelConfig(path=str(tmp_path / "encoder")))
    assert Tokenization(loaded, tiny.TEXT).fingerprint() == tiny.tokenization().fingerprint()


def test_a_folder_without_tokenizer_is_told_with_the_way_out(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no tokenizer .*write the folder of a saved model") as told:
        load_tokenizer(ModelConfig(path=str(tmp_path)))
    assert "\n" not in str(told.value)
