import math

import torch
from torch import Tensor

from hbt_ray.losses.consistency import TranslationConsistency
from tests.helpers.loss_inputs import make_loss_inputs

EYE = torch.eye(4)


def consistency(
    queries: Tensor, translations: Tensor, passages: Tensor, *, temperature: float, num_pairs: int
) -> Tensor:
    """Compute the loss of a batch whose first queries are translated."""
    rest = torch.zeros(num_pairs - len(queries), queries.shape[1], dtype=queries.dtype)
    inputs = make_loss_inputs(
        torch.cat([queries, rest]), passages, translations=(translations, range(len(translations)))
    )
    return TranslationConsistency(temperature)(inputs)


def test_query_whose_translation_swaps_two_passages_loses_tanh_of_half():
    # p = (a, 1 - a) with a = e / (1 + e), r = (1 - a, a): sum (p - r) (log p - log r) / 2 = 2 a - 1.
    found = consistency(EYE[:1], EYE[1:2], EYE[:2], temperature=1.0, num_pairs=1)
    assert math.isclose(float(found), math.tanh(0.5), rel_tol=1e-6)


def test_temperature_divides_scores():
    found = consistency(EYE[:1], EYE[1:2], EYE[:2], temperature=0.5, num_pairs=1)
    # p = (b, 1 - b) with b = 1 / (1 + e^-2), and log b - log(1 - b) = 2.
    assert math.isclose(float(found), 2 * math.tanh(1), rel_tol=1e-6)


def test_pair_without_a_translation_counts_as_0():
    found = consistency(EYE[:1], EYE[1:2], EYE[:2], temperature=1.0, num_pairs=4)
    assert math.isclose(float(found), math.tanh(0.5) / 4, rel_tol=1e-6)
    assert float(consistency(EYE[:0], EYE[:0], EYE[:2], temperature=1.0, num_pairs=4)) == 0.0


def test_equal_scores_of_query_and_translation_lose_nothing():
    assert float(consistency(EYE[:2], EYE[:2], EYE, temperature=0.05, num_pairs=2)) == 0.0


def test_value_and_gradient_equal_the_mean_of_torch_s_divergences():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3 + 3 + 12, 8, generator=generator, dtype=torch.float64)
    found = []
    for plain in (False, True):
        leaf = vectors.clone().requires_grad_()
        one, other, passages = torch.nn.functional.normalize(leaf, dim=1).split([3, 3, 12])
        if plain:
            p, r = (torch.log_softmax(of @ passages.T / 0.3, dim=1) for of in (one, other))
            kl_div = torch.nn.functional.kl_div
            both = kl_div(r, p, reduction="sum", log_target=True) + kl_div(p, r, reduction="sum", log_target=True)
            loss = both / 2 / 6
        else:
            loss = consistency(one, other, passages, temperature=0.3, num_pairs=6)
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-12)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-9, atol=1e-12)
