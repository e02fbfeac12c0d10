"""The masked language model: head, mini-batches and dropout."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from transformers import (
    DistilBertConfig,
    DistilBertForMaskedLM,
)

from hbt_ray.data.token_store import TokenStore
from hbt_ray.models.encoder import load_pretrained
from hbt_ray.pretraining.masking import IGNORE_INDEX
from hbt_ray.pretraining.mlm_model import load_head
from tests.helpers import tiny_corpus
from tests.unit.pretraining.conftest import make_masked_trainer, make_task

pytestmark = pytest.mark.usefixtures("one_thread")


def test_dropout_of_a_mini_batch_does_not_depend_on_others(stores, tmp_path):
    trainer, blocks = make_masked_trainer(tiny_corpus.pretrain_config(), stores, tmp_path)
    trainer.model.train()
    chunks = trainer.mlm.mini_batches(blocks)
    assert [(chunk.start, chunk.end, chunk.number) for chunk in chunks] == [(0, 2, 0), (2, 4, 1), (4, 6, 2), (6, 8, 3)]
    separately = [float(trainer.mlm(blocks, chunk).detach()) for chunk in reversed(chunks)][::-1]
    assert separately == [float(trainer.mlm(blocks, chunk).detach()) for chunk in chunks]
    later = dataclasses.replace(blocks, step=1)
    assert float(trainer.mlm(later, chunks[0]).detach()) != separately[0]


def test_load_head_loads_the_saved_head_of_another_family(tmp_path):
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=300, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=40)
    saved = DistilBertForMaskedLM(config).eval()
    saved.save_pretrained(tmp_path)
    tiny_corpus.tokenizer().save_pretrained(tmp_path)
    encoder = load_pretrained(str(tmp_path)).eval()
    counts = np.arange(300)  # ignored, because the head was saved
    head = load_head(tmp_path, encoder, seed=5, trust_remote_code=False, token_counts=counts)
    ids = torch.arange(7, 27)[None]
    states = encoder[0]({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["token_embeddings"]
    scores = head(inputs_embeds=states).logits
    assert torch.allclose(scores, saved(input_ids=ids).logits, atol=1e-5)


@pytest.mark.parametrize("objective", ["mlm", "tlm"])
def test_new_head_starts_with_the_frequencies_of_tokens(stores, tmp_path, objective):
    config = tiny_corpus.pretrain_config(objective=objective)
    task = make_task(config, stores, tmp_path)
    steps = -(-1000 // (config.pretrain.global_batch_blocks * config.pretrain.block_tokens))
    text = [
        np.where(blocks.targets == IGNORE_INDEX, blocks.ids, blocks.targets)
        for blocks in task.batches(TokenStore.open(stores[objective]), range(steps))
    ]
    counts = dict.fromkeys(range(task.rules.num_tokens), 0)
    for token in np.concatenate(text).tolist():
        counts[token] += token not in task.rules.special_ids
    total = sum(counts.values()) + len(counts) / 2
    bias = task.build_trainer("cpu").mlm.head.get_output_embeddings().bias
    expected = [math.log((count + 0.5) / total) for count in counts.values()]
    assert bias.tolist() == pytest.approx(expected, rel=1e-6)
    assert max(expected) > math.log(0.01) > math.log(1 / 300) > min(expected)
