"""Groups of a packed row have few shapes, and hold every token of every head once."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.models.packing import MIN_STEP, Packing

CPU = torch.device("cpu")


def test_groups_have_few_shapes_whatever_the_lengths():
    random = np.random.default_rng(0)
    shapes = set()
    for _ in range(50):
        packing = Packing(random.integers(1, 513, 64), CPU)
        shapes |= {(group.sequences, group.longest) for group in packing.groups(2, 2)}
    assert {longest for _, longest in shapes} <= {*range(16, 257, 16), *range(288, 513, 32)}
    assert {size for size, _ in shapes} <= {1, 2, 4, 8, 16}


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.sampled_from([(1, 1), (2, 2), (3, 1), (4, 2)]))
def test_every_token_of_every_head_is_read_and_written_once(lengths, heads):
    packing = Packing(np.array(lengths), CPU)
    groups = packing.groups(*heads)
    for side, number in (("queries", heads[0]), ("keys", heads[1])):
        rows = sum(lengths) * number
        written = torch.cat([getattr(group, side).write for group in groups])
        assert sorted(row for row in written.tolist() if row < rows) == list(range(rows))
        for group in groups:
            of = getattr(group, side)
            ended = (
                torch.zeros(group.sequences, group.longest, dtype=torch.bool) if group.ended is None else group.ended
            )
            ended = ended[:, None].expand(-1, number, -1).flatten()
            assert torch.equal(of.read[~ended], of.write[~ended])
            assert (of.write[ended] >= rows).all()
            assert group.sequences.bit_count() == 1
            assert int(ended.sum()) <= group.sequences * number * (MIN_STEP - 1)


def test_filling_tokens_are_a_sequence_that_is_no_example():
    packing = Packing(np.array([3, 5, 2]), CPU, fill=54)
    assert packing.lengths.tolist() == [3, 5, 2, 54]
    assert packing.boundaries.tolist() == [0, 3, 8, 10, 64]
    assert (packing.tokens, packing.longest, packing.example) == (64, 54, (3, 5))
