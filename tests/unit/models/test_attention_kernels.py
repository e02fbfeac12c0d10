"""The kernels of packed attention agree: products, torch's attention and its variable-length attention."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers.masking_utils import causal_mask_function, sliding_window_bidirectional_mask_function

from hbt_ray.models import attention_kernels
from hbt_ray.models.attention_kernels import attend
from hbt_ray.models.attention_pattern import AttentionPattern
from hbt_ray.models.deterministic_dropout import DeterministicDropout, DropoutKey
from hbt_ray.models.packing import Packing
from tests.helpers import varlen_reference

LENGTHS = np.array([3, 12, 7, 12, 1, 11, 20])
CPU = torch.device("cpu")
PATTERNS: dict[str, Callable[[], AttentionPattern | None]] = {
    "all": lambda: None,
    "causal": lambda: AttentionPattern(causal_mask_function, lambda: None),
    "window": lambda: AttentionPattern(sliding_window_bidirectional_mask_function(3), lambda: None),
}


def states(lengths: np.ndarray, heads: int, key_heads: int, width: int = 3) -> list[Tensor]:
    random = np.random.default_rng(3)
    made = [random.standard_normal((int(lengths.sum()), number, width)) for number in (heads, key_heads, key_heads)]
    return [torch.from_numpy(of).requires_grad_() for of in made]


def dropout(p: float) -> DeterministicDropout:
    key = DropoutKey()
    key.set(CPU, 1, "test")
    return DeterministicDropout(p, key, 0)


def results(of: list[Tensor], **settings: object) -> list[Tensor]:
    """Return the result of attention, and its gradients by query, key and value."""
    found = attend(*of, Packing(LENGTHS, CPU), scale=0.5, **settings)  # type: ignore[arg-type]
    return [found.detach(), *torch.autograd.grad((found**2).sum(), of)]


def assert_equal(one: list[Tensor], other: list[Tensor]) -> None:
    for found, expected in zip(one, other, strict=True):
        assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("heads", "pattern", "p", "softcap"),
    [
        ((2, 2), "all", 0.0, None),
        ((2, 2), "all", 0.3, None),
        ((4, 2), "causal", 0.3, None),
        ((4, 2), "window", 0.0, 0.7),
    ],
)
def test_written_out_gradient_equals_finite_differences(heads, pattern, p, softcap):
    lengths = np.array([2, 5, 1])
    settings = {"pattern": PATTERNS[pattern](), "softcap": softcap, "dropout": dropout(p) if p else None}
    packing = Packing(lengths, CPU, fill=2)
    of = states(packing.lengths, *heads, width=2)
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, packing, scale=0.5, **settings), of)


@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_long_sequences_have_the_same_result_by_torchs_attention(monkeypatch, heads, pattern):
    of = states(LENGTHS, *heads)
    expected = results(of, pattern=PATTERNS[pattern]())
    monkeypatch.setattr(attention_kernels, "MAX_WRITTEN_OUT_TOKENS", 19)
    monkeypatch.setattr(attention_kernels, "_WrittenOutAttention", None)
    assert_equal(results(of, pattern=PATTERNS[pattern]()), expected)


@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_gpu_gets_one_call_of_variable_length_attention(monkeypatch, heads, pattern):
    of = states(LENGTHS, *heads)
    expected = results(of, pattern=PATTERNS[pattern]())
    monkeypatch.setattr(attention_kernels, "varlen_attn", varlen_reference.varlen_attn)
    monkeypatch.setattr(attention_kernels, "_fits_varlen", lambda *_: True)
    monkeypatch.setattr(Packing, "groups", None)
    assert_equal(results(of, pattern=PATTERNS[pattern]()), expected)


def test_the_reference_has_the_signature_of_torchs_attention():
    names = [list(inspect.signature(one).parameters) for one in (varlen_attn, varlen_reference.varlen_attn)]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("dtype", "width", "p", "fits"),
    [
        (torch.bfloat16, 64, 0.0, True),
        (torch.float32, 64, 0.0, False),
        (torch.bfloat16, 64, 0.1, False),
        (torch.bfloat16, 20, 0.0, False),
        (torch.bfloat16, 512, 0.0, False),
    ],
)
def test_what_flash_attention_cannot_compute_is_left_to_torchs_attention(dtype, width, p, fits):
    class OnGpu:
        is_cuda = True
        shape = (5, 2, width)

    query = OnGpu()
    query.dtype = dtype  # type: ignore[attr-defined]
    assert attention_kernels._fits_varlen(query, p) == fits  # type: ignore[arg-type]


def test_capped_scores_are_bounded():
    of = states(LENGTHS, 2, 2)
    big = [100 * of[0], of[1], of[2]]
    packing = Packing(LENGTHS, CPU)
    found = attend(*big, packing, scale=1.0, softcap=1e-9)
    means = [value.mean(0).expand(len(value), -1, -1) for value in of[2].split(LENGTHS.tolist())]
    assert torch.allclose(found, torch.cat(means), atol=1e-6)  # equal weights


def test_dropout_of_attention_leaves_the_mean_where_it_is():
    lengths = np.array([30] * 40)
    query, key, _ = (of.detach().float() for of in states(lengths, 4, 2))
    dropped = attend(query, key, torch.ones_like(key), Packing(lengths, CPU), scale=0.5, dropout=dropout(0.4))
    assert dropped.std() > 0.05
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.01)


def test_dropout_that_has_no_key_is_refused():
    of = states(LENGTHS, 2, 2)
    with pytest.raises(AssertionError, match="call key_dropout before training"):
        attend(*of, Packing(LENGTHS, CPU), scale=0.5, dropout=nn.Dropout(0.1))
