"""Loss, gradient and trained parameters of masked language modelling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
)

from hbt_ray.models.packed_attention import is_packed
from hbt_ray.pretraining.batch import TokenBlockBatch
from hbt_ray.pretraining.masking import IGNORE_INDEX
from hbt_ray.pretraining.mlm_trainer import MaskedLMTrainer
from tests.helpers import tiny_corpus
from tests.unit.pretraining.conftest import make_masked_trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def loss_by_transformers(
    trainer: MaskedLMTrainer, folder: Path, sequences: list[slice], blocks: TokenBlockBatch
) -> float:
    """Return the mean cross-entropy by transformers' model with the same weights, a sequence at a time."""
    whole = AutoModelForMaskedLM.from_pretrained(folder / "initial_model")
    whole.bert.load_state_dict(trainer.encoder[0].model.state_dict(), strict=False)  # the initial model has a pooler
    whole.load_state_dict({n: w for n, w in trainer.mlm.head.state_dict().items() if n in whole.state_dict()}, False)
    whole.tie_weights()
    whole.eval()
    total, num_targets = 0.0, 0
    for tokens in sequences:
        labels = torch.from_numpy(
            np.where(blocks.targets[tokens] == IGNORE_INDEX, -100, blocks.targets[tokens]).astype(np.int64)
        )
        number = int((labels != -100).sum())
        if number:
            ids = torch.from_numpy(blocks.ids[tokens].astype(np.int64))
            total += float(whole(input_ids=ids[None], labels=labels[None]).loss.detach()) * number
            num_targets += number
    return total / num_targets


@pytest.mark.parametrize(("attention", "objective"), [("packed", "mlm"), ("packed", "tlm"), ("eager", "mlm")])
def test_loss_is_that_of_transformers_on_each_text_or_block(stores, tmp_path, attention, objective):
    model = tiny_corpus.MODEL.model_copy(update={"attention": attention})
    config = tiny_corpus.pretrain_config(model=model, objective=objective)
    trainer, blocks = make_masked_trainer(config, stores, tmp_path)
    assert is_packed(trainer.encoder) == (attention == "packed")
    lengths = blocks.lengths if attention == "packed" else np.full(8, 32)
    ends = np.cumsum(lengths).tolist()
    sequences = [slice(end - length, end) for end, length in zip(ends, lengths.tolist(), strict=True)]
    expected = loss_by_transformers(trainer, tmp_path, sequences, blocks)
    assert trainer.validation_loss([blocks]) == pytest.approx(expected, rel=1e-5)


def test_trainer_ties_the_head_and_trains_all_but_the_pooler(stores, tmp_path):
    trainer, blocks = make_masked_trainer(tiny_corpus.pretrain_config(), stores, tmp_path)
    words = trainer.encoder[0].model.get_input_embeddings().weight
    assert trainer.mlm.head.get_output_embeddings().weight is words
    frozen = {name for name, p in trainer.mlm.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in trainer.mlm.named_parameters() if ".pooler." in name}
    before = {name: p.detach().clone() for name, p in trainer.mlm.named_parameters()}
    trainer.step(0, [blocks])
    moved = {name for name, p in trainer.mlm.named_parameters() if not torch.equal(p, before[name])}
    assert moved == before.keys() - frozen


def test_mini_batches_add_up_to_the_gradient_of_the_batch(stores, tmp_path):
    found = []
    model = tiny_corpus.MODEL.model_copy(update={"dropout": 0.0})
    for chunk_blocks in (2, 8):
        trainer, blocks = make_masked_trainer(
            tiny_corpus.pretrain_config(model=model, chunk_blocks=chunk_blocks), stores, tmp_path
        )
        trainer.model.train()
        loss = trainer.backward(blocks)
        gradient = torch.cat([p.grad.flatten() for p in trainer.mlm.parameters() if p.grad is not None])
        found.append((float(loss), gradient))
    (one, of_one), (other, of_other) = found
    assert one == pytest.approx(other, rel=1e-6)
    assert (of_one - of_other).norm() < 1e-5 * of_other.norm()
