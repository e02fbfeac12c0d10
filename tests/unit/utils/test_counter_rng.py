import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.utils.counter_rng import random_permutation_at, random_uniforms, stable_hash64


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permutation_maps_a_range_onto_itself(size, key):
    assert sorted(random_permutation_at(np.arange(size), size, key).tolist()) == list(range(size))


@given(size=st.integers(1, 10**12), key=st.integers(0, 2**64 - 1), data=st.data())
def test_permutation_of_an_index_does_not_depend_on_the_others(size, key, data):
    index = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20, unique=True)))
    together = random_permutation_at(index, size, key)
    assert [random_permutation_at(index[i : i + 1], size, key)[0] for i in range(len(index))] == together.tolist()
    assert len(set(together.tolist())) == len(index)
    assert together.min() >= 0
    assert together.max() < size


def test_every_position_is_equally_likely():
    size, draws = 5, 4000
    positions = [
        int(random_permutation_at(np.array([0]), size, stable_hash64("draw", draw))[0]) for draw in range(draws)
    ]
    expected, spread = draws / size, (draws * 0.2 * 0.8) ** 0.5
    assert all(abs(positions.count(position) - expected) < 5 * spread for position in range(size))


def test_uniforms_depend_on_index_only_and_have_mean_a_half():
    together = random_uniforms(7, np.arange(10_000))
    assert random_uniforms(7, np.array([1234]))[0] == together[1234]
    assert together.min() >= 0
    assert together.max() < 1
    assert abs(together.mean() - 0.5) < 5 * (1 / 12 / 10_000) ** 0.5


def test_hash_distinguishes_where_parts_end():
    assert stable_hash64("a", "bc") != stable_hash64("ab", "c")
    assert stable_hash64("a", 1) == stable_hash64("a", 1)
