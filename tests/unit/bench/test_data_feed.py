"""The parts that time the data feed."""

from __future__ import annotations

import subprocess
import sys

from hbt_ray.bench.data_feed import (
    bench_feed_of_large_store,
    make_collator_round,
    make_feed_round,
    make_training_round,
)
from hbt_ray.bench.fixtures import TextTokens, bench_encoder, write_synthetic_store
from hbt_ray.bench.registry import BenchSettings


def test_feed_of_a_large_store_is_compared_with_a_small_one(tmp_path):
    result = bench_feed_of_large_store(BenchSettings(tmp_path, rounds=1, quick=True))
    assert result.unit == "batches/s"
    assert min(result.value, result.baseline, result.ratio) > 0
    assert (result.details["items"], result.details["peer_is"]) == (200_000, "a store of 1,000 items")
    assert not list(tmp_path.rglob("*.arrow"))


def test_training_and_the_collator_take_the_batches_of_the_feed(tmp_path):
    store = write_synthetic_store(tmp_path / "store", 500, TextTokens(4, 8))
    encoder = bench_encoder(None, tmp_path, quick=True)
    assert make_feed_round(store, 16)() == 16
    assert make_training_round(store, encoder, 2)() == 2
    assert make_collator_round(store, encoder, 3)() == 3


def test_feed_does_not_import_torch():
    """Its process must not hold more memory than it needs."""
    code = "import sys, hbt_ray.bench.data_feed; sys.exit(any(name in sys.modules for name in ('torch', 'ray')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
