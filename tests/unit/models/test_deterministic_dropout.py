"""Dropout's masks are a function of the key and of the place in the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hbt_ray.models.deterministic_dropout import DeterministicDropout, DropoutKey, key_dropout

CPU = torch.device("cpu")


def layer(p: float = 0.1, place: int = 0, *key: object) -> DeterministicDropout:
    of = DropoutKey()
    of.set(CPU, *(key or (1,)))
    return DeterministicDropout(p, of, place)


@given(st.sampled_from([0.1, 0.25, 0.5, 0.9]), st.integers(0, 2**40))
def test_fraction_dropped_is_the_probability_and_the_rest_is_scaled(p, seed):
    ones = torch.ones(400, 100)
    kept = layer(p, 0, seed)(ones)
    dropped = float((kept == 0).float().mean())
    assert abs(dropped - p) < 6 * (p * (1 - p) / ones.numel()) ** 0.5  # six standard deviations
    assert torch.allclose(kept[kept != 0], torch.tensor(1 / (1 - p)), rtol=1e-4)


def test_masks_depend_only_on_key_and_layer():
    ones = torch.ones(50, 7)
    first = layer(0.5, 3, 1, "a")(ones)
    other = layer(0.5, 3, 1, "a")
    torch.manual_seed(99)
    torch.rand(5)
    assert torch.equal(other(ones), first)
    assert torch.equal(other(ones), first)  # whatever was drawn before
    for changed in (layer(0.5, 4, 1, "a"), layer(0.5, 3, 2, "a"), layer(0.5, 3, 1, "b")):
        assert not torch.equal(changed(ones), first)


def test_gradient_is_masked_and_scaled_like_the_values():
    values = torch.randn(30, 5, requires_grad=True)
    kept = layer(0.4)(values)
    kept.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad != 0, kept != 0)
    assert torch.allclose(kept, values * values.grad)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_nothing_is_dropped_in_evaluation_mode(p):
    values = torch.randn(4, 4)
    assert layer(p).eval()(values) is values
    assert layer(0.0)(values) is values


def test_all_may_be_dropped_but_nothing_becomes_infinite():
    assert torch.isfinite(layer(1.0)(torch.ones(1000))).all()


def test_layers_have_unique_indices_in_the_same_order_each_time():
    def model() -> nn.Module:
        inner = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2))
        return nn.Sequential(nn.Dropout(0.1), inner, nn.Dropout(0.3))

    made = model().eval()
    key_dropout(made)
    again = model()
    key_dropout(again)
    key = key_dropout(again)  # of an encoder that is trained a second time
    found = [
        [(m.place, m.p, m.training) for m in of.modules() if isinstance(m, DeterministicDropout)]
        for of in (made, again)
    ]
    assert sorted(place for place, _, _ in found[0]) == [0, 1, 2]
    assert [(place, p) for place, p, _ in found[0]] == [(place, p) for place, p, _ in found[1]]
    assert not any(training for *_, training in found[0])
    assert all(m.key is key for m in again.modules() if isinstance(m, DeterministicDropout))


def test_half_precision_is_dropped_alike():
    values = torch.from_numpy(np.random.default_rng(0).standard_normal((64, 8), np.float32))
    full, half = layer(0.5)(values), layer(0.5)(values.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.equal(full == 0, half == 0)
    assert torch.allclose(full, half.float(), rtol=1e-2)
