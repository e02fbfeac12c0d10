from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hbt_ray.config import CONFIGS, build
from hbt_ray.errors import ConfigError
from hbt_ray.study.config import StudyConfig, load_study, study_file
from tests.unit.study.example_study import SETTINGS

MADE = {"corpus": {"format": "embedded"}}
STUDIES = sorted(file.stem for file in (CONFIGS / "studies").glob("*.yaml"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reference": "none"}, "no method"),
        ({"seeds": [1, 1]}, "names one twice"),
        ({"methods": {"hybrid": {"pretrained": "x"}, "b": {}}}, "not in pretraining"),
        ({"methods": {"hybrid": {"mined_with": "hybrid"}, "b": {}}}, "another method that needs none itself"),
        ({"pretraining": {"two": {"after": "one"}, "one": {}}}, "must be listed before it"),
        (
            {"methods": {"hybrid": {"settings": {"mix.alpha": 0}}, "Hybrid!": {"settings": {"mix.alpha": 1}}}},
            "the methods 'hybrid' and 'Hybrid!' have one file name, 'hybrid'; rename one",
        ),
        ({"pretraining": {"one": {}, "One": {}}}, "the pretraining 'one' and 'One' have one file name"),
        ({"made": {"beir/a": MADE, "beir/A": MADE}}, "the made 'beir/a' and 'beir/A' have one file name"),
        ({"made": {"tiny": MADE}}, "tiny is in made and in run.evaluate.benchmarks"),
        ({"made": {"ti/ny": MADE}, "run": {"evaluate": {"benchmarks": {"ti-ny": "x"}}}}, "have one file name, 'ti-ny'"),
    ],
)
def test_inconsistent_study_is_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        build(StudyConfig, SETTINGS | changed)


@pytest.mark.parametrize("name", STUDIES)
def test_study_of_the_package_loads_with_overrides(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HBT_DATA", "/data")
    assert load_study(study_file(name), ["run.steps=3"]).run.train.steps == 3


def test_keys_of_methods_and_pretrainings_may_be_shortened(tmp_path):
    file = tmp_path / "study.yaml"
    methods = "{hybrid: {pretrained: one, settings: {alpha: 0.3}}, b: {}}"
    rest = "pretraining: {one: {settings: {steps: 7}}}\nmeasures: [tiny/multi/map]\n"
    file.write_text(f"name: s\ntitle: t\nquestion: q\nreference: hybrid\nmethods: {methods}\n{rest}")
    config = load_study(file)
    assert config.methods["hybrid"].settings == {"mix.alpha": 0.3}
    assert config.pretraining["one"].settings == {"pretrain.steps": 7}
    assert config.run.name == "s"


@pytest.mark.parametrize("value", ["generation", "3", "[a]", "{hybrid: text}", "{hybrid: {settings: text}}"])
@pytest.mark.parametrize("section", StudyConfig.model_fields)
def test_a_section_of_another_type_is_read_or_refused_in_a_line(section: str, value: str, tmp_path: Path):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(SETTINGS | {section: yaml.safe_load(value)}))
    message = section
    try:
        assert load_study(file)
    except ConfigError as error:
        message = str(error)
    assert section in message
    assert "\n" not in message


def test_unknown_study_is_refused_with_the_names_of_the_others():
    with pytest.raises(ConfigError, match=r"there is no study 'low'; there are .*low-resource"):
        study_file("low")


def test_settings_without_run_are_the_studys():
    config = StudyConfig.model_validate(SETTINGS)
    assert config.without_run.model_dump() == {k: v for k, v in config.model_dump().items() if k != "run"}
