"""Limits of what is read."""

from __future__ import annotations

import os
from unittest import mock

import pytest

from hbt_ray.errors import ConfigError
from hbt_ray.utils.limits import (
    DEFAULTS,
    FREE_GROWTH_BYTES,
    MAX_GROWTH,
    MAX_LINE_BYTES,
    limit,
    max_decompressed_bytes,
    under_these_limits,
)


@pytest.mark.parametrize("variable", DEFAULTS)
@pytest.mark.parametrize("wrong", ["0", "-1", "many", "1.5", " "])
def test_limit_that_is_no_positive_number_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str, wrong: str):
    monkeypatch.setenv(variable, wrong)
    with pytest.raises(ConfigError, match=f"no positive whole number; write {variable}={DEFAULTS[variable]}"):
        limit(variable)


def test_small_files_may_grow_freely_and_large_ones_by_a_factor(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(MAX_GROWTH, "3")
    assert max_decompressed_bytes(10) == FREE_GROWTH_BYTES
    assert max_decompressed_bytes(FREE_GROWTH_BYTES) == 3 * FREE_GROWTH_BYTES


@mock.patch.dict(os.environ)  # which the function changes
def test_function_for_other_processes_takes_the_limits_with_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(MAX_LINE_BYTES, "500")
    monkeypatch.delenv(MAX_GROWTH, raising=False)
    there = under_these_limits(limit)
    monkeypatch.setenv(MAX_LINE_BYTES, "7")
    monkeypatch.setenv(MAX_GROWTH, "7")
    assert (there(MAX_LINE_BYTES), there(MAX_GROWTH)) == (500, DEFAULTS[MAX_GROWTH])
