"""Settings explained, and a file of all settings from which each can be switched on."""

from __future__ import annotations

import re

import pytest

from hbt_ray.config import PretrainRunConfig, RunConfig, build, load, parse_yaml, setting_keys
from hbt_ray.config.template import commented_settings, explain_setting
from hbt_ray.errors import ConfigError

RUNS = pytest.mark.parametrize("config_type", [RunConfig, PretrainRunConfig])


@RUNS
def test_file_of_all_settings_is_valid_as_it_is_written(tmp_path, config_type):
    file = tmp_path / "run.yaml"
    file.write_text(commented_settings(config_type, "A run."), encoding="utf-8")
    assert load(config_type, file) == config_type()


@RUNS
def test_file_with_every_setting_switched_on_has_the_defaults(config_type):
    text = commented_settings(config_type, "A run.")
    switched_on = re.sub("^#(?!#)", "", text, flags=re.MULTILINE)
    data = parse_yaml(switched_on, "file")
    assert build(config_type, data) == config_type()
    written = {key[0] for key in setting_keys(config_type)}
    assert data.keys() == written
    assert all(len(line) <= 100 for line in text.splitlines())


def test_explanation_has_meaning_values_and_default():
    assert explain_setting(("mix", "alpha")).splitlines() == [
        "mix.alpha",
        "  `hybrid`: probability that a batch is monolingual; otherwise it is cross-",
        "  lingual.",
        "  values   float, ≥ 0, ≤ 1",
        "  default  0.5",
    ]


def test_explanation_of_a_section_lists_its_settings():
    lines = explain_setting(("text",)).splitlines()
    assert lines[:2] == ["text", "  How text becomes tokens. A store serves only the settings it was made with."]
    assert lines[-1] == "  - max_passage_tokens (int, ≥ 4; default 128)"


@RUNS
def test_every_setting_is_explained_within_80_columns(config_type):
    for key in setting_keys(config_type):
        lines = explain_setting(key, config_type).splitlines()
        assert lines[0] == ".".join(key)
        assert max(map(len, lines)) <= 80


def test_entry_of_a_mapping_is_explained_by_its_setting():
    with pytest.raises(ConfigError, match=r"is an entry that you name; explain evaluate\.benchmarks"):
        explain_setting(("evaluate", "benchmarks", "mine"))
