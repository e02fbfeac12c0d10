"""The figures of a search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hbt_ray.search.candidates import Candidate
from hbt_ray.search.figures import half_widths, write_figures
from hbt_ray.search.results import SearchResults, Trial, search_results
from tests.unit.search.searches import TRIALS, search_of


def test_confidence_bands_pool_the_deviation_of_all_values():
    widths = half_widths([[1.0, 3.0], [5.0, 5.0]])
    # Pooled variance (2 + 0) / 2 = 1, two degrees of freedom, two values each.
    assert widths == pytest.approx([4.30265273 / 2**0.5] * 2)
    assert half_widths([[1.0], [2.0]]).tolist() == [0, 0]


def test_figures_are_written_where_there_is_data(tmp_path: Path):
    search = search_of(seeds=(0, 1))
    written = write_figures(search, search_results(search, TRIALS, passages=101), TRIALS, tmp_path)
    assert [file.name for file in written] == ["objectives.png", "pareto.png", "bias.png"]
    members = [
        Trial(
            name=f"member={n}",
            candidate=Candidate({"mix.alpha": n / 3}),
            seed=0,
            state="finished",
            evaluations=TRIALS[n].evaluations,
            alphas=[(0, n / 3), (40, 0.9)],
        )
        for n in range(3)
    ]
    population = search_of(algorithm="pbt", measure_every=20)
    written += write_figures(population, search_results(population, members, passages=101), members, tmp_path)
    assert written[-1].name == "schedule.png"
    for file in written:
        with Image.open(file) as picture:
            assert len(set(np.asarray(picture.convert("L").resize((60, 40))).ravel().tolist())) > 10
    of_one_trial = search_results(search, TRIALS[:1], passages=101)
    one = SearchResults(of_one_trial.ranked, of_one_trial.best, of_one_trial.knee, 10)
    assert write_figures(search, one, TRIALS[:1], tmp_path) == []
