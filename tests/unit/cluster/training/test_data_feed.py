import threading

import pytest

from hbt_ray.cluster.training.data_feed import iterate_within


def test_iterate_within_yields_every_item_in_order():
    assert list(iterate_within(range(100), 10, "an item")) == list(range(100))


def test_iterate_within_bounds_the_wait_for_an_item():
    blocked = threading.Event()

    def items():
        yield 1
        blocked.wait()

    received = iterate_within(items(), 0.05, "a block")
    assert next(received) == 1
    with pytest.raises(TimeoutError, match=r"a block did not arrive within 0\.05 s"):
        next(received)
    blocked.set()


def test_iterate_within_raises_what_the_items_raise():
    def items():
        yield 1
        raise OSError("the disk is gone")

    received = iterate_within(items(), 10, "an item")
    assert next(received) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(received)


@pytest.mark.parametrize("used", [True, False])
def test_iterate_within_stops_reading_when_it_is_dropped(used):
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    received = iterate_within(items(), 10, "an item")
    if used:
        assert next(received) == 1
    del received
    assert closed.wait(10)


def test_iterate_within_reads_before_the_first_item_is_requested():
    has_begun = threading.Event()

    def items():
        has_begun.set()
        yield 1

    received = iterate_within(items(), 10, "an item")
    assert has_begun.wait(10)
    assert list(received) == [1]
