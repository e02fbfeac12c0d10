"""The page of a search has its results, and depends on its trials only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hbt_ray.search.figures import write_figures
from hbt_ray.search.page import write_search_page
from hbt_ray.search.results import search_results
from tests.helpers.html_pages import PageReader, read_page
from tests.unit.search.searches import TRIALS, search_of

NASTY = "<script>alert(1)</script>\u202e"


@pytest.fixture
def page(tmp_path: Path) -> PageReader:
    search = search_of(seeds=(0, 1))
    trials = [*TRIALS[:-1], replace(TRIALS[-1], reason=NASTY)]
    results = search_results(search, trials, passages=101)
    results = replace(results, test={results.best.name: {"tiny/mono/map": [0.25, 0.75]}})
    figures = write_figures(search, results, trials, tmp_path)
    given = {"passages": 101, "fingerprints": {"held-out": "0123", "tiny": "4567"}}
    file = write_search_page(search, results, trials, figures, tmp_path, **given)
    first = file.read_bytes()
    assert write_search_page(search, results, trials, figures, tmp_path, **given).read_bytes() == first
    return read_page(first.decode())


def test_choice_configurations_and_trials_have_the_results(page: PageReader):
    configurations, tests, trials = page.tables
    assert "The choice is mix.alpha=0.5" in page.text or "The choice is alpha=0.5" in page.text
    half = next(row for row in configurations if row[0].endswith("alpha=0.5"))
    # Means of the two seeds with their standard deviation; the rank distance is 100 (1 - cross).
    assert half[1:5] == ["0.8000", "0.7500 ±0.0707", "0.5000", "25.0 ±7.1"]
    assert configurations[1] == half
    assert "choice" in half[6]
    assert tests[1][1] == "0.5000 ±0.3536"
    assert len(trials) == 1 + len(TRIALS)
    assert trials[-1][1:4] == ["1", "stopped", "5"]
    assert trials[-1][-1] == "<script>alert(1)</script>\ufffd"


def test_page_has_figures_data_settings_and_best_yaml(page: PageReader):
    assert page.tags.count("img") == 3
    for words in ("fingerprint 0123", "fingerprint 4567", "random weights", "mono mAP × 1", "alpha: 0.5"):
        assert words in page.text, words
