"""Text streams: what a window of tokens holds."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.config import PretrainConfig
from hbt_ray.data.manifest import StoreManifest, write_manifest
from hbt_ray.data.token_store import TokenItem, TokenStore, write_shard
from hbt_ray.errors import StoreError
from hbt_ray.pretraining.block_sampler import TextBlockSampler
from hbt_ray.pretraining.text_streams import find_stream, read_window
from tests.helpers import tiny_corpus


def texts_of(token_store: TokenStore, language: str) -> list[list[int]]:
    """Return every text of a language, ordered by field, shard and row."""
    found = []
    for field in ("question", "passage"):
        for number in range(len(token_store.manifest.sources["numbers"].shards["train"])):
            values, offsets = token_store.column("numbers", field, language, number)
            pieces = (values[a:b].tolist() for a, b in itertools.pairwise(offsets))
            found += [ids for ids in pieces if ids]
    return found


@given(start=st.integers(0, 10**6), tokens=st.integers(1, 200), language=st.sampled_from(tiny_corpus.LANGUAGES))
def test_window_is_part_of_all_texts_joined_to_a_ring(token_store, start, tokens, language):
    texts = texts_of(token_store, language)
    ring = [token for text in texts for token in text]
    owner = [number for number, text in enumerate(texts) for _ in text]
    stream = find_stream(token_store.manifest, (language,), "train", 0)
    assert (stream.tokens, stream.texts) == (len(ring), len(texts))
    start %= len(ring)
    ids, lengths = read_window(token_store, stream, start, tokens)
    positions = [(start + n) % len(ring) for n in range(tokens)]
    assert ids.tolist() == [ring[position] for position in positions]
    # A text ends before a token of another text, and at the end of the ring.
    ends = [n + 1 for n in range(tokens - 1) if owner[positions[n]] != owner[positions[n + 1]] or positions[n + 1] == 0]
    assert lengths.tolist() == np.diff([0, *ends, tokens]).tolist()


def test_joined_texts_are_an_item_in_two_languages(token_store):
    stream = find_stream(token_store.manifest, ("fr", "de"), "train", 0)
    ids, lengths = read_window(token_store, stream, 0, stream.tokens)
    pairs = [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]
    expected = set()
    tokenization = tiny_corpus.tokenization()
    for item in range(60):
        if item % 5 != 4:  # those lack French
            for field, text in (("question", tiny_corpus.question), ("passage", tiny_corpus.passage)):
                one, other = (tokenization.encode([text(x, item)], field)[0].tolist() for x in ("fr", "de"))
                expected.add(tuple(one + other))
    assert sorted(map(tuple, pairs)) == sorted(expected)


def test_stream_of_items_without_questions_has_their_passages(tmp_path):
    nothing = np.empty(0, "uint16")
    items = [TokenItem(str(n), {"de": nothing}, {"de": np.arange(n + 1, dtype="uint16")}, {}) for n in range(10)]
    shard = write_shard(tmp_path, "numbers", "train", 0, items, "uint16")
    write_manifest(tmp_path, [shard], text_fingerprint="text", token_type="uint16")
    stream = find_stream(TokenStore.open(tmp_path).manifest, ("de",), "train", 0)
    assert [row_range.field for row_range in stream.row_ranges] == ["passage"]
    assert (stream.texts, stream.tokens) == (10, 55)


def test_store_without_token_counts_is_an_error(token_store):
    old = token_store.manifest.to_json().replace('"tokens"', '"forgotten"')
    with pytest.raises(StoreError, match="does not count its tokens; delete it, and prepare it again"):
        TextBlockSampler(StoreManifest.from_json(old), PretrainConfig(), seed=0)


def test_token_counts_of_a_store_are_those_of_its_columns(tmp_path: Path):
    manifest = tiny_corpus.make_store(tmp_path)
    store = TokenStore.open(tmp_path)
    for number, shard in enumerate(manifest.sources["numbers"].shards["train"]):
        for name, of_runs in shard.tokens.items():
            field, _, language = name.partition("/")
            _, offsets = store.column("numbers", field, language, number)
            ends = np.cumsum([0] + [items for _, items in shard.runs])
            assert of_runs == tuple(np.diff(offsets[ends]).tolist())
