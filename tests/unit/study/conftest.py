"""The results of the example study, evaluated once."""

from __future__ import annotations

import pytest

from hbt_ray.data.types import Benchmark
from hbt_ray.study.results import StudyResults
from tests.unit.study.example_study import grouped_benchmark, write_reports


@pytest.fixture(scope="package")
def benchmark() -> Benchmark:
    return grouped_benchmark()


@pytest.fixture(scope="package")
def results(tmp_path_factory: pytest.TempPathFactory, benchmark: Benchmark) -> StudyResults:
    return write_reports(tmp_path_factory.mktemp("study"), benchmark)
