"""Equal orders have equal digests, and another order has another."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from hbt_ray.sampling.order_digest import MAX_BATCHES, order_digest
from tests.helpers.fake_manifests import make_sampler

DIGEST = order_digest(make_sampler(), 40)


def test_equal_samplers_have_equal_digests():
    assert order_digest(make_sampler(), 40) == DIGEST


def test_any_other_order_has_another_digest():
    others = [
        order_digest(make_sampler(), 41),
        order_digest(make_sampler(seed=2), 40),
        order_digest(make_sampler(pairs=17), 40),
        order_digest(make_sampler(alpha=0.4), 40),
        order_digest(make_sampler(cross_pairs="one"), 40),
        order_digest(make_sampler(languages=("de", "en")), 40),
    ]
    assert len({DIGEST, *others}) == 7


@given(st.integers(0, 3 * MAX_BATCHES))
def test_digest_exists_for_any_number_of_batches(batches):
    class Recorder:
        def __init__(self):
            self.drawn = []

        def batch(self, number):
            self.drawn.append(number)
            return make_spec

    make_spec = make_sampler().batch(0)
    recorder = Recorder()
    assert len(order_digest(recorder, batches)) == 16
    assert len(recorder.drawn) == min(batches, MAX_BATCHES)
    if batches:
        assert (recorder.drawn[0], recorder.drawn[-1]) == (0, batches - 1)
