"""Limits of what is read."""

from __future__ import annotations

import pytest

from hbt_ray.errors import ConfigError
from hbt_ray.utils.limits import DEFAULTS, FREE_GROWTH_BYTES, MAX_GROWTH, limit, max_decompressed_bytes


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
