"""Texts are found in a store whole or as a part, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.data.text_search import MIN_PART, _matches, _Pattern, find_texts
from hbt_ray.data.token_store import TokenStore
from tests.helpers.tiny_corpus import make_store, negative, passage, question, tokenization

STRETCH = "it is the number 9 so so so"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TokenStore:
    folder = tmp_path_factory.mktemp("store")
    make_store(folder, items=20, negatives=1)
    return TokenStore.open(folder)


def places(store, text):
    return {
        (store.item_ids(one.source, np.array([one.row]))[0], one.side, one.language, one.whole)
        for one in find_texts(store, tokenization(), [text])
    }


def test_whole_texts_are_found_on_their_side(store):
    assert ("item-0007", "question", "de", True) in places(store, question("de", 7))
    assert ("item-0003", "passage", "fr", True) in places(store, passage("fr", 3))
    assert ("item-0004", "negative", "en", True) in places(store, negative("en", 4, 0))


def test_text_is_found_as_a_part_of_longer_ones(store):
    found = places(store, STRETCH)
    assert {("item-0009", "passage", language, False) for language in ("de", "en")} <= found
    assert all(item in ("item-0009", "item-0019") and not whole for item, _, _, whole in found)


def test_text_of_few_tokens_is_found_only_whole(store):
    assert len(tokenization().encode_plain(["it is"])[0]) < MIN_PART
    assert places(store, "it is") == set()


def test_text_that_the_store_has_not_is_not_found(store):
    assert places(store, "en what is another thing that nobody wrote into this corpus") == set()


def test_long_text_is_found_where_it_was_truncated(tmp_path):
    pair_tokenizer = tokenization()
    text = passage("en", 4) + " so" * 50
    assert len(pair_tokenizer.encode([text], "passage")[0]) == pair_tokenizer.text.max_passage_tokens
    from hbt_ray.data.manifest import write_manifest
    from hbt_ray.data.token_store import TokenItem, write_shard

    item = TokenItem(
        "long",
        {"en": pair_tokenizer.encode(["why"], "question")[0]},
        {"en": pair_tokenizer.encode([text], "passage")[0]},
        {},
    )
    written = write_shard(tmp_path, "s", "train", 0, [item], pair_tokenizer.token_type)
    write_manifest(tmp_path, [written], text_fingerprint="x", token_type=pair_tokenizer.token_type)
    assert places(TokenStore.open(tmp_path), text) == {("long", "passage", "en", True)}


@given(
    st.lists(st.lists(st.integers(0, 2), max_size=12), min_size=1, max_size=6),
    st.lists(st.integers(0, 2), min_size=1, max_size=10),
    st.booleans(),
)
def test_matches_are_those_of_a_plain_search(sequences, wanted, whole):
    ids = np.array([one for sequence in sequences for one in sequence], np.int32)
    starts = np.cumsum([0, *map(len, sequences)])
    found = {index for index, _ in _matches(ids, starts, [_Pattern(0, np.array(wanted, np.int32), whole)])}
    size = len(wanted)
    assert found == {
        index
        for index, sequence in enumerate(sequences)
        if (sequence == wanted if whole else any(sequence[n : n + size] == wanted for n in range(len(sequence))))
    }
