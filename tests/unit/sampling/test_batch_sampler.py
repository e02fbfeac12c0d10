from __future__ import annotations

import pickle
from functools import partial

import pytest
from torch.utils.data import ConcatDataset, DataLoader

from hbt_ray.config import MixConfig
from hbt_ray.data.hybrid_dataset import HybridDataset
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError
from hbt_ray.sampling.batch_sampler import HybridBatchSampler
from tests.helpers import tiny_corpus

ROWS = tiny_corpus.trainer_rows()


@pytest.fixture(scope="module")
def dataset() -> HybridDataset:
    return HybridDataset(ROWS, name="numbers")


@pytest.mark.parametrize("mix", [{"alpha": 0.5}, {"strategy": "x-y", "cross_pairs": "mixed"}, {"strategy": "x-x"}])
def test_batches_are_those_of_the_step_sampler_over_the_store(dataset, mix, tmp_path):
    tiny_corpus.make_store(tmp_path / "store", shards=1)
    store = TokenStore.open(tmp_path / "store")
    planned = tiny_corpus.make_sampler(store, 8, **mix)
    sampler = HybridBatchSampler(dataset, 4, num_ranks=2, seed=3, **mix)
    for step in range(60):
        spec = planned.batch(step)
        items = [int(item_id.removeprefix("item-")) for item_id in store.item_ids(spec.source, spec.rows)]
        pairs = zip(items, spec.query_languages.tolist(), spec.passage_languages.tolist(), strict=True)
        expected = [(tiny_corpus.question(x, item), tiny_corpus.passage(y, item)) for item, x, y in pairs]
        rows = dataset.__getitems__(sampler.batch(step))
        assert [(row["anchor"], row["positive"]) for row in rows] == expected


def test_ranks_take_turns_and_epochs_continue_the_steps(dataset):
    sampler = HybridBatchSampler(dataset, 4, num_ranks=2)
    assert len(dataset) == 168
    assert len(sampler) == 2 * (168 // 8)
    sampler.set_epoch(1)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert batches[0] + batches[1] == sampler.batch(21)
    assert batches[-2] + batches[-1] == sampler.batch(41)


def test_epoch_reaches_the_sampler_through_its_data_set(dataset):
    sampler = HybridBatchSampler(dataset, 8)
    dataset.set_epoch(2)
    assert next(iter(sampler)) == sampler.batch(42)
    assert HybridBatchSampler(dataset, 8).epoch == 0


def test_data_loader_with_workers_returns_the_pairs(dataset):
    sampler = HybridBatchSampler(dataset, 8, seed=1)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=list, num_workers=1)
    assert next(iter(loader)) == dataset.__getitems__(sampler.batch(0))


def test_several_data_sets_are_sources_of_one_mix(dataset):
    joined = ConcatDataset([dataset, HybridDataset(ROWS, name="others")])
    parts = [HybridBatchSampler(part, 4) for part in joined.datasets]
    sampler = HybridBatchSampler(joined, batch_samplers=parts, num_ranks=2, seed=5)
    assert sampler.batch_size == 4
    sources = {sampler.steps.batch(step).source for step in range(20)}
    assert sources == {"numbers", "others"}
    for step in range(20):
        rows = [joined[index] for index in sampler.batch(step)]
        spec = sampler.steps.batch(step)
        assert {row["anchor"][:2] for row in rows} == set(spec.query_languages)
        assert {row["positive"][:2] for row in rows} == set(spec.passage_languages)
    joined.set_epoch(3)
    assert sampler.epoch == 3


def test_settings_replace_those_of_the_mix(dataset):
    sampler = HybridBatchSampler(dataset, 8, mix=MixConfig(alpha=0.9, language_sampling=0.5), alpha=0.1)
    assert (sampler.mix.alpha, sampler.mix.language_sampling) == (0.1, 0.5)


def test_unset_hard_negatives_are_those_of_the_data_set():
    rows = HybridDataset([{**row, "negative": "no"} for row in ROWS], hard_negatives=1)
    assert HybridBatchSampler(rows, 8, mix=MixConfig(alpha=0.9)).mix == MixConfig(alpha=0.9, hard_negatives=1)


def test_configured_class_can_be_pickled_with_the_trainers_arguments():
    copy = pickle.loads(pickle.dumps(partial(HybridBatchSampler, alpha=0.6)))
    assert copy.func is HybridBatchSampler


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 2}, "alpha"),
        ({"alhpa": 0.5}, "alhpa"),
        ({"strategy": "one-to-k"}, "one-to-k"),
        ({"hard_negatives": 1}, r"hard_negatives is 1, and the data set has 0; write HybridDataset\(rows, hard_neg"),
        ({"mix": MixConfig(hard_negatives=2)}, "hard_negatives is 2, and the data set has 0"),
        ({"batch_size": 64}, "write a smaller per_device_train_batch_size"),
        ({"languages": ["sw"]}, "'sw' is not in the data set"),
    ],
)
def test_wrong_settings_are_named(dataset, settings, message):
    with pytest.raises(ConfigError, match=message):
        HybridBatchSampler(dataset, **{"batch_size": 8, **settings}).batch(0)


def test_other_data_sets_and_equal_names_are_refused(dataset):
    with pytest.raises(ConfigError, match=r"hbt_ray.HybridDataset\(dataset\)"):
        HybridBatchSampler(ROWS, 8)
    with pytest.raises(ConfigError, match="one name"):
        HybridBatchSampler(ConcatDataset([dataset, dataset]), 8).batch(0)
