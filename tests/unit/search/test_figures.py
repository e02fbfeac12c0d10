"""The figures of a search."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hbt_ray.search.candidates import Candidate
from hbt_ray.search.figures import bias_figure, half_widths, objectives_figure, write_figures
from hbt_ray.search.results import SearchResults, Trial, search_results
from tests.unit.search.searches import TRIALS, search_of, trial


def test_confidence_bands_pool_the_deviation_of_all_values():
    widths = half_widths([[1.0, 3.0], [5.0, 5.0]])
    # Pooled variance (2 + 0) / 2 = 1, two degrees of freedom, two values each.
    assert widths == pytest.approx([4.30265273 / 2**0.5] * 2)
    assert half_widths([[1.0], [2.0]]).tolist() == [0, 0]


def test_figures_are_written_where_there_is_data(tmp_path: Path):
    search = search_of(seeds=(0, 1))
    written = write_figures(search, search_results(search, TRIALS, passages=101), TRIALS, tmp_path)
    assert [file.name for file in written] == ["objectives.png", "pareto.png", "bias.png"]
    mixtures = [(n, {"mix.alpha": n / 40, "mix.source_weights": {"a": 1 + n, "b": 2}}) for n in (0, 20)]
    last = replace(TRIALS[0], candidate=Candidate(mixtures[-1][1]), mixtures=mixtures)
    space = {"mix.alpha": {"uniform": [0, 1]}, "mix.source_weights": {"simplex": ["a", "b"]}}
    branches = search_of(algorithm="branch", measure_every=20, space=space)
    written += write_figures(branches, search_results(branches, [last], passages=101), [last], tmp_path)
    assert written[-1].name == "schedule.png"
    for file in written:
        with Image.open(file) as picture:
            assert len(set(np.asarray(picture.convert("L").resize((60, 40))).ravel().tolist())) > 10
    of_one_trial = search_results(search, TRIALS[:1], passages=101)
    one = SearchResults(of_one_trial.ranked, of_one_trial.best, of_one_trial.knee, 10)
    assert write_figures(search, one, TRIALS[:1], tmp_path) == []


RATES = (1e-3, 1e-4)


def grid_trials(alphas: Sequence[float], rates: Sequence[float]) -> list[Trial]:
    """Return a trial of each combination; those with the first rate are better."""
    trials = []
    for alpha, rate in itertools.product(alphas, rates):
        one = trial(alpha, 0, 0.5 + alpha / 4 - 0.3 * (rate == RATES[1]), 0.5 - 0.3 * (rate == RATES[1]))
        candidate = Candidate({"mix.alpha": alpha, "train.learning_rate": rate})
        trials.append(replace(one, name=f"{candidate.name},seed=0", candidate=candidate))
    return trials


def test_figures_over_a_setting_do_not_average_over_another(tmp_path: Path):
    search = search_of(space={"mix.alpha": [0.0, 1.0], "train.learning_rate": RATES})
    trials = grid_trials([0.0, 1.0], RATES)
    results = search_results(search, trials, passages=101)
    assert results.best.values == {"mix.alpha": 1.0, "train.learning_rate": RATES[0]}
    figure = objectives_figure(search, results, trials)
    assert figure is not None
    panel = figure.axes[0]
    assert panel.lines[0].get_xydata().tolist() == [[0.0, 0.5], [1.0, 0.75]]
    assert len(panel.collections) == 2  # a trial at each value, and no band
    assert "other settings as in the choice" in figure.get_suptitle()
    bias = bias_figure(search, results, trials)
    assert bias is not None
    assert bias.axes[0].images[0].get_array().tolist() == [[50.0, 50.0]]


def test_no_figure_is_over_a_setting_that_differs_with_others_only():
    search = search_of(space={"mix.alpha": [0.0, 1.0], "train.learning_rate": RATES})
    trials = [*grid_trials([0.0], RATES[:1]), *grid_trials([1.0], RATES[1:])]
    results = search_results(search, trials, passages=101)
    assert objectives_figure(search, results, trials) is None
    assert bias_figure(search, results, trials) is None
