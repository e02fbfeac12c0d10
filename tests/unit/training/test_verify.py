"""Texts that were trained on are told from those that were held out, not drawn, or never there."""

from __future__ import annotations

import pytest

from hbt_ray.data.token_store import TokenStore
from hbt_ray.sampling.collate import build_batch
from hbt_ray.training.training_record import TrainingRecord
from hbt_ray.training.verify import verify_texts
from tests.helpers.tiny_corpus import make_store, negative, passage, question, tokenization
from tests.helpers.tiny_runs import tiny_config


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TokenStore:
    folder = tmp_path_factory.mktemp("store")
    make_store(folder, items=60, negatives=1)
    return TokenStore.open(folder)


def record(store, tmp_path, steps=2, **sections):
    config = tiny_config(tmp_path, **sections)
    return TrainingRecord.of(config, store.manifest, steps)


def drawn_texts(store, of_training):
    """Return the token ids of every text in the batches, each with the first step that has it."""
    found = {}
    sampler = of_training.sampler(store.manifest)
    for number in range(of_training.batches):
        batch = build_batch(sampler.batch(number), store)
        for ids, lengths in ((batch.query_ids, batch.query_lengths), (batch.passage_ids, batch.passage_lengths)):
            start = 0
            for length in lengths:
                found.setdefault(tuple(ids[start : start + length].tolist()), number // of_training.batches_per_step)
                start += length
    return found


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"mix": {"hard_negatives": 1}},
        {"mix": {"strategy": "one-to-k", "positive_languages": 2}},
        {"loss": {"consistency": 1.0}},
        {"train": {"gradient_accumulation": 2}},
    ],
    ids=["hybrid", "negatives", "one-to-k", "translations", "accumulation"],
)
def test_verdict_is_that_of_the_batches(store, tmp_path, sections):
    of_training = record(store, tmp_path, **sections)
    drawn = drawn_texts(store, of_training)
    tokenizer = tokenization()
    languages = [(x, item) for item in range(60) for x in ("de", "en", "fr")[: 2 if item % 5 == 4 else 3]]
    for side, make in (("question", question), ("passage", passage), ("passage", lambda x, i: negative(x, i, 0))):
        texts = [make(x, item) for x, item in languages]
        encoded = tokenizer.encode(texts, side)
        for ids, found in zip(encoded, verify_texts(of_training, store, tokenizer, texts), strict=True):
            whole = [use for use in found.uses if use.place.whole]
            assert whole
            first = min((use.first_step for use in whole if use.times), default=None)
            assert first == drawn.get(tuple(ids.tolist()))
            assert (found.verdict == "trained on") == (first is not None)


def test_text_that_the_store_has_not_is_not_found(store, tmp_path):
    [found] = verify_texts(record(store, tmp_path), store, tokenization(), ["nothing of the kind"])
    assert (found.verdict, found.uses) == ("not found", ())


def test_part_of_a_passage_is_trained_on_as_a_part(store, tmp_path):
    of_training = record(store, tmp_path, steps=40)
    [found] = verify_texts(of_training, store, tokenization(), ["it is the number 9 so so so"])
    assert found.verdict == "trained on, as a part"
