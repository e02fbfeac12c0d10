"""The expected average precision in a random part of a pool equals that over all parts."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.evaluation.metrics import average_precision
from hbt_ray.evaluation.pool_sampling import expected_average_precision
from hbt_ray.retrieval.exact_scores import NOT_RETRIEVED


def _mean_over_all_parts(ranks: list[int], num_passages: int, sample_size: int) -> float:
    """Average over every part of the pool that has the relevant passages, each ranked on its own."""
    others = [rank for rank in range(1, num_passages + 1) if rank not in ranks]
    values = []
    for kept in combinations(others, min(max(sample_size - len(ranks), 0), len(others))):
        order = sorted([*ranks, *kept])
        values.append(average_precision(np.array([[1 + order.index(rank) for rank in ranks]]))[0])
    return float(np.mean(values))


def test_expected_precision_on_paper():
    # One of three others is kept. Rank 3 has two above it: 2/3 of the samples give rank 2, the others rank 1.
    assert expected_average_precision(np.array([[3]]), np.array([4]), 2) == pytest.approx([2 / 3 * 1 / 2 + 1 / 3])
    # Ranks 1 and 3 of 4: the other above the second is kept in half of the samples.
    assert expected_average_precision(np.array([[3, 1]]), np.array([4]), 3) == pytest.approx(
        [(1 + 0.5 + 0.5 * 2 / 3) / 2]
    )


@given(st.data())
def test_expectation_is_the_mean_over_all_parts(data: st.DataObject):
    num_passages = data.draw(st.integers(1, 9))
    ranks = sorted(data.draw(st.sets(st.integers(1, num_passages), min_size=1, max_size=3)))
    sample_size = data.draw(st.integers(0, 10))
    found = expected_average_precision(np.array([[*ranks, 0]]), np.array([num_passages]), sample_size)
    assert found == pytest.approx([_mean_over_all_parts(ranks, num_passages, sample_size)])


@pytest.mark.parametrize(("num_passages", "sample_size"), [(1280, 852), (6264, 1787), (200_000, 1000)])
def test_one_relevant_passage_has_a_closed_form(num_passages: int, sample_size: int):
    ranks = np.array([1, 2, 17, num_passages // 3, num_passages])
    others, drawn = num_passages - 1, sample_size - 1
    expected = [
        (others + 1) / (rank * (drawn + 1)) * (1 - comb(others - rank + 1, drawn + 1) / comb(others + 1, drawn + 1))
        for rank in ranks.tolist()
    ]
    found = expected_average_precision(ranks[:, None], np.full(len(ranks), num_passages), sample_size)
    assert found == pytest.approx(expected, rel=1e-8)


def test_random_samples_have_the_expected_mean():
    rng = np.random.default_rng(0)
    ranks, num_passages, sample_size = np.array([3, 40, 41, 700]), 900, 300
    others = np.setdiff1d(np.arange(1, num_passages + 1), ranks)
    kept = np.sort(np.stack([rng.choice(others, sample_size - 4, replace=False) for _ in range(2000)]), axis=1)
    smaller = np.arange(1, 5) + np.stack([np.searchsorted(row, ranks) for row in kept])
    values = average_precision(smaller)
    found = expected_average_precision(ranks[None], np.array([num_passages]), sample_size)[0]
    assert abs(found - values.mean()) < 3 * values.std() / 2000**0.5


def test_a_pool_that_is_small_enough_is_used_whole():
    rng = np.random.default_rng(1)
    ranks = np.stack([rng.choice(50, 4, replace=False) + 1 for _ in range(20)])
    ranks[0, 2:] = 0
    for size in (50, 80):
        assert expected_average_precision(ranks, np.full(20, 50), size) == pytest.approx(average_precision(ranks))


def test_fewer_passages_never_lower_the_expectation():
    ranks, pools = np.array([[2, 9], [30, 4]]), np.array([30, 30])
    by_size = [expected_average_precision(ranks, pools, size) for size in range(30, 1, -1)]
    assert (np.diff(by_size, axis=0) >= -1e-12).all()
    assert by_size[-1] == pytest.approx([1, 1])  # only the relevant passages


def test_passages_that_the_pool_lacks_count_as_not_found():
    found = expected_average_precision(np.array([[1, NOT_RETRIEVED], [NOT_RETRIEVED, 0], [0, 0]]), np.full(3, 9), 4)
    assert found.tolist() == [0.5, 0, 0]
