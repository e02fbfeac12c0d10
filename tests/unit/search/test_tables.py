"""Tables of a search in a terminal of 80 columns."""

from __future__ import annotations

import io
import re
from dataclasses import replace

from rich.console import Console

from hbt_ray.search.candidates import Candidate
from hbt_ray.search.results import search_results
from hbt_ray.search.tables import result_tables
from hbt_ray.utils.terminal_table import print_tables
from tests.unit.search.searches import TRIALS, search_of


def test_long_configurations_and_spreads_are_whole_at_80_columns():
    search = search_of(seeds=(0, 1))
    trials = [
        replace(trial, candidate=Candidate({**trial.candidate.values, "train.learning_rate": 0.00003, "seed": 17}))
        for trial in TRIALS
    ]
    results = search_results(search, trials, passages=101)
    results = replace(results, test={results.best.name: {"tiny/mono/map": [0.25, 0.75], "tiny/cross/map": [0.5, 0.7]}})
    file = io.StringIO()
    print_tables(result_tables(search, results), Console(file=file, width=80))
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert all(result.name in text for result in results.ranked)
    assert "0.7500 ±0.0707" in text
    assert len(re.findall(r"\d ±0?\.?\d", text)) == text.count("±")
