"""The results of finished trials, and their files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hbt_ray.config import load_config
from hbt_ray.errors import UserError
from hbt_ray.search.candidates import Candidate
from hbt_ray.search.results import Trial, best_config, search_results, trials_table, write_results
from tests.unit.search.searches import TRIALS, search_of, trial


def test_candidates_are_ranked_by_means_over_finished_seeds():
    results = search_results(search_of(seeds=(0, 1)), TRIALS, passages=101)
    assert [result.name for result in results.ranked] == ["alpha=0.5", "alpha=0.0", "alpha=0.75"]
    best = results.best
    assert best.mean["mono/map"] == pytest.approx(0.8)
    assert best.deviation["cross/map"] == pytest.approx(0.05 * 2**0.5)
    # Ranges on the front: mono 0.35, cross and rank distance 0.65, multi none.
    assert best.score == pytest.approx(1 - ((0.1 / 0.35) ** 2 / 4 + 2 * (0.1 / 0.65) ** 2 / 4) ** 0.5)
    assert results.steps == 7 * 10 + 5
    # The best of all by its only seed, and so not comparable.
    assert results.incomplete == ("alpha=1.0",)
    assert results.warnings == ["not ranked, because fewer than 2 of their seeds finished: alpha=1.0"]
    assert {result.name for result in results.ranked if result.on_front} == {"alpha=0.0", "alpha=0.5", "alpha=0.75"}
    assert results.knee.name == "alpha=0.5"


def test_unit_and_range_of_an_objective_do_not_decide():
    """Rank distance falls by two thirds of the pool from alpha 0.5 to 0, and decides by that range otherwise."""
    trials = [trial(0.0, 0, 0.45, 0.95), trial(0.5, 0, 0.56, 0.70), trial(1.0, 0, 0.57, 0.30)]
    assert search_results(search_of(), trials, passages=101).best.name == "alpha=0.5"
    by_rank_distance = search_of(objectives={"mono/map": 1, "multi/rank_distance": 9})
    assert search_results(by_rank_distance, trials, passages=101).best.name == "alpha=0.0"


def test_choice_below_the_untrained_encoder_within_a_language_warns():
    results = search_results(search_of(), TRIALS, passages=101)
    results = replace(results, incomplete=())
    assert results.warnings == []
    below = replace(results, untrained={"mono/map": 0.85, "cross/map": 0.99, "multi/rank_distance": 1.0})
    assert below.warnings == [
        "alpha=0.5 is worse within a language than the untrained encoder: mono/map 0.800 against 0.850; weigh mono/map "
        "more in objectives, or train longer"
    ]
    assert replace(results, untrained={"mono/map": 0.79}).warnings == []


def test_search_without_a_finished_trial_says_why():
    with pytest.raises(UserError, match="no trial came to its end: it broke"):
        search_results(search_of(), [trial(0.5, 0, 0, 0, "failed")], passages=10)


def test_files_do_not_depend_on_the_order_of_trials(tmp_path: Path):
    search = search_of(seeds=(0, 1))
    for name, trials in (("one", TRIALS), ("other", TRIALS[::-1])):
        (tmp_path / name).mkdir()
        write_results(search, search_results(search, trials, passages=101), trials, tmp_path / name)
    for file in ("best.yaml", "summary.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    table = pq.read_table(tmp_path / "one" / "trials.parquet")
    assert table.equals(pq.read_table(tmp_path / "other" / "trials.parquet"))
    assert table["mix.alpha"].to_pylist() == [0.0, 0.0, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0]
    best = load_config(tmp_path / "one" / "best.yaml")
    assert (best.mix.alpha, best.seed) == (0.5, 0)


def test_last_branch_becomes_a_run_with_phases():
    mixtures = [(0, {"mix.alpha": 0.5}), (40, {"mix.alpha": 0.6})]
    evaluations = TRIALS[0].evaluations  # of step 10
    lost = Trial("steps=0-10,branch=1", Candidate({"mix.alpha": 0.1}), 0, "stopped", evaluations, mixtures[:1])
    last = Trial("steps=4-10,branch=0", Candidate({"mix.alpha": 0.6}), 0, "finished", evaluations, mixtures, 4)
    search = search_of(algorithm="branch", measure_every=20)
    results = search_results(search, [lost, last], passages=101)
    assert results.steps == 10 + 6
    config = best_config(search, results.best, [lost, last])
    assert config.mix.alpha == 0.5
    assert [(phase.first_batch, phase.alpha) for phase in config.mix.phases] == [(40, 0.6)]
    assert trials_table(search, [last])["mix.alpha"].to_pylist() == [0.6]
