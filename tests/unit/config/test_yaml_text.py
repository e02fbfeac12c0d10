"""YAML of settings."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.config.yaml_text import parse_yaml
from hbt_ray.errors import ConfigError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_what_yaml_writes_is_read_equal(value):
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=False), "x") == value


@given(st.text() | st.text(alphabet="[]{}&*!|>'\"%@:,#-? \n\t<a1.", max_size=40))
def test_any_text_is_a_value_or_one_sentence(text: str):
    with suppress(ConfigError):
        parse_yaml(text, "run.yaml")
        return
    with pytest.raises(ConfigError, match=r"^run\.yaml [^\n]*$"):
        parse_yaml(text, "run.yaml")


def test_scalars_without_a_common_meaning_are_texts():
    assert parse_yaml("[yes, no, on, 12:30, 2024-01-01, 010, 1_000, 1e3, .5, 0x1f, ~]", "x") == [
        *("yes", "no", "on", "12:30", "2024-01-01", "010", 1000, "1e3", 0.5, 31, None)
    ]


def test_billion_values_by_aliases_are_refused_at_once():
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 8))]
    started = time.perf_counter()
    with pytest.raises(ConfigError, match=r"holds \d{8} values, with aliases; shorten it or raise HBT_MAX_CONFIG_V"):
        parse_yaml("\n".join(lines), "x")
    assert time.perf_counter() - started < 1


def test_limits_are_set_by_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HBT_MAX_CONFIG_VALUES", "4")
    assert parse_yaml("[1, 2, 3]", "x") == [1, 2, 3]
    with pytest.raises(ConfigError, match="holds 5 values"):
        parse_yaml("[1, 2, 3, 4]", "x")
    monkeypatch.setenv("HBT_MAX_CONFIG_BYTES", "many")
    with pytest.raises(ConfigError, match="HBT_MAX_CONFIG_BYTES=many is no positive whole number; write HBT_MAX"):
        parse_yaml("1", "x")
