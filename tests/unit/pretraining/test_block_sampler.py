"""The order of a pretraining: full blocks, the same from anywhere, each language's own whatever others there are."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.config import PretrainConfig
from hbt_ray.data.manifest import StoreManifest, write_manifest
from hbt_ray.data.token_store import TokenItem, TokenStore, write_shard
from hbt_ray.errors import ConfigError, StoreError
from hbt_ray.pretraining.batch import TokenBlockBatch
from hbt_ray.pretraining.block_sampler import TextBlockSampler
from hbt_ray.pretraining.collate import build_blocks, build_simcse_pairs
from hbt_ray.pretraining.masking import IGNORE_INDEX, MaskRules
from hbt_ray.pretraining.text_streams import find_stream, read_window
from hbt_ray.sampling import rank_slice
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.utils.arrow import dataclass_from_arrow, dataclass_to_arrow
from tests.helpers import tiny_corpus

RULES = MaskRules.of(tiny_corpus.tokenizer(), 0.15, "tiny")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TokenStore:
    folder = tmp_path_factory.mktemp("texts")
    tiny_corpus.make_store(folder, items=60, shards=3)
    return TokenStore.open(folder)


def plan(store: TokenStore, languages: tuple[str, ...] | None = None, seed: int = 3, **own) -> TextBlockSampler:
    defaults = {"block_tokens": 32, "global_batch_blocks": 8, "chunk_blocks": 2}
    return TextBlockSampler(store.manifest, PretrainConfig(**defaults | own), seed=seed, languages=languages)


def texts_of(store: TokenStore, language: str) -> list[list[int]]:
    """Every text of a language as the store holds them, by side, shard and row."""
    found = []
    for side in ("question", "passage"):
        for number in range(len(store.manifest.sources["numbers"].shards["train"])):
            values, offsets = store.column("numbers", side, language, number)
            pieces = (values[a:b].tolist() for a, b in itertools.pairwise(offsets))
            found += [ids for ids in pieces if ids]
    return found


# What is read


@given(start=st.integers(0, 10**6), tokens=st.integers(1, 200), language=st.sampled_from(tiny_corpus.LANGUAGES))
def test_a_window_is_what_stands_there_when_all_texts_are_joined_to_a_ring(store, start, tokens, language):
    texts = texts_of(store, language)
    ring = [token for text in texts for token in text]
    owner = [number for number, text in enumerate(texts) for _ in text]
    stream = find_stream(store.manifest, (language,), "train", 0)
    assert (stream.tokens, stream.texts) == (len(ring), len(texts))
    start %= len(ring)
    ids, lengths = read_window(store, stream, start, tokens)
    places = [(start + n) % len(ring) for n in range(tokens)]
    assert ids.tolist() == [ring[place] for place in places]
    # A text ends where the next token is of another, or where the ring's end comes.
    ends = [n + 1 for n in range(tokens - 1) if owner[places[n]] != owner[places[n + 1]] or places[n + 1] == 0]
    assert lengths.tolist() == np.diff([0, *ends, tokens]).tolist()


def test_joined_texts_are_an_items_two_translations_one_behind_the_other(store):
    stream = find_stream(store.manifest, ("fr", "de"), "train", 0)
    ids, lengths = read_window(store, stream, 0, stream.tokens)
    pairs = [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]
    expected = set()
    made_by = tiny_corpus.tokenization()
    for item in range(60):
        if item % 5 != 4:  # those lack French
            for side, text in (("question", tiny_corpus.question), ("passage", tiny_corpus.passage)):
                one, other = (made_by.encode([text(x, item)], side)[0].tolist() for x in ("fr", "de"))
                expected.add(tuple(one + other))
    assert sorted(map(tuple, pairs)) == sorted(expected)


# Which blocks


@pytest.mark.parametrize("objective", ["mlm", "tlm"])
def test_an_epoch_of_a_language_has_every_token_but_a_rest_smaller_than_a_block(store, objective):
    own = plan(store, ("de", "en"), objective=objective)
    for number, stream in enumerate(own.streams):
        blocks = stream.tokens // 32
        for epoch in (0, 1):
            begins = [int(own._order(number, k // 64)[k % 64]) for k in range(epoch * blocks, (epoch + 1) * blocks)]
            places = [(begin + n) % stream.tokens for begin in begins for n in range(32)]
            assert len(set(places)) == len(places) == blocks * 32 > stream.tokens - 32


@settings(max_examples=20)
@given(step=st.integers(0, 500), num_ranks=st.sampled_from([1, 2, 3, 4]))
@pytest.mark.parametrize("objective", ["mlm", "tlm", "contrastive"])
def test_any_process_builds_any_ranks_blocks_and_they_join_to_the_batch(store, objective, step, num_ranks):
    whole, fresh = plan(store, objective=objective), plan(store, objective=objective)
    parts = [fresh.batch(step, rank_slice(8, num_ranks, rank, 2)) for rank in reversed(range(num_ranks))][::-1]
    spec = whole.batch(step)
    assert [part.first_block for part in parts] == [rank_slice(8, num_ranks, r, 2).start for r in range(num_ranks)]
    for name in ("streams", "places"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(spec, name))
    if objective == "contrastive":
        built = [build_simcse_pairs(part, fresh, store) for part in parts]
        joined, of = build_simcse_pairs(spec, whole, store), ("query_ids", "query_lengths", "query_keys")
    else:
        built = [build_blocks(part, fresh, store, RULES, seed=3) for part in parts]
        joined, of = build_blocks(spec, whole, store, RULES, seed=3), ("ids", "targets", "lengths", "texts_per_block")
    for name in of:
        assert np.array_equal(np.concatenate([getattr(one, name) for one in built]), getattr(joined, name))


def test_every_block_is_full_so_a_budget_of_tokens_is_the_same_whatever_the_languages(store):
    for languages in (None, ("de",), ("en", "fr")):
        own = plan(store, languages)
        for step in range(5):
            blocks = build_blocks(own.batch(step), own, store, RULES, seed=3)
            assert (blocks.num_blocks, blocks.block_tokens, len(blocks.ids)) == (8, 32, 256)
            assert blocks.lengths.sum() == 256
            ends = np.cumsum(blocks.lengths)[np.cumsum(blocks.texts_per_block) - 1]
            assert ends.tolist() == [32 * (n + 1) for n in range(8)]  # no text reaches over a block's end


@pytest.mark.parametrize("objective", ["mlm", "contrastive"])
def test_a_languages_blocks_come_in_the_same_order_whatever_other_languages_there_are(store, objective):
    def order(languages: tuple[str, ...] | None) -> list[int]:
        own = plan(store, languages, objective=objective)
        german = next(n for n, stream in enumerate(own.streams) if stream.languages == ("de",))
        specs = [own.batch(step) for step in range(60)]
        return [p for spec in specs for s, p in zip(spec.streams, spec.places, strict=True) if s == german]

    alone, among = order(("de",)), order(None)
    assert len(among) > 60
    assert among == alone[: len(among)]


def test_languages_are_drawn_by_a_power_of_their_size(store):
    for exponent in (0.0, 0.5, 1.0):
        own = plan(store, language_sampling=exponent)
        weights = np.array([stream.tokens**exponent for stream in own.streams])
        assert own.shares == pytest.approx(weights / weights.sum())
        drawn = np.concatenate([own.batch(step).streams for step in range(500)])
        for share, count in zip(own.shares, np.bincount(drawn, minlength=3), strict=True):
            assert abs(count / 4000 - share) < 5 * math.sqrt(share * (1 - share) / 4000)


def test_a_contrastive_batch_is_of_one_language_and_no_text_comes_twice_in_an_epoch(store):
    own = plan(store, ("de",), objective="contrastive")
    texts = own.streams[0].texts
    assert texts == 120
    epoch = np.concatenate([own.batch(step).places for step in range(texts // 8)])
    assert sorted(epoch.tolist()) == list(range(120))
    mixed = plan(store, objective="contrastive")
    assert all(len(set(mixed.batch(step).streams.tolist())) == 1 for step in range(50))
    assert len({int(mixed.batch(step).streams[0]) for step in range(50)}) == 3


def test_masks_follow_from_seed_step_and_the_blocks_place(store):
    own = plan(store, ("de",))
    one = build_blocks(own.batch(7), own, store, RULES, seed=3)
    again = build_blocks(own.batch(7, slice(4, 6)), own, store, RULES, seed=3)
    assert np.array_equal(again.targets, one.targets[4 * 32 : 6 * 32])
    other = build_blocks(own.batch(7), own, store, RULES, seed=4)
    assert not np.array_equal(other.targets, one.targets)
    half = build_blocks(own.batch(7), own, store, dataclasses.replace(RULES, share=0.5), seed=3)
    told = (half.targets != IGNORE_INDEX).reshape(8, 32)
    assert len({tuple(row) for row in told.tolist()}) == 8


def test_batches_come_back_from_arrow(store):
    own = plan(store)
    blocks = build_blocks(own.batch(2), own, store, RULES, seed=3)
    back = dataclass_from_arrow(dataclass_to_arrow(blocks), TokenBlockBatch)
    for name in TokenBlockBatch.__dataclass_fields__:
        assert np.array_equal(getattr(back, name), getattr(blocks, name)), name


def test_a_text_and_its_twin_are_equal_and_known_to_be(store):
    own = plan(store, objective="contrastive")
    batch = build_simcse_pairs(own.batch(0), own, store)
    assert isinstance(batch, PairBatch)
    assert np.array_equal(batch.query_ids, batch.passage_ids)
    assert np.array_equal(batch.query_keys, batch.passage_keys)
    assert (batch.num_pairs, batch.num_negatives) == (8, 0)


# Plain text


def test_items_without_questions_give_their_passages_alone(tmp_path):
    nothing = np.empty(0, "uint16")
    items = [TokenItem(str(n), {"de": nothing}, {"de": np.arange(n + 1, dtype="uint16")}, {}) for n in range(10)]
    shard = write_shard(tmp_path, "numbers", "train", 0, items, "uint16")
    write_manifest(tmp_path, [shard], text_fingerprint="text", token_type="uint16")
    stream = find_stream(TokenStore.open(tmp_path).manifest, ("de",), "train", 0)
    assert [stretch.side for stretch in stream.stretches] == ["passage"]
    assert (stream.texts, stream.tokens) == (10, 55)


# Refusals


@pytest.mark.parametrize(
    ("languages", "own", "message"),
    [
        (("de", "xx"), {}, "'xx' is not in the corpora; there are de, en, fr"),
        (("de",), {"objective": "tlm"}, "no item has two of de; add a parallel corpus or write pretrain.objective=mlm"),
        (None, {"block_tokens": 4096}, "fr has .* tokens to pretrain on, less than a block of 4096; write a smaller"),
        (None, {"objective": "contrastive", "global_batch_blocks": 110}, "fr has 96 texts .* takes 110"),
    ],
)
def test_what_cannot_be_had_is_told_in_one_sentence(store, languages, own, message):
    with pytest.raises(ConfigError, match=message):
        plan(store, languages, **own)


def test_a_store_that_does_not_count_its_tokens_is_to_be_prepared_again(store):
    old = store.manifest.to_json().replace('"tokens"', '"forgotten"')
    with pytest.raises(StoreError, match="does not count its tokens; delete it, and prepare it again"):
        TextBlockSampler(StoreManifest.from_json(old), PretrainConfig(), seed=0)


def test_a_store_counts_the_tokens_of_each_run_and_column(tmp_path: Path):
    manifest = tiny_corpus.make_store(tmp_path)
    store = TokenStore.open(tmp_path)
    for number, shard in enumerate(manifest.sources["numbers"].shards["train"]):
        for name, of_runs in shard.tokens.items():
            side, _, language = name.partition("/")
            _, offsets = store.column("numbers", side, language, number)
            ends = np.cumsum([0] + [items for _, items in shard.runs])
            assert of_runs == tuple(np.diff(offsets[ends]).tolist())
