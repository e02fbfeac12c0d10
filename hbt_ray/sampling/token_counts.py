"""How many tokens the batches of a training have, so that methods are compared at equal work.

Every token of a batch is encoded once in each step: queries, their translations, positives and hard negatives, without
padding. A batch is a function of its number, so its tokens are counted before any training.
"""

from __future__ import annotations

from collections.abc import Iterator

from hbt_ray.config import RunConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.sampling.collate import build_batch
from hbt_ray.sampling.factory import training_sampler
from hbt_ray.utils.progress import track


def tokens_per_step(config: RunConfig, store: TokenStore) -> Iterator[int]:
    """Yield the tokens of each optimizer step, without an end. Raise ConfigError as `training_sampler` does."""
    sampler, batches = training_sampler(config, store.manifest), config.train.gradient_accumulation
    number = 0
    while True:
        tokens = 0
        for _ in range(batches):
            batch = build_batch(sampler.batch(number), store)
            tokens += int(batch.query_lengths.sum()) + int(batch.passage_lengths.sum())
            number += 1
        yield tokens


def encoded_tokens(config: RunConfig, store: TokenStore) -> int:
    """Return the tokens of all steps of a run."""
    steps = track(range(config.train.steps), f"counting tokens of {config.name}", "steps")
    return sum(tokens for _, tokens in zip(steps, tokens_per_step(config, store), strict=False))


def steps_of_tokens(config: RunConfig, store: TokenStore, tokens: int) -> int:
    """Return the smallest number of steps that have at least as many tokens, at least 1."""
    total = 0
    for step, of_step in enumerate(tokens_per_step(config, store), start=1):
        total += of_step
        if total >= tokens:
            return step
    raise AssertionError("a sampler has no last batch")
