"""Losses in tiles have the values and gradients of losses whose scores are computed at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from hbt_ray.losses import score_tiles
from hbt_ray.losses.base import Loss, LossInputs
from hbt_ray.losses.consistency import TranslationConsistency
from hbt_ray.losses.distillation import Distillation
from hbt_ray.losses.info_nce import InfoNCE
from tests.helpers.loss_inputs import make_loss_inputs

PAIRS, WIDTH = 13, 6


def unit(seed: int, rows: int) -> Tensor:
    """Return random unit vectors (rows, WIDTH) float32 with a gradient."""
    vectors = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1).requires_grad_()


def make_inputs(positives: int) -> LossInputs:
    """Return a batch with hard negatives, equal texts, components, translations and a teacher."""
    passages = PAIRS * (positives + 1)
    return make_loss_inputs(
        unit(0, PAIRS),
        unit(1, passages),
        query_ids=[number % 9 for number in range(PAIRS)],
        passage_ids=[100 + number % 17 for number in range(passages)],
        positives=positives,
        components=([number % 4 for number in range(PAIRS)], [number % 5 for number in range(passages)]),
        translations=(unit(2, 7), range(0, 13, 2)),
        teacher=(unit(3, PAIRS).detach(), unit(4, passages).detach()),
    )


def value_and_gradients(loss: Loss, inputs: LossInputs) -> list[Tensor]:
    """Return the loss, and its gradients by all embeddings, of which it need not use the translations."""
    assert inputs.translation_embeddings is not None
    embeddings = (inputs.query_embeddings, inputs.passage_embeddings, inputs.translation_embeddings)
    value = loss(inputs) * 3
    return [value, *torch.autograd.grad(value, embeddings, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("max_scores", [1, 100, 400])
@pytest.mark.parametrize(
    ("loss", "positives"),
    [
        (InfoNCE(0.1), 1),
        (InfoNCE(0.1, symmetric=True), 1),
        (InfoNCE(0.1, symmetric=True), 3),
        (Distillation(0.2), 1),
        (TranslationConsistency(0.3), 1),
    ],
    ids=["one direction", "both", "three positives", "distillation", "consistency"],
)
def test_tiles_have_the_value_and_gradient_of_all_scores(loss, positives: int, max_scores: int, monkeypatch):
    expected = value_and_gradients(loss, make_inputs(positives))
    monkeypatch.setattr(score_tiles, "MAX_SCORES", max_scores)
    inputs = make_inputs(positives)
    found = value_and_gradients(loss, inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert loss(inputs) * 3 == found[0]


def test_no_more_scores_are_held_than_those_of_a_tile(monkeypatch):
    monkeypatch.setattr(score_tiles, "MAX_SCORES", 200)
    seen = []

    def loss_of(rows: slice, scores: Sequence[Tensor]) -> Tensor:
        seen.append((rows.start, rows.stop, *(tuple(of_kind.shape) for of_kind in scores)))
        return torch.stack([of_kind.square().sum() for of_kind in scores]).sum()

    anchors, others, candidates = unit(0, 5), unit(1, 5), unit(2, 50)
    total = score_tiles.sum_over_tiles(loss_of, [anchors, others], candidates, 0.5)
    assert seen == [(0, 2, (2, 50), (2, 50)), (2, 4, (2, 50), (2, 50)), (4, 5, (1, 50), (1, 50))]
    expected = sum((one @ candidates.T / 0.5).square().sum() for one in (anchors, others))
    torch.testing.assert_close(total, expected)
