"""Samplers and batches from a run's configuration and its store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from hbt_ray.config import RunConfig
from hbt_ray.data.manifest import Split, StoreManifest
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.sampling.collate import build_batch, build_batch_with_global_ids
from hbt_ray.sampling.hybrid_sampler import HybridStepSampler
from hbt_ray.sampling.rank_sharding import pairs_per_rank

MIN_VALIDATION_PAIRS = 16


def training_sampler(config: RunConfig, manifest: StoreManifest) -> HybridStepSampler:
    """Return the sampler of the training batches.

    Raises:
        ConfigError: a corpus is plain text, or the store cannot supply the configured batches.
    """
    if (plain_text := config.plain_text_corpus) is not None:
        raise ConfigError(
            f"corpus {plain_text!r} is plain text and has no questions; pretrain on it with `hbt pretrain`, "
            "and train on questions and passages"
        )
    return _sampler(config, manifest, "train", config.train.global_batch_pairs)


def training_batches(
    config: RunConfig, store: TokenStore, numbers: range, rank: int = 0, num_ranks: int = 1
) -> Iterator[PairBatch]:
    """Build a rank's slices of training batches; with the token ids of the whole batch if ranks may exchange by them.

    Raises:
        ConfigError: as `training_sampler`.
    """
    sampler, train = training_sampler(config, store.manifest), config.train
    if num_ranks == 1 or train.embedding_gradient == "all":
        return (build_batch(spec, store) for spec in sampler.rank_batches(numbers, rank, num_ranks, train.chunk_pairs))
    return (
        build_batch_with_global_ids(sampler.batch(number), store, rank, num_ranks, train.chunk_pairs)
        for number in numbers
    )


def validation_sampler(config: RunConfig, manifest: StoreManifest) -> HybridStepSampler | None:
    """Return the sampler of the validation batches, or None if the run has no validation.

    It draws from the held-out split with the training mix. If the mix changes, its last phase and the last alpha of a
    schedule are used throughout, so that validation losses of different steps are comparable.

    The number of pairs in a batch follows from the number of held-out items:

    1. Start with the items of the smallest stream, but at least MIN_VALIDATION_PAIRS: smaller streams are not drawn.
    2. Reduce it until each batch kind has at least one stream, and to at most the batch size of training.

    It does not depend on the number of workers, with which a run may be resumed.

    Raises:
        ConfigError: too few items are held out.
    """
    if not config.train.validation_every:
        return None

    too_few = ConfigError(
        f"validation_every={config.train.validation_every} needs more held-out items than there are; "
        "raise prepare.validation_share, or write train.validation_every=0"
    )
    try:
        sizes = defaultdict(list)
        for stream in _sampler(config, manifest, "validation", 2).streams:
            sizes[stream.kind].append(stream.num_items)
        smallest = min(min(of_kind) for of_kind in sizes.values())
        largest = min(max(of_kind) for of_kind in sizes.values())
        pairs = min(config.train.global_batch_pairs, largest, max(smallest, MIN_VALIDATION_PAIRS))
        sampler = _sampler(config, manifest, "validation", pairs)
    except ConfigError:
        raise too_few from None
    fewest = min(pairs_per_rank(pairs, config.train.max_workers, config.train.chunk_pairs))
    needs_negatives = not config.train.gather_negatives and not config.mix.hard_negatives
    if fewest < (2 if needs_negatives else 1):  # a pair needs a negative
        raise too_few
    return sampler


def validation_batches(config: RunConfig, store: TokenStore, rank: int = 0, num_ranks: int = 1) -> list[PairBatch]:
    """Build a rank's slices of the validation batches; an empty list if the run has no validation.

    Raises:
        ConfigError: too few items are held out.
    """
    sampler = validation_sampler(config, store.manifest)
    if sampler is None:
        return []
    steps = range(config.train.validation_batches)
    return [build_batch(spec, store) for spec in sampler.rank_batches(steps, rank, num_ranks, config.train.chunk_pairs)]


def _sampler(config: RunConfig, manifest: StoreManifest, split: Split, global_batch_pairs: int) -> HybridStepSampler:
    mix = config.mix
    if split == "validation":
        mix = mix.constant_mixes[-1][1]
        if mix.alpha_schedule:
            mix = mix.model_copy(update={"alpha": mix.alpha_schedule.points[-1][1], "alpha_schedule": None})
    return HybridStepSampler(
        manifest,
        mix,
        seed=config.seed,
        global_batch_pairs=global_batch_pairs,
        languages=config.languages,
        split=split,
        with_query_translations=config.loss.requires_translations,
    )
