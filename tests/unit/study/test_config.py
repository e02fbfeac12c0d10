from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hbt_ray.config import CONFIGS, build, read_yaml
from hbt_ray.errors import ConfigError
from hbt_ray.study.config import StudyConfig, load_study, study_file, without_absent_benchmarks
from tests.unit.study.example_study import SETTINGS

MADE = {"corpus": {"format": "embedded"}}
STUDIES = sorted(file.stem for file in (CONFIGS / "studies").glob("*.yaml"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reference": "none"}, "no method"),
        ({"seeds": [1, 1]}, "names one twice"),
        ({"methods": {"hybrid": {"pretrained": "x"}, "b": {}}}, "not in pretraining"),
        ({"methods": {"hybrid": {"mined_with": "hybrid"}, "b": {}}}, "methods need each other's encoders: hybrid"),
        ({"methods": {"hybrid": {"mined_with": "b"}, "b": {"taught_by": "hybrid"}}}, "need each other's encoders"),
        ({"methods": {"hybrid": {"taught_by": "c"}, "b": {}}}, "hybrid needs 'c', which is no method"),
        (
            {"methods": {"hybrid": {"taught_by": "b"}, "b": {"trained": False, "debiased": "mean"}}},
            "hybrid needs the encoder of 'b', which cannot be used without the language of each text",
        ),
        ({"methods": {"hybrid": {}, "b": {"encoder_of": "hybrid"}}}, "is evaluated as it is; write trained: false"),
        (
            {"methods": {"hybrid": {}, "b": {"trained": False, "taught_by": "hybrid"}}},
            "taught_by 'hybrid' has no effect",
        ),
        (
            {"methods": {"hybrid": {}, "b": {"trained": False, "settings": {"train.steps": 5}}}},
            "train.steps has no effect with trained: false",
        ),
        ({"methods": {"hybrid": {"tokens_of": "b"}, "b": {"trained": False}}}, "another trained method with steps"),
        ({"methods": {"hybrid": {"tokens_of": "b"}, "b": {"tokens_of": "hybrid"}}}, "another trained method with"),
        ({"pretraining": {"two": {"after": "one"}, "one": {}}}, "must be listed before it"),
        (
            {"methods": {"hybrid": {"settings": {"mix.alpha": 0}}, "Hybrid!": {"settings": {"mix.alpha": 1}}}},
            "the methods 'hybrid' and 'Hybrid!' have one file name, 'hybrid'; rename one",
        ),
        ({"pretraining": {"one": {}, "One": {}}}, "the pretraining 'one' and 'One' have one file name"),
        ({"made": {"beir/a": MADE, "beir/A": MADE}}, "the made 'beir/a' and 'beir/A' have one file name"),
        ({"made": {"tiny": MADE}}, "tiny is in made and in run.evaluate.benchmarks"),
        ({"chapters": ["scale"], "pretraining": {"one": {}}}, "scale needs a method whose pretraining sets languages"),
        ({"run": {}}, "the chapter robustness needs perturbed queries; write run.evaluate.perturbations="),
        ({"debias_items": 7}, "debias_items has no effect where no method is debiased"),
        (
            {"methods": {"hybrid": {}, "b": {"debiased": "mean", "settings": {"dimensions": 64}}}},
            "evaluate.dimensions 64 would cut vectors from which b subtracts whole means; leave it out",
        ),
        ({"made": {"ti/ny": MADE}, "run": {"evaluate": {"benchmarks": {"ti-ny": "x"}}}}, "have one file name, 'ti-ny'"),
    ],
)
def test_inconsistent_study_is_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        build(StudyConfig, SETTINGS | changed)


@pytest.mark.parametrize("name", STUDIES)
def test_study_of_the_package_loads_with_overrides(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HBT_DATA", "/data")
    monkeypatch.setenv("HBT_MODELS", "/models")
    assert load_study(study_file(name), ["run.steps=3"]).run.train.steps == 3
    for preset in read_yaml(study_file(name)).get("presets", {}):
        assert load_study(study_file(name), ["run.steps=3"], preset).run.train.steps == 3


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


def test_preset_merges_mappings_and_null_removes_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HBT_ELSEWHERE", raising=False)
    presets = {
        "short": {"seeds": [7], "methods": {"x-y": None}, "run": {"train": {"steps": 4}}},
        "elsewhere": {"run": {"model": {"path": "${HBT_ELSEWHERE}"}}},  # a variable that nobody needs
    }
    file = tmp_path / "study.yaml"
    run = {"train": {"steps": 9, "learning_rate": 0.5}, "evaluate": {"benchmarks": {"tiny": "x"}}}
    file.write_text(yaml.safe_dump(SETTINGS | {"chapters": [], "run": run, "presets": presets}, sort_keys=False))
    whole, short = load_study(file), load_study(file, ["run.temperature=0.2"], "short")
    assert (whole.seeds, whole.run.train.steps, list(whole.methods)) == ((0, 1, 2), 9, ["untrained", "hybrid", "x-y"])
    assert (short.seeds, short.run.train.steps, list(short.methods)) == ((7,), 4, ["untrained", "hybrid"])
    assert (short.run.train.learning_rate, short.run.train.temperature) == (0.5, 0.2)
    with pytest.raises(ConfigError, match=r"there is no preset 'long' in .*study\.yaml; it has short, elsewhere"):
        load_study(file, preset="long")
    with pytest.raises(ConfigError, match="needs the environment variable HBT_ELSEWHERE"):
        load_study(file, preset="elsewhere")
    file.write_text("presets: [a]")
    with pytest.raises(ConfigError, match="must hold settings by name"):
        load_study(file)


def test_absent_optional_benchmarks_are_left_out_with_their_metrics(tmp_path: Path):
    benchmarks = {"tiny": str(tmp_path), "miracl/sw": str(tmp_path / "none")}
    measures = ["miracl-sw/mono/map", "tiny/mono/map", "drop/miracl-sw/multi/map"]
    changed = {"chapters": [], "measures": measures, "run": {"evaluate": {"benchmarks": benchmarks}}}
    config = StudyConfig.model_validate(SETTINGS | changed)
    assert without_absent_benchmarks(config) == (config, [])  # it is not optional
    config = config.model_copy(update={"optional_benchmarks": ("miracl/sw", "tiny")})
    left, absent = without_absent_benchmarks(config)
    assert (left.measures, list(left.run.evaluate.benchmarks), absent) == (("tiny/mono/map",), ["tiny"], ["miracl/sw"])
    with pytest.raises(ConfigError, match="none of the benchmarks miracl/sw is there"):
        without_absent_benchmarks(config.model_copy(update={"measures": ("miracl-sw/mono/map",)}))


def test_unknown_study_is_refused_with_the_names_of_the_others():
    with pytest.raises(ConfigError, match=r"there is no study 'low'; there are .*low-resource"):
        study_file("low")


def test_settings_without_run_are_the_studys():
    config = StudyConfig.model_validate(SETTINGS)
    assert config.without_run.model_dump() == {k: v for k, v in config.model_dump().items() if k != "run"}
