"""Kinds of values: numbers, truth values and lists are not taken for each other."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Union, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.config import ConfigSection, PretrainRunConfig, RunConfig, build, build_config, set_key
from hbt_ray.errors import ConfigError
from hbt_ray.search.config import SearchSettings


def kinds(annotation: object) -> set[object]:
    """Return the types that a setting's value may have, without those inside of lists and sections."""
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*map(kinds, get_args(annotation)))
    return kinds(get_args(annotation)[0]) if hasattr(annotation, "__metadata__") else {annotation}


def settings(section: type[ConfigSection], *wanted: type, key: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the full keys of the settings that take one of the types."""
    for name, field in section.model_fields.items():
        found = kinds(field.annotation)
        if found & set(wanted):
            yield ".".join((*key, name))
        for inner in found:
            if isinstance(inner, type) and issubclass(inner, ConfigSection):
                yield from settings(inner, *wanted, key=(*key, name))


NUMBERS = [(run, key) for run in (RunConfig, PretrainRunConfig, SearchSettings) for key in settings(run, int, float)]
SWITCHES = [(run, key) for run in (RunConfig, PretrainRunConfig, SearchSettings) for key in settings(run, bool)]


def refusal(run: type[ConfigSection], key: str, value: object) -> str:
    data: dict[str, object] = {"space": {"alpha": {"values": [0.5]}}} if run is SearchSettings else {}
    set_key(data, key.split("."), value)
    with pytest.raises(ConfigError) as raised:
        build(run, data)
    return str(raised.value)


def test_schema_has_numbers_and_truth_values_to_check():
    assert {"mix.alpha", "train.workers", "model.lora.rank", "seed"} <= {key for _, key in NUMBERS}
    assert {"train.gpu", "tracking.log_model"} <= {key for _, key in SWITCHES}


@given(st.sampled_from(NUMBERS), st.booleans())
def test_truth_value_is_no_number_in_any_setting(setting, value):
    run, key = setting
    assert refusal(run, key, value) == f"{key}: {str(value).lower()} is no number"


@given(st.sampled_from(NUMBERS), st.sampled_from(["yes", "on", "true", "many", "1,5", "0x", ""]))
def test_word_is_no_number_in_any_setting(setting, value):
    run, key = setting
    assert refusal(run, key, value).startswith(f"{key} is {value!r}: input should be a valid")


@given(st.sampled_from(SWITCHES), st.sampled_from([0, 1, 1.0, "1", "t", "yess", ""]))
def test_number_is_no_truth_value_in_any_setting(setting, value):
    run, key = setting
    assert refusal(run, key, value) == f"{key}: {value!r} is neither true nor false"


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("loss", "matryoshka", [32, True]),
        ("train", "workers", [1, True]),
        ("mix", "alpha_schedule", {"points": [[0, True]]}),
    ],
)
def test_truth_value_is_no_number_inside_of_a_list(section, name, value):
    with pytest.raises(ConfigError, match=f"{section}.{name}.*: true is no number"):
        build_config({section: {name: value}})


def test_single_value_for_a_list_is_answered_with_the_list():
    with pytest.raises(ConfigError, match=r"languages: 'de' is no list; write \[de\]"):
        build_config({"languages": "de"})


def test_text_of_a_number_is_a_number_as_environment_variables_are_texts():
    config = build_config({"train": {"learning_rate": "1e-3", "steps": "20", "gpu": "false"}})
    assert (config.train.learning_rate, config.train.steps, config.train.gpu) == (0.001, 20, False)
