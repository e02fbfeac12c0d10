"""Evaluation on held-out text."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError
from hbt_ray.pretraining.mlm_trainer import MaskedLMTrainer
from hbt_ray.pretraining.perplexity import write_before_and_after
from hbt_ray.pretraining.task import check_pretraining
from hbt_ray.training.run_dir import run_dir_of
from tests.helpers import tiny_corpus
from tests.unit.pretraining.conftest import make_task

pytestmark = pytest.mark.usefixtures("one_thread")


def test_perplexity_is_reproducible_and_of_the_first_blocks(stores, tmp_path):
    config = tiny_corpus.pretrain_config(held_out_blocks=2)
    task = make_task(config, stores, tmp_path)
    store = TokenStore.open(stores["mlm"])
    folder = run_dir_of(config, tmp_path)
    one = task.evaluate_checkpoint(store, folder.checkpoints, 0, "cpu")
    assert one == task.evaluate_checkpoint(store, folder.checkpoints, 0, "cpu")
    other = dataclasses.replace(task, config=config.model_copy(update={"languages": ("de",), "seed": 9}))
    assert other.evaluate_checkpoint(store, folder.checkpoints, 0, "cpu").keys() == {"perplexity/de"}
    more = make_task(tiny_corpus.pretrain_config(held_out_blocks=64), stores, tmp_path)
    assert more.evaluate_checkpoint(store, folder.checkpoints, 0, "cpu") != one


def test_language_without_held_out_text_is_an_error(tmp_path):
    config = tiny_corpus.pretrain_config()
    store = tiny_corpus.make_text_store(tmp_path, config, held_out=0)
    with pytest.raises(ConfigError, match=r"too little text in 'de' is held out.*raise prepare.validation_share"):
        check_pretraining(config, tiny_corpus.tokenizer(), store.manifest)


def test_perplexity_of_a_pretraining_that_diverged_is_infinite(stores, tmp_path, monkeypatch):
    task = make_task(tiny_corpus.pretrain_config(languages=["de"]), stores, tmp_path)
    monkeypatch.setattr(MaskedLMTrainer, "validation_loss", lambda *_: 1000.0)
    found = task.evaluate(task.build_trainer("cpu"), TokenStore.open(stores["mlm"]))
    assert found == {"perplexity/de": math.inf}
    assert write_before_and_after(tmp_path, {"perplexity/de": 8.0}, found) == {"de": {"before": 8.0, "after": math.inf}}
    assert json.loads((tmp_path / "perplexity.json").read_text()) == {"de": {"before": 8.0, "after": None}}
