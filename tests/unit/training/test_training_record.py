"""A model's record names the store and the order that it was trained with."""

from __future__ import annotations

import pytest

from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError, StoreError
from hbt_ray.sampling.factory import training_sampler
from hbt_ray.sampling.order_digest import order_digest
from hbt_ray.training.training_record import TRAINING_RECORD, TrainingRecord, find_store, read_training_record
from tests.helpers.tiny_corpus import make_store
from tests.helpers.tiny_runs import tiny_config


@pytest.fixture
def store(tmp_path) -> TokenStore:
    make_store(tmp_path / "stores/one")
    return TokenStore.open(tmp_path / "stores/one")


def test_record_is_read_as_it_was_written(store, tmp_path):
    config = tiny_config(tmp_path, languages=["de", "en"], mix={"alpha": 0.3})
    record = TrainingRecord.of(config, store.manifest, 7)
    record.write(tmp_path)
    assert read_training_record(tmp_path) == record
    assert record.order == order_digest(training_sampler(config, store.manifest), 7)
    assert record.store == store.manifest.content_fingerprint()


def test_folder_without_a_record_has_none(tmp_path):
    assert read_training_record(tmp_path) is None
    assert read_training_record(tmp_path / "missing") is None


def test_damaged_record_is_refused_by_name(store, tmp_path):
    TrainingRecord.of(tiny_config(tmp_path), store.manifest, 7).write(tmp_path)
    file = tmp_path / TRAINING_RECORD
    for text in (file.read_text().replace('"seed": 0', '"seed": 1'), "{}", "", '{"languages": null, "unknown": 1}'):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"training\.json is damaged"):
            read_training_record(tmp_path)


def test_store_is_found_by_its_content(store, tmp_path):
    make_store(tmp_path / "stores/other", items=30)
    fingerprint = store.manifest.content_fingerprint()
    for folder in (None, tmp_path / "stores", tmp_path / "stores/one"):
        assert find_store(tmp_path / "run", fingerprint, folder) == tmp_path / "stores/one"
    with pytest.raises(StoreError, match="name its folder with --store"):
        find_store(tmp_path / "run", fingerprint, tmp_path / "stores/other")
