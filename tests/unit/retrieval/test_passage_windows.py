"""A passage has the score of its best window."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import pairwise, repeat

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.config import EvaluateConfig
from hbt_ray.evaluation.evaluator import evaluate_benchmark
from hbt_ray.retrieval import passage_windows
from hbt_ray.retrieval.passage_index import PassageIndex, shard_bounds
from hbt_ray.retrieval.passage_shard import PassageIndexShard
from hbt_ray.retrieval.passage_windows import (
    TEXTS_PER_CHUNK,
    WindowedPassages,
    split_into_windows,
    window_passages,
    window_settings,
)
from tests.unit.evaluation.test_evaluator import TableEmbedder, parallel_benchmark


def numbered(lengths: Iterable[int], blanks: Iterable[str]) -> str:
    """Words of numbered characters, so that each character identifies its position in the text."""
    numbers = iter(range(0x4E00, 0xFFFF))
    words = ("".join(chr(next(numbers)) for _ in range(length)) for length in lengths)
    return "".join(word + blank for word, blank in zip(words, blanks, strict=False))


@given(st.lists(st.tuples(st.integers(0, 30), st.text(" \n\t\u3000", max_size=9)), max_size=60), st.integers(1, 80))
def test_no_character_is_left_out_and_no_window_is_too_long(words: list[tuple[int, str]], size: int):
    text = numbered(*zip(*words, strict=True)) if words else ""
    pieces = split_into_windows(text, size)
    assert all(len(piece) <= size for piece in pieces)
    assert all(piece in text for piece in pieces)
    assert all(pieces) or not text.strip()
    assert set("".join(pieces)) >= set("".join(text.split()))
    assert len(pieces) <= len(text) // (size // 4 + 1) + 1  # each begins more than a quarter after the one before


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.sampled_from(" \n\u3000"), st.integers(16, 80))
def test_neighbouring_windows_overlap(lengths: list[int], blank: str, size: int):
    pieces = split_into_windows(numbered(lengths, repeat(blank)), size)
    for before, after in pairwise(pieces):
        assert set(before) & set(after) - {blank}


@given(st.integers(0, 900), st.integers(2, 80))
def test_windows_without_blanks_overlap_by_half(length: int, size: int):
    text = numbered([length], [""])
    starts = [text.index(piece) for piece in split_into_windows(text, size)]
    assert starts == [number * (size // 2) for number in range(len(starts))]
    assert starts[-1] + size >= length


def test_other_windows_need_another_version_of_the_rule(monkeypatch):
    texts = ["a bc def ghij klmno pqrstu vwxyzab", "日本語" * 9, "one  two\tthree " * 5]
    windows = [split_into_windows(text, size) for text in texts for size in (4, 9, 16)]
    digest = hashlib.sha256(repr(windows).encode()).hexdigest()[:16]
    assert (passage_windows.WINDOW_RULE, digest) == (1, "b01c2e975aea25cc")
    assert window_settings(16) == (16, 1)
    monkeypatch.setattr(passage_windows, "WINDOW_RULE", 2)
    assert (window_settings(16), window_settings(None)) == ((16, 2), None)


@given(st.integers(0, 2**32 - 1))
def test_ranks_and_lists_are_those_of_each_passage_s_best_window(seed: int):
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 5, 12)
    starts = np.concatenate([[0], np.cumsum(widths)[:-1]])
    vectors = rng.integers(-3, 4, (int(widths.sum()), 3)).astype(np.float32)
    queries = rng.integers(-3, 4, (6, 3)).astype(np.float32)
    best = np.maximum.reduceat(queries @ vectors.T, starts, axis=1)
    ordered = [sorted(range(12), key=lambda passage: (-line[passage], -passage)) for line in best]
    pieces = WindowedPassages([], np.arange(len(vectors)), starts)
    relevant = rng.integers(0, 12, (6, 2))
    for shards in (1, 3):
        bounds = shard_bounds(12, shards)
        parts = [(first, *pieces.of_passages(first, last)) for first, last in bounds]
        pool = PassageIndex.of(
            *(PassageIndexShard(vectors[rows], first, window_starts=own) for first, rows, own in parts)
        )
        scores, columns = pool.top_k(queries, 5)
        assert columns.tolist() == [line[:5] for line in ordered]
        assert (scores == np.take_along_axis(best, columns, axis=1)).all()
        ranks = pool.ranks(queries, relevant)[0]
        for line, indices, found in zip(ordered, relevant, ranks, strict=True):
            assert found.tolist() == [1 + line.index(passage) for passage in indices.tolist()]


def test_an_approximate_index_ranks_passages_by_their_best_window(monkeypatch):
    monkeypatch.setattr("hbt_ray.retrieval.passage_shard.MIN_APPROXIMATE_VECTORS", 1)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((600, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    starts = np.arange(0, 300, 3)
    queries = vectors[[30, 300, 599]]
    exact, near = (
        PassageIndex.of(*(PassageIndexShard(vectors[n : n + 300], n // 3, kind, starts) for n in (0, 300)), depth=20)
        for kind in ("flat", "hnsw")
    )
    assert near.top_k(queries, 10)[1].tolist() == exact.top_k(queries, 10)[1].tolist()
    ranks = near.ranks(queries, np.array([[10], [100], [199]]), [slice(0, 100), slice(100, 200), slice(None)])
    assert ranks[:, :, 0].tolist() == [[1, 0, 0], [0, 1, 1], [1, 1, 1]]


def test_windows_record_their_passages_and_share_equal_texts():
    pieces = window_passages(["a b c d e f", "short", "c d e"], 5)
    assert pieces.texts == ["a b c", "c d e", "e f", "short"]
    assert pieces.rows.tolist() == [0, 1, 2, 3, 1]
    assert pieces.starts is not None
    assert pieces.starts.tolist() == [0, 3, 4]
    assert [part if part is None else part.tolist() for part in pieces.of_passages(1, 3)] == [[3, 1], [0, 1]]
    whole = window_passages(["a", "b", "a"], None)
    assert (whole.texts, whole.rows.tolist(), whole.starts) == (["a", "b"], [0, 1, 0], None)


def test_chunks_have_a_fixed_size():
    texts = [str(number) for number in range(2 * TEXTS_PER_CHUNK + 1)]
    assert [len(chunk) for chunk in window_passages(texts, None).chunks()] == [TEXTS_PER_CHUNK, TEXTS_PER_CHUNK, 1]


def test_an_answer_deep_in_a_long_passage_is_found_by_its_window():
    benchmark = parallel_benchmark(4, ("en",))
    long = [p.__class__(p.passage_id, "en", "x" * 40 + " " + p.text) for p in benchmark.passages]
    rng = np.random.default_rng(0)
    vectors = {f"q:en:{n}": np.eye(5)[n] for n in range(4)} | {f"p:en:{n}": np.eye(5)[n] for n in range(4)}

    class ByEnd(TableEmbedder):
        def passages(self, texts):
            known = [next((text for text in self.vectors if whole.endswith(text)), None) for whole in texts]
            seen = [len(whole) <= 16 and text is not None for whole, text in zip(texts, known, strict=True)]
            rows = [self.vectors[text] if ok else rng.random(5) * 0.1 for text, ok in zip(known, seen, strict=True)]
            return np.array(rows, np.float32)

    cut = evaluate_benchmark(
        ByEnd(vectors),
        benchmark.__class__("tiny", benchmark.queries, long, benchmark.judgements),
        EvaluateConfig(window_chars=16),
    )
    assert cut.metrics["tiny/mono/map"] == 1
    assert cut.counts["passages"] == 4
