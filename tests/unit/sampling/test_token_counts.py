"""Tokens of a run's steps, counted before it trains."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from hbt_ray.config import MixConfig, RunConfig, TrainConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.sampling.token_counts import encoded_tokens, steps_of_tokens, tokens_per_step
from tests.helpers import tiny_corpus


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder: Path = tmp_path_factory.mktemp("tokens") / "store"
    tiny_corpus.make_store(folder, negatives=2)
    return TokenStore.open(folder)


def run_config(strategy: str = "x-x-mono", accumulated: int = 1, **mix) -> RunConfig:
    train = TrainConfig(steps=5, global_batch_pairs=8, chunk_pairs=2, gradient_accumulation=accumulated)
    return RunConfig(mix=MixConfig(strategy=strategy, **mix), train=train, seed=3)


def test_tokens_of_a_step_are_those_of_its_texts(store: TokenStore):
    config = run_config(hard_negatives=1)
    sampler = tiny_corpus.make_sampler(store, strategy="x-x-mono", hard_negatives=1)
    pair_tokenizer = tiny_corpus.tokenization()
    for step, tokens in enumerate(itertools.islice(tokens_per_step(config, store), 5)):
        spec = sampler.batch(step)
        [language] = set(spec.query_languages.tolist())
        items = [int(name.removeprefix("item-")) for name in store.item_ids("numbers", spec.rows)]
        questions = pair_tokenizer.encode([tiny_corpus.question(language, item) for item in items], "question")
        passages = [tiny_corpus.passage(language, item) for item in items]
        negatives = [tiny_corpus.negative(language, item, 0) for item in items]
        assert tokens == sum(map(len, [*questions, *pair_tokenizer.encode(passages + negatives, "passage")]))


def test_accumulated_batches_count_in_their_step(store: TokenStore):
    single = list(itertools.islice(tokens_per_step(run_config(), store), 6))
    double = list(itertools.islice(tokens_per_step(run_config(accumulated=2), store), 3))
    assert double == [single[0] + single[1], single[2] + single[3], single[4] + single[5]]


def test_fewest_steps_have_at_least_the_tokens(store: TokenStore):
    tokens = encoded_tokens(run_config(), store)
    assert tokens == sum(itertools.islice(tokens_per_step(run_config(), store), 5))
    assert [steps_of_tokens(run_config(), store, count) for count in (1, tokens - 1, tokens, tokens + 1)] == [
        1,
        5,
        5,
        6,
    ]
    of_three = run_config("one-to-k", positive_languages=3)
    assert steps_of_tokens(of_three, store, tokens) < 5
