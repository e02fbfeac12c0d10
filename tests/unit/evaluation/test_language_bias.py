"""Formulas of language bias equal values worked out on paper and have their properties."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hbt_ray.evaluation.language_bias import (
    complete,
    consistency,
    max_rank,
    peer,
    rank_biased_overlap,
    same_language_first,
)
from hbt_ray.evaluation.metrics import METRICS, RankedJudgements, rank_distance, recall, success
from hbt_ray.retrieval.exact_scores import NOT_RETRIEVED


def test_the_first_of_the_parallel_passages_decides():
    own = np.array([[True, False, False]] * 4)
    ranks = np.array([[2, 1, 9], [1, 2, 3], [5, 0, 0], [0, 4, 6]])
    assert same_language_first(ranks, own)[:2].tolist() == [0, 1]
    assert np.isnan(same_language_first(ranks, own)[2:]).all()  # no choice between languages


def test_same_language_first_of_missed_passages_does_not_depend_on_their_order():
    """All have the rank after the listed ones, of which the first by id counted."""
    missed = np.full((3, 3), 1001)
    assert same_language_first(missed, np.eye(3, dtype=bool)) == pytest.approx(np.full(3, 1 / 3))
    some = np.array([[1001, 7, 1001]])
    assert same_language_first(some, np.array([[True, False, True]])).tolist() == [0]


def test_same_language_first_is_one_in_n_without_preference():
    rng = np.random.default_rng(0)
    ranks = np.array([rng.permutation(100)[:4] + 1 for _ in range(4000)])
    own = np.zeros((4000, 4), bool)
    own[:, 1] = True
    assert same_language_first(ranks, own).mean() == pytest.approx(1 / 4, abs=3 * (0.25 * 0.75 / 4000) ** 0.5)


def test_max_rank_is_where_the_last_relevant_passage_is_found():
    # The rankings written out: which passages of 9 are relevant.
    is_relevant = np.array([[0, 1, 0, 0, 1, 0, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0, 0], [0] * 9], bool)
    ranks = np.array([[7, 2, 5], [2, 1, 0], [0, 0, 0]])
    assert max_rank(ranks)[:2].tolist() == [1 + np.flatnonzero(row)[-1] for row in is_relevant[:2]]
    assert np.isnan(max_rank(ranks)[2])
    assert max_rank(np.array([[3, NOT_RETRIEVED]])).tolist() == [3]


def test_mean_max_rank_of_random_orders_is_the_known_one():
    passages, relevant, orders = 500, 11, 4000
    rng = np.random.default_rng(7)
    highest = max_rank(np.stack([rng.permutation(passages)[:relevant] + 1 for _ in range(orders)]))
    expected = relevant / (relevant + 1) * (passages + 1)
    assert abs(highest.mean() - expected) < 3 * highest.std() / orders**0.5


def test_max_rank_of_a_query_has_a_value_where_rank_distance_has():
    languages = np.array([["de", "en"], ["de", "de"], ["de", "en"], ["de", "en"]], object)
    ranks = np.array([[4, 9], [4, 9], [4, NOT_RETRIEVED], [4, NOT_RETRIEVED]])
    for depth, expected in ((None, [9, np.nan, np.nan, np.nan]), (100, [9, np.nan, 101, np.nan])):
        judged = RankedJudgements(
            ranks=ranks,
            grades=np.ones((4, 2), int),
            passage_languages=languages,
            is_in_pool=np.array([[True, True], [True, True], [True, True], [True, False]]),
            query_language="de",
            depth=depth,
        )
        distances, highest = (METRICS[name].compute(judged) for name in ("rank_distance", "max_rank"))
        assert np.isnan(distances).tolist() == np.isnan(highest).tolist()
        assert highest.tolist() == pytest.approx(expected, nan_ok=True)


def test_complete_needs_all_relevant_passages_and_enough_positions():
    ranks = np.array([[10, 1, 4], [11, 1, 4], [1, NOT_RETRIEVED, 0], [7, 0, 0], [0, 0, 0]])
    assert complete(ranks, 10).tolist() == [1, 0, 0, 1, 0]
    eleven = np.arange(1, 12)[None]  # the best order of 11 relevant passages
    assert np.isnan(complete(eleven, 10)).all()
    assert complete(eleven, 20).tolist() == complete(eleven, 11).tolist() == [1]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True), st.integers(6, 40))
def test_complete_is_whether_max_rank_is_within_k(ranks: list[int], k: int):
    row = np.array([ranks])
    assert complete(row, k)[0] == (max(ranks) <= k) == (recall(row, k)[0] == 1) == (max_rank(row)[0] <= k)
    assert complete(row, k)[0] <= success(row, k)[0]
    if len(ranks) > 1:
        assert max_rank(row)[0] == rank_distance(row)[0] + min(ranks)


def test_overlap_on_paper():
    # Webber et al. 2010: agreement at each depth, here 1/1, 1/2 and 2/3, each weighted by (1 - p) * p ** (depth - 1).
    p = 0.9
    expected = (1 - p) * (1 + p / 2 + p**2 * 2 / 3) + 2 / 3 * p**3
    assert rank_biased_overlap(np.array([[1, 2, 3]]), np.array([[1, 3, 9]]))[0] == pytest.approx(expected)


@given(st.permutations(range(8)), st.permutations(range(8)))
def test_overlap_is_symmetric_and_between_zero_and_one(one: list[int], other: list[int]):
    first, second = np.array([one[:5]]), np.array([other[:5]])
    overlap = rank_biased_overlap(first, second)[0]
    assert overlap == pytest.approx(rank_biased_overlap(second, first)[0])
    assert 0 <= overlap <= 1 + 1e-12
    assert rank_biased_overlap(first, first)[0] == pytest.approx(1)
    assert rank_biased_overlap(first, first + 100)[0] == 0


def test_consistency_compares_only_translations():
    columns = np.array([[1, 2], [5, 6], [1, 2], [7, 8], [9, 4]])
    groups = ["a", "b", "a", "b", ""]
    found = consistency(groups, ["de", "de", "en", "en", "en"], columns)
    assert found == {("de", "en"): pytest.approx((1 + 0) / 2)}


def test_peer_is_high_for_alternating_languages_only():
    languages = np.array([["de"] * 8 + ["en"] * 8] * 2, object)
    in_turn = [*range(1, 17, 2), *range(2, 17, 2)]
    found = peer(np.array([in_turn, range(1, 17)]), languages, np.ones((2, 16), int), 100)
    # Places without gaps or ties: the usual test of Kruskal and Wallis.
    expected = [stats.kruskal(in_turn[:8], in_turn[8:])[1], stats.kruskal(range(1, 9), range(9, 17))[1]]
    assert found == pytest.approx(expected)
    assert found[0] > 0.6 > 0.01 > found[1]


def test_peer_ranks_missing_passages_last_and_averages_grades():
    languages = np.array([["de", "de", "en", "en"]], object)
    missed = peer(np.array([[1, 2, 0, 500]]), languages, np.array([[1, 1, 1, 1]]), 10)
    # 1 and 2 against twice (11 + 12) / 2: between 90.25, within 0.5.
    assert missed[0] == pytest.approx(stats.chi2.sf(3 * 100 / 100.5, 1))
    by_grade = peer(np.array([[1, 2, 3, 4]]), languages, np.array([[2, 1, 2, 1]]), 10)
    assert by_grade[0] == pytest.approx(stats.chi2.sf(1, 1))  # two passages of each grade, one in each language


def test_peer_is_undefined_for_one_passage_per_language():
    languages = np.array([["de", "en"], ["de", "de"]], object)
    assert np.isnan(peer(np.array([[1, 9], [1, 9]]), languages, np.ones((2, 2), int), 10)).all()


def test_peer_equals_its_authors_package_within_the_depth(monkeypatch):
    # The package imports a function that later versions of ir_measures have renamed.
    monkeypatch.setattr(ir_measures.util, "flatten_measures", lambda measures: measures, raising=False)
    monkeypatch.setattr(ir_measures.util, "QrelsConverter", lambda qrels: Plain(qrels), raising=False)
    monkeypatch.setattr(ir_measures.util, "RunConverter", lambda run: Plain(run), raising=False)
    from peer_measure import PEER, PEERProvider

    rng = np.random.default_rng(0)
    languages = np.array(["de", "de", "en", "en", "sw", "sw"], object)
    names = [f"p{n:02}" for n in range(40)]
    for _ in range(20):
        ranks = rng.permutation(40)[:6] + 1
        grades = np.array([1, 1, 1, 1, 1, 2])
        judged = {names[rank - 1]: int(grade) for rank, grade in zip(ranks, grades, strict=True)}
        qrels = {"q": dict.fromkeys(names, 0) | judged}
        spoken = dict.fromkeys(names, "de") | dict(zip((names[rank - 1] for rank in ranks), languages, strict=True))
        run = {"q": {name: float(-n) for n, name in enumerate(names)}}
        measure = PEER(weights={1: 0.5, 2: 0.5}, lang_mapping=spoken) @ 100
        [found] = PEERProvider()._evaluator([measure], qrels)._iter_calc(run)
        assert peer(ranks[None], languages[None], grades[None], 100)[0] == pytest.approx(found.value)


class Plain:
    """What the package's converters give: the mapping itself."""

    def __init__(self, mapping: dict[str, dict[str, float]]) -> None:
        self.mapping = mapping

    def as_dict_of_dict(self) -> dict[str, dict[str, float]]:
        return self.mapping


def test_overlap_ignores_missing_entries():
    assert rank_biased_overlap(np.array([[1, -1, -1]]), np.array([[2, -1, -1]])).tolist() == [0]
