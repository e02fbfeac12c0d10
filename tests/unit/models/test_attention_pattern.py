"""A pattern of transformers' masks is evaluated for one sequence, and recognized if it is a window."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    packed_sequence_compatibility_function,
    sdpa_mask,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)

from hbt_ray.models.attention_pattern import AttentionPattern, make_pattern
from hbt_ray.models.packing import Packing

LENGTHS = np.array([2, 5, 4])
PACKING = Packing(LENGTHS, torch.device("cpu"), fill=7)
CHUNKS = chunked_causal_mask_function(2, torch.zeros(1, dtype=torch.int))


def in_a_row(function):
    """Return a mask function as transformers gives it for several sequences in a row."""
    positions = torch.from_numpy(np.concatenate([np.arange(length) for length in PACKING.lengths]))[None]
    sequences = torch.from_numpy(np.repeat(np.arange(len(PACKING.lengths)), PACKING.lengths))[None]
    return packed_sequence_compatibility_function(function, positions, sequences)


def a_pattern(function) -> AttentionPattern:
    return AttentionPattern(function, lambda: None)


def test_a_band_is_what_a_sequence_by_itself_would_have():
    for function in (causal_mask_function, sliding_window_causal_mask_function(2), CHUNKS):
        [[expected]] = sdpa_mask(1, 5, 5, mask_function=function, allow_is_causal_skip=False)
        pattern = a_pattern(in_a_row(function))
        assert torch.equal(pattern.band(PACKING, 5), expected)
        assert torch.equal(pattern.band(PACKING, 3), expected[:3, :3])
    causal = a_pattern(in_a_row(causal_mask_function)).band(PACKING, 8)
    assert causal is not None
    assert causal[5:].all()  # after the longest sequence: of groups whose length is rounded up


def test_a_window_that_reaches_every_token_is_no_band():
    pattern = a_pattern(sliding_window_bidirectional_mask_function(3))
    assert pattern.band(PACKING, 4) is None
    assert pattern.band(PACKING, 5) is not None


@pytest.mark.parametrize(
    ("function", "window"),
    [
        (in_a_row(causal_mask_function), (-1, 0)),
        (in_a_row(sliding_window_causal_mask_function(2)), (1, 0)),
        (in_a_row(sliding_window_causal_mask_function(9)), (-1, 0)),
        (sliding_window_bidirectional_mask_function(3), (3, 3)),
        (sliding_window_bidirectional_mask_function(4), (-1, -1)),
        (in_a_row(CHUNKS), None),
    ],
)
def test_windows_are_recognized(function, window):
    assert a_pattern(function).window(PACKING) == window


def test_a_padded_batch_gets_torchs_mask():
    arguments = {"batch_size": 2, "q_length": 3, "kv_length": 3, "mask_function": causal_mask_function}
    mask = torch.tensor([[True, True, True], [True, True, False]])
    found = make_pattern(attention_mask=mask, **arguments)
    assert torch.equal(found, sdpa_mask(attention_mask=mask, **arguments))
    pattern = make_pattern(**arguments, allow_is_causal_skip=False)
    assert isinstance(pattern, AttentionPattern)
    assert torch.equal(pattern.padded()[0, 0], torch.ones(3, 3, dtype=torch.bool).tril())


def test_attention_to_all_tokens_needs_no_pattern():
    assert make_pattern(batch_size=1, q_length=3, kv_length=3, mask_function=bidirectional_mask_function) is None
