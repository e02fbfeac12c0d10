from pathlib import Path

import pytest
import torch

from tests.helpers.contrastive_training import MIXES, UNCLIPPED, batch, make_stores_and_encoder, make_trainer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_stores_and_encoder(tmp_path_factory.mktemp("training"))


@pytest.mark.parametrize("attention", ["packed", "eager"])
@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_gradient_cache_gives_loss_and_gradient_of_the_whole_batch(folder, mix, attention):
    results = []
    for caching in ({}, {"gradient_caching": True}, {"gradient_checkpointing": True}):
        consistency = 0.7 if mix.get("second_questions") else 0.0
        trainer = make_trainer(
            folder, 0.1, attention, consistency, chunk_pairs=2, max_gradient_norm=UNCLIPPED, **caching
        )
        one, other = batch(folder, 3, **mix), batch(folder, 4, **mix)
        result = trainer.step(0, [one, other])
        moments = trainer.optimizer_state()
        results.append((result.loss, torch.cat([m.flatten() for name, m in moments.items() if "exp_avg/" in name])))
    loss, gradient_of_whole = results[0]
    for cached_loss, cached_gradient in results[1:]:
        assert cached_loss == loss
        # Only the order of float32 sums differs.
        assert (cached_gradient - gradient_of_whole).norm() < 1e-5 * gradient_of_whole.norm()
