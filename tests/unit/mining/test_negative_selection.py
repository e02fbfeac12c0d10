"""Negatives are the highest-ranked passages without known positives."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.config import MineConfig
from hbt_ray.mining.negative_selection import candidate_pool, hard_negatives


def at(*degrees: float) -> np.ndarray:
    """Return unit vectors in a plane: the score of two is the cosine of the angle between them."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def mined(
    settings: MineConfig, own: float = 0.0, known: tuple[int, ...] = (0,), near: tuple[int, ...] = ()
) -> list[int]:
    """Return the passages selected of 0, 10, ... 50 degrees, for a question at 0 whose positive is at `own`."""
    columns, scores = hard_negatives(
        at(0),
        np.cos(np.radians([own])),
        at(0, 10, 20, 30, 40, 50),
        settings,
        lambda row, columns: np.isin(columns, known),
        lambda row, column: column in near,
    )
    assert np.isnan(scores).tolist() == (columns < 0).tolist()
    found = [column for column in columns[0].tolist() if column >= 0]
    assert columns[0].tolist() == found + [-1] * (settings.negatives - len(found))
    assert np.allclose(scores[0, : len(found)], np.cos(np.radians(10 * np.array(found))), atol=1e-6)
    return found


def test_the_nearest_that_do_not_answer_are_taken_in_their_order():
    assert mined(MineConfig(negatives=2)) == [1, 2]
    assert mined(MineConfig(negatives=2), known=(0, 2, 2, -1)) == [1, 3]
    assert mined(MineConfig(negatives=2), near=(1, 3)) == [2, 4]
    assert mined(MineConfig(negatives=9), known=(0, 4)) == [1, 2, 3, 5]


def test_ranks_are_skipped_among_what_does_not_answer():
    assert mined(MineConfig(negatives=2, skip_first=1)) == [2, 3]
    assert mined(MineConfig(negatives=2, skip_first=2), known=(0, 1), near=(2,)) == [5]
    assert mined(MineConfig(negatives=2, skip_first=4)) == [5]


def test_margin_drops_passages_scoring_near_the_gold():
    # cos 10 = 0.985, cos 20 = 0.940, cos 30 = 0.866, cos 40 = 0.766; of cos 30 a share of 0.95 is 0.823.
    assert mined(MineConfig(negatives=2, margin=1.0)) == [1, 2]
    assert mined(MineConfig(negatives=2, margin=0.95)) == [2, 3]
    assert mined(MineConfig(negatives=2, margin=0.95), own=30) == [4, 5]


def test_margin_drops_passages_above_a_gold_with_a_negative_score():
    # cos 100 = -0.17, cos 110 = -0.34, cos 120 = -0.5, cos 130 = -0.64; half of the gold's is -0.25.
    settings = MineConfig(negatives=2, margin=0.5)
    columns, _ = hard_negatives(
        at(0), np.array([-0.5]), at(100, 110, 130), settings, lambda row, columns: np.zeros(len(columns), bool), _never
    )
    assert columns.tolist() == [[2, -1]]


def test_skipping_and_margin_overlap_at_the_head_of_the_list():
    assert mined(MineConfig(negatives=2, skip_first=1, margin=0.95)) == [2, 3]
    assert mined(MineConfig(negatives=2, skip_first=2, margin=0.95)) == [3, 4]
    assert mined(MineConfig(negatives=1, skip_first=1, margin=0.87)) == [3]


def test_known_answers_count_among_the_passages_looked_at():
    assert mined(MineConfig(negatives=2, depth=3), known=(0,)) == [1, 2]
    assert mined(MineConfig(negatives=2, depth=2), known=(0,)) == [1]
    assert mined(MineConfig(negatives=1, depth=1), known=(0,)) == []


def test_without_a_passage_to_search_there_are_no_negatives():
    none = np.empty((0, 2), np.float32)
    columns, scores = hard_negatives(at(0), np.ones(1), none, MineConfig(negatives=2), _none_known, _never)
    assert columns.tolist() == [[-1, -1]]
    assert np.isnan(scores).all()


def _none_known(row: int, columns: np.ndarray) -> np.ndarray:
    return np.zeros(len(columns), bool)


def _never(row: int, column: int) -> bool:
    return False


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(0, 3),
    st.sampled_from([None, 0.5, 0.9]),
    st.integers(8, 50),
)
def test_negatives_are_those_of_a_plain_sort(
    seed: int, passages: int, negatives: int, skip_first: int, margin: float | None, depth: int
):
    rng = np.random.default_rng(seed)
    # Whole numbers: scores are exact, and often equal.
    pool, queries = (rng.integers(-2, 3, (number, 3)).astype(np.float32) for number in (passages, 9))
    own_scores = rng.integers(-4, 13, 9).astype(np.float32)
    answers, near = rng.random((9, passages)) < 0.2, rng.random((9, passages)) < 0.2
    settings = MineConfig(negatives=negatives, skip_first=skip_first, depth=depth, margin=margin)
    columns, _ = hard_negatives(
        queries, own_scores, pool, settings, lambda row, c: answers[row, c], lambda row, c: bool(near[row, c])
    )
    for row, scores in enumerate(queries @ pool.T):
        order = (passages - 1 - np.argsort(-scores[::-1], kind="stable"))[:depth]
        left = [c for c in order.tolist() if not answers[row, c] and not near[row, c]][skip_first:]
        allowed = [c for c in left if margin is None or scores[c] <= min(margin * own_scores[row], own_scores[row])]
        expected = allowed[:negatives]
        assert columns[row].tolist() == expected + [-1] * (negatives - len(expected))


def test_negatives_do_not_depend_on_the_block_size(monkeypatch):
    queries, pool = at(*range(0, 60, 7)), at(*range(0, 90, 5))

    def columns() -> list[list[int]]:
        own_scores = np.ones(len(queries))
        found = hard_negatives(queries, own_scores, pool, MineConfig(), lambda row, columns: columns == row, _never)
        return found[0].tolist()

    together = columns()
    monkeypatch.setattr("hbt_ray.mining.negative_selection._QUESTIONS_PER_BLOCK", 2)
    assert columns() == together


def test_a_pool_has_each_text_once_and_none_that_only_others_have():
    keys = np.array([5, 3, 5, 4, 3, 9], np.uint64)
    assert candidate_pool(keys, np.array([True, False, True, True, True, False])).tolist() == [0, 3, 4]
