"""Benchmarks and rejects as values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hbt_ray.data.types import Benchmark, Passage, Query, RejectedRow

FORESTS = Benchmark(
    name="forests",
    queries=[Query("q1", "en", "a 'b' \"c\"\n", "g"), Query("q2", "de", "ä\u200b")],
    passages=[Passage("p1", "en", "one"), Passage("p2", "de", "zwei\\ '\"")],
    judgements={"q2": {"p2": 2}, "q1": {"p1": 1}},
    contexts=("one. two",),
    excluded={"q1": "p2"},
)


def test_fingerprint_of_a_benchmark_stays_what_stored_ones_are():
    assert FORESTS.fingerprint() == "9b46eb1c0453bccf"


@pytest.mark.parametrize(
    "change",
    [
        {"queries": FORESTS.queries[:1]},
        {"passages": [FORESTS.passages[0], Passage("p2", "de", "drei")]},
        {"judgements": {"q2": {"p2": 1}, "q1": {"p1": 1}}},
        {"contexts": ()},
        {"excluded": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_fingerprint_changes_with_every_part_of_a_benchmark(change):
    assert replace(FORESTS, **change).fingerprint() != FORESTS.fingerprint()


def test_fingerprint_ignores_order_of_judgements_and_what_is_not_used():
    reordered = dict(reversed(FORESTS.judgements.items()))
    rejects = [RejectedRow("forests", "de.jsonl:1", "broken JSON")]
    assert replace(FORESTS, judgements=reordered, rejects=rejects, split="dev").fingerprint() == FORESTS.fingerprint()


def test_texts_of_a_benchmark_include_paragraphs():
    assert FORESTS.texts[-1] == "one. two"
    assert len(FORESTS.texts) == 5


def test_record_of_a_reject_keeps_the_keys_of_rejects_files():
    reject = RejectedRow("faq", "de.jsonl:17", "broken JSON", "{")
    assert list(reject.record().items()) == [
        ("source", "faq"),
        ("place", "de.jsonl:17"),
        ("reason", "broken JSON"),
        ("detail", "{"),
    ]
