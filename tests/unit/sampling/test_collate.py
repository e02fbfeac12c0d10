"""A batch has the contents of its spec, whichever process builds it and however many ranks share it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.config import MixConfig
from hbt_ray.data.manifest import Split, write_manifest
from hbt_ray.data.token_store import TokenStore, WrittenShard, write_shard
from hbt_ray.data.tokenizer import PairTokenizer
from hbt_ray.sampling import BatchSpec, HybridStepSampler, rank_slice
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.sampling.collate import build_batch, build_batch_with_global_ids, hash_sequences
from hbt_ray.utils.arrow import dataclass_from_arrow, dataclass_to_arrow
from tests.helpers import tiny_corpus
from tests.helpers.slow import SLOW_TESTS

MIXES = [
    {"strategy": "x-x-mono"},
    {"strategy": "x-y"},
    {"strategy": "x-y", "cross_pairs": "mixed"},
    {"strategy": "x-x"},
    {"strategy": "x-y", "hard_negatives": 2},
    {"strategy": "x-x", "hard_negatives": 1},
    {"strategy": "one-to-k", "positive_languages": 3},
    {"strategy": "one-to-k", "hard_negatives": 2},
    {"strategy": "x-x-mono", "second_questions": True},
    {"strategy": "x-x", "second_questions": True, "hard_negatives": 1},
    {"strategy": "one-to-k", "second_questions": True},
]
RANKS = (1, 2, 3, 4, 8)
ARRAYS = [name for name in PairBatch.__dataclass_fields__ if name.startswith(("query_", "passage_", "second_"))]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TokenStore:
    folder: Path = tmp_path_factory.mktemp("store")
    tiny_corpus.make_store(folder, shards=3, negatives=2, english_only=20)
    return TokenStore.open(folder)


@pytest.fixture(scope="module")
def tokenization() -> PairTokenizer:
    return tiny_corpus.tokenization()


def sequences(ids: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
    ends = np.cumsum(lengths)
    assert ends[-1] == len(ids)
    return [ids[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)]


def items_of(store: TokenStore, spec: BatchSpec) -> list[int]:
    return [int(name.removeprefix("item-")) for name in store.item_ids(spec.source, spec.rows)]


def tokens(tokenizer: PairTokenizer, side, *texts: str) -> list[list[int]]:
    return [ids.tolist() for ids in tokenizer.encode(texts, side)]


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_every_rank_knows_the_ids_of_the_whole_batch(store, mix):
    spec = tiny_corpus.make_sampler(store, 13, **mix).batch(5)
    slices = [build_batch_with_global_ids(spec, store, rank, 3, 2) for rank in range(3)]
    expected = {int(x) for s in slices for texts in (s.query_ids, s.passage_ids) for x in texts}
    for rank, found in enumerate(slices):
        assert found.global_ids.tolist() == sorted(expected)
        assert np.array_equal(found.passage_ids, build_batch(spec, store, rank, 3, 2).passage_ids)


@pytest.mark.parametrize("num_ranks", RANKS)
@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_slices_of_all_ranks_join_to_the_batch(store, mix, num_ranks):
    sampler = tiny_corpus.make_sampler(store, 13, **mix)  # 13 pairs: no number of ranks but 1 divides them
    for step in (0, 5, 11):
        spec = sampler.batch(step)
        whole = build_batch(spec, store)
        slices = [build_batch(spec, store, rank, num_ranks) for rank in range(num_ranks)]
        assert [s.first_pair for s in slices] == np.cumsum([0, *(s.num_pairs for s in slices[:-1])]).tolist()
        assert {(s.step, s.global_pairs, s.kind, s.positives, s.num_negatives) for s in slices} == {
            (step, 13, spec.kind, whole.positives, whole.num_negatives)
        }
        # The questions of all ranks, then the translations of all ranks.
        of_rank = [(s.num_pairs, sequences(s.query_ids, s.query_lengths)) for s in slices]
        queries = [one for count, questions in of_rank for one in questions[:count]]
        seconds = [one for count, questions in of_rank for one in questions[count:]]
        assert queries + seconds == sequences(whole.query_ids, whole.query_lengths)
        assert [s.first_pair + pair for s in slices for pair in s.translation_of] == whole.translation_of.tolist()
        # The positives of all ranks, then the negatives of all ranks.
        of_rank = [(s.num_pairs * s.positives, sequences(s.passage_ids, s.passage_lengths)) for s in slices]
        positives = [one for count, passages in of_rank for one in passages[:count]]
        negatives = [one for count, passages in of_rank for one in passages[count:]]
        assert positives + negatives == sequences(whole.passage_ids, whole.passage_lengths)
        assert [k for s in slices for k in s.query_keys] == whole.query_keys.tolist()
        keys = [k for s in slices for k in s.passage_keys[: s.num_pairs * s.positives]]
        keys += [k for s in slices for k in s.passage_keys[s.num_pairs * s.positives :]]
        assert keys == whole.passage_keys.tolist()


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_batch_has_the_texts_that_the_spec_names(store, tokenization, mix):
    sampler = tiny_corpus.make_sampler(store, 8, **mix)
    kinds = set()
    for step in range(6):
        spec = sampler.batch(step)
        batch = build_batch(spec, store)
        kinds.add(batch.kind)
        items = items_of(store, spec)
        questions = [tiny_corpus.question(x, i) for x, i in zip(spec.query_languages, items, strict=True)]
        each = np.repeat(items, spec.positives)
        passages = [tiny_corpus.passage(x, i) for x, i in zip(spec.passage_languages, each, strict=True)]
        translated = [pair for pair, language in enumerate(spec.second_languages) if language]
        questions += [tiny_corpus.question(spec.second_languages[pair], items[pair]) for pair in translated]
        assert sequences(batch.query_ids, batch.query_lengths) == tokens(tokenization, "question", *questions)
        assert batch.translation_of.tolist() == translated
        assert batch.num_pairs == len(batch.query_keys) == 8
        found = sequences(batch.passage_ids, batch.passage_lengths)
        assert found[: 8 * spec.positives] == tokens(tokenization, "passage", *passages)
        assert batch.query_ids.dtype == batch.passage_ids.dtype == batch.query_lengths.dtype == np.int32
    of_strategy = {"x-x-mono": "monolingual", "x-y": "cross-lingual", "x-x": "mixed", "one-to-k": "one-to-k"}
    assert kinds == {of_strategy[mix["strategy"]]}


@pytest.mark.parametrize("num_ranks", RANKS)
@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_spec_of_a_rank_builds_the_ranks_slice_of_the_batch(store, mix, num_ranks):
    sampler, other = (tiny_corpus.make_sampler(store, 13, **mix) for _ in range(2))
    for step in (0, 1, 2, 40, 41, 7):  # of several epochs
        for rank in range(num_ranks):
            expected = build_batch(sampler.batch(step), store, rank, num_ranks, 3)
            part = build_batch(other.batch(step, rank_slice(13, num_ranks, rank, 3)), store)
            for name in PairBatch.__dataclass_fields__:
                assert np.array_equal(getattr(part, name), getattr(expected, name)), name


def test_mixed_batch_has_pairs_of_several_languages(store):
    spec = tiny_corpus.make_sampler(store, 16, strategy="x-x").batch(0)
    assert (spec.query_languages == spec.passage_languages).all()
    assert len(set(spec.query_languages)) > 1
    spec = tiny_corpus.make_sampler(store, 16, strategy="x-y", cross_pairs="mixed").batch(0)
    assert (spec.query_languages != spec.passage_languages).all()
    assert len(set(zip(spec.query_languages, spec.passage_languages, strict=True))) > 2


@pytest.mark.parametrize("strategy", ["x-y", "x-x"])
def test_hard_negatives_follow_the_positives_in_their_language(store, tokenization, strategy):
    spec = tiny_corpus.make_sampler(store, 4, strategy=strategy, hard_negatives=2).batch(3)
    batch = build_batch(spec, store)
    assert (batch.num_pairs, batch.num_negatives, len(batch.passage_lengths)) == (4, 2, 4 * 3)
    expected = [
        tiny_corpus.negative(language, item, place)
        for language, item in zip(spec.passage_languages, items_of(store, spec), strict=True)
        for place in range(2)
    ]
    assert sequences(batch.passage_ids, batch.passage_lengths)[4:] == tokens(tokenization, "passage", *expected)


def test_hard_negatives_of_several_positives_match_the_query(store, tokenization):
    spec = tiny_corpus.make_sampler(store, 4, strategy="one-to-k", positive_languages=3, hard_negatives=2).batch(3)
    batch = build_batch(spec, store)
    assert (batch.num_pairs, batch.positives, batch.num_negatives, len(batch.passage_lengths)) == (4, 3, 2, 4 * 5)
    expected = [
        tiny_corpus.negative(language, item, place)
        for language, item in zip(spec.query_languages, items_of(store, spec), strict=True)
        for place in range(2)
    ]
    assert sequences(batch.passage_ids, batch.passage_lengths)[12:] == tokens(tokenization, "passage", *expected)


def test_batch_without_negatives_has_a_passage_for_each_pair(store):
    batch = build_batch(tiny_corpus.make_sampler(store, 6).batch(0), store)
    assert (batch.num_negatives, len(batch.passage_lengths)) == (0, 6)


SEQUENCES = st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=12)


@settings(max_examples=200 if SLOW_TESTS else 50)
@given(texts=SEQUENCES)
def test_hashes_are_equal_for_equal_sequences_only(texts):
    ids = np.array([one for text in texts for one in text], np.int32)
    lengths = np.array([len(text) for text in texts], np.int32)
    keys = hash_sequences(ids, lengths)
    assert keys.dtype == np.int64
    assert keys.shape == (len(texts),)
    assert ((keys[:, None] == keys) == [[one == other for other in texts] for one in texts]).all()
    separately = [hash_sequences(np.array(text, np.int32), np.array([len(text)]))[0] for text in texts]
    assert separately == keys.tolist()  # whatever other sequences are hashed with it


@settings(max_examples=50, deadline=None)
@given(text=st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=6, unique=True))
def test_hash_depends_on_the_order_of_tokens(text):
    ids = np.array(text + text[::-1], np.int32)
    one, other = hash_sequences(ids, np.array([len(text)] * 2))
    assert one != other


def test_hashes_of_100_000_sequences_are_distinct():
    ids = np.stack(np.divmod(np.arange(100_000), 317)).T.ravel().astype(np.int32)
    assert len(np.unique(hash_sequences(ids, np.full(100_000, 2)))) == 100_000


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_batch_survives_arrow_unchanged(store, mix):
    spec = tiny_corpus.make_sampler(store, 8, **mix).batch(2)
    for rank in range(2):
        batch = build_batch(spec, store, rank, 2)
        table = dataclass_to_arrow(batch)
        assert table.num_rows == 1
        back = dataclass_from_arrow(table, PairBatch)
        assert (back.step, back.first_pair, back.global_pairs, back.kind) == (2, 4 * rank, 8, spec.kind)
        assert (back.positives, back.num_pairs, back.num_negatives) == (spec.positives, 4, spec.hard_negatives)
        for name in ARRAYS:
            assert getattr(back, name).dtype == getattr(batch, name).dtype, name
            assert np.array_equal(getattr(back, name), getattr(batch, name)), name


def test_arrow_table_holds_batches_with_and_without_translations(store):
    samplers = [
        tiny_corpus.make_sampler(store, 8, second_questions=seconds, strategy="x-y") for seconds in (False, True)
    ]
    batches = [build_batch(sampler.batch(2), store) for sampler in samplers]
    assert [len(batch.translation_of) for batch in batches] == [0, 8]
    table = pa.concat_tables(map(dataclass_to_arrow, batches))
    for place, batch in enumerate(batches):
        back = dataclass_from_arrow(table.slice(place, 1), PairBatch)
        assert all(np.array_equal(getattr(back, name), getattr(batch, name)) for name in PairBatch.__dataclass_fields__)


def test_items_in_one_language_have_no_translation(store):
    spec = tiny_corpus.make_sampler(store, 16, second_questions=True, strategy="x-x").batch(0)
    batch = build_batch(spec, store)
    is_english_only = [item >= 60 for item in items_of(store, spec)]
    assert 0 < sum(is_english_only) < 16
    assert batch.translation_of.tolist() == [pair for pair in range(16) if not is_english_only[pair]]


def test_batch_of_the_validation_split_reads_that_split(tmp_path, tokenization):
    def shard(split: Split, numbers: range) -> WrittenShard:
        return write_shard(
            tmp_path, "s", split, 0, [tiny_corpus.token_item(tokenization, n) for n in numbers], "uint16"
        )

    shards = [shard("train", range(8)), shard("validation", range(8, 12))]
    write_manifest(tmp_path, shards, text_fingerprint="text", token_type="uint16")
    held_out = TokenStore.open(tmp_path)
    sampler = HybridStepSampler(
        held_out.manifest, MixConfig(strategy="x-x-mono"), seed=1, global_batch_pairs=4, split="validation"
    )
    spec = sampler.batch(0)
    batch = build_batch(spec, held_out)
    [language] = set(spec.query_languages)
    expected = tokens(tokenization, "question", *(tiny_corpus.question(language, n) for n in range(8, 12)))
    assert sorted(sequences(batch.query_ids, batch.query_lengths)) == sorted(expected)


@pytest.mark.parametrize("mix", [{"strategy": "x-x", "hard_negatives": 2}, {"strategy": "one-to-k"}], ids=str)
def test_batch_has_the_components_of_its_items_and_negatives(tmp_path, mix):
    tokenizer = tiny_corpus.tokenization()
    items = [
        tiny_corpus.token_item(tokenizer, n, negatives=2, component=n % 3) for n in range(24)
    ]  # every third item is in none
    for n, item in enumerate(items):
        item.negative_components.update({x: [n % 5, 0] for x in ("de", "fr")})  # none is known in English
    shard = write_shard(tmp_path, "numbers", "train", 0, items, tokenizer.token_type)
    write_manifest(tmp_path, [shard], text_fingerprint="text", token_type=tokenizer.token_type)
    store = TokenStore.open(tmp_path)
    for step in range(3):
        spec = tiny_corpus.make_sampler(store, 8, **mix).batch(step)
        batch = build_batch(spec, store)
        numbers = items_of(store, spec)
        assert batch.query_components.tolist() == [n % 3 for n in numbers]
        of_negatives = [
            of_negative
            for n, language in zip(numbers, spec.passage_languages.tolist(), strict=False)
            for of_negative in ([0, 0] if language == "en" else [n % 5, 0])[: spec.hard_negatives]
        ]
        of_positives = [n % 3 for n in numbers for _ in range(spec.positives)]
        assert batch.passage_components.tolist() == of_positives + of_negatives
