"""Formulas of language bias equal values worked out on paper and have their properties."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hbt_ray.evaluation.language_bias import consistency, peer, rank_biased_overlap, same_language_first


def test_the_first_of_the_parallel_passages_decides():
    own = np.array([[True, False, False]] * 4)
    ranks = np.array([[2, 1, 9], [1, 2, 3], [5, 0, 0], [0, 4, 6]])
    assert same_language_first(ranks, own)[:2].tolist() == [0, 1]
    assert np.isnan(same_language_first(ranks, own)[2:]).all()  # no choice between languages


def test_same_language_first_is_one_in_n_without_preference():
    rng = np.random.default_rng(0)
    ranks = np.array([rng.permutation(100)[:4] + 1 for _ in range(4000)])
    own = np.zeros((4000, 4), bool)
    own[:, 1] = True
    assert same_language_first(ranks, own).mean() == pytest.approx(1 / 4, abs=3 * (0.25 * 0.75 / 4000) ** 0.5)


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
