"""A model's folder says which benchmarks its training data were decontaminated against."""

from __future__ import annotations

import pytest

from hbt_ray.data.types import Benchmark, Passage, Query
from hbt_ray.data.zero_shot import DECONTAMINATED, keep_decontaminated, was_decontaminated, write_decontaminated
from hbt_ray.errors import StoreError


def benchmark(name: str, query: str, passage: str = "text") -> Benchmark:
    return Benchmark(name, [Query("q", "en", query)], [Passage("p", "en", passage)], {"q": {"p": 1}})


ONE, OTHER = benchmark("one", "where"), benchmark("other", "who")


def folders(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir()
    return [tmp_path / name for name in names]


def test_model_has_the_benchmarks_of_its_store(tmp_path):
    store, initial, model = folders(tmp_path, "store", "initial", "model")
    write_decontaminated(store, [ONE])
    keep_decontaminated(store, initial, model)
    assert was_decontaminated(model, ONE) is True
    assert was_decontaminated(model, OTHER) is False
    # Options of reading change passages; other queries are another benchmark.
    assert was_decontaminated(model, benchmark("one", "where", "with its paragraph")) is True
    assert was_decontaminated(model, benchmark("one", "when")) is False


def test_a_model_that_started_from_another_has_the_benchmarks_of_both(tmp_path):
    store, initial, model = folders(tmp_path, "store", "initial", "model")
    write_decontaminated(store, [ONE, OTHER])
    write_decontaminated(initial, [OTHER])
    keep_decontaminated(store, initial, model)
    assert [was_decontaminated(model, one) for one in (ONE, OTHER)] == [False, True]


def test_a_model_without_a_record_and_the_embedded_benchmark_are_unknown(tmp_path):
    assert was_decontaminated("sentence-transformers/a-model-of-the-hub", ONE) is None
    assert was_decontaminated(tmp_path, ONE) is None
    write_decontaminated(tmp_path, [])
    assert was_decontaminated(tmp_path, benchmark("embedded", "where")) is None


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_damaged_record_is_refused_by_name(tmp_path, text):
    (tmp_path / DECONTAMINATED).write_text(text)
    with pytest.raises(StoreError, match=r"decontaminated\.json .*; delete it, or train the model again$"):
        was_decontaminated(tmp_path, ONE)
