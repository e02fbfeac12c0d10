from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hbt_ray.cluster.search import run_search
from hbt_ray.cluster.search.run_search import SETTINGS, _check_unchanged, search
from hbt_ray.cluster.search.tuner import TUNE
from hbt_ray.config import dump_config, replace_in
from hbt_ray.errors import ConfigError
from hbt_ray.search.config import SearchConfig
from tests.helpers import tiny_corpus
from tests.helpers.damage import EXAMPLES, Damage, check_damaged, damages, malformed_cases
from tests.helpers.model_folders import write_pairs
from tests.unit.search.searches import search_of


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchConfig]:
    folder, config = tmp_path_factory.mktemp("search"), search_of()
    (folder / SETTINGS).write_text(dump_config(config))
    (folder / TUNE).mkdir()
    return folder, config


def test_search_of_before_a_setting_existed_is_resumed(begun: tuple[Path, SearchConfig], tmp_path: Path):
    _, config = begun
    settings = yaml.safe_load(dump_config(config))
    for section, name in (("mix", "phases"), ("train", "reproducible"), ("train", "step_timeout_s")):
        del settings["run"][section][name]
    (tmp_path / SETTINGS).write_text(yaml.safe_dump(settings))
    _check_unchanged(config, tmp_path)


def test_changed_setting_of_a_search_is_named(begun: tuple[Path, SearchConfig]):
    folder, config = begun
    changed = replace_in(config, "run.train.learning_rate", 0.5)
    with pytest.raises(ConfigError, match=r"a search with another run\.train\.learning_rate; write another --out"):
        _check_unchanged(changed, folder)


def test_dev_set_with_the_texts_of_a_test_benchmark_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    pairs = write_pairs(tmp_path / "pairs")
    run = {"corpora": [{"format": "embedded"}], "evaluate": {"benchmarks": {"pairs": str(pairs)}}}
    chosen_by_it = search_of(dev={"benchmarks": {"pairs": "pairs"}}, run=run)  # the same folder, named otherwise
    with pytest.raises(ConfigError, match="pairs is a test benchmark, and must not be chosen by; name another as dev"):
        search(chosen_by_it, tmp_path / "out")


def test_objective_without_a_value_ends_the_search_before_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = search_of(objectives={"mono/mpa": 1, "multi/map": 1}, dev={"items": 4})
    store = str(tiny_corpus.make_held_out_store(tmp_path / "store").folder)
    monkeypatch.setattr(run_search, "connect", lambda: None)
    monkeypatch.setattr(run_search, "plan_concurrency", lambda *_: None)
    monkeypatch.setattr(run_search, "_prepare_stores_and_models", lambda *_: ({config.run.store_key: store}, {}))
    with pytest.raises(ConfigError, match="the dev set held-out has no mono/mpa; write only objectives that it has"):
        search(config, tmp_path / "out")
    assert not (tmp_path / "out" / SETTINGS).exists()


@malformed_cases(EXAMPLES // 2, damage=damages)
def test_damaged_search_is_resumed_unchanged_or_refused_by_name(begun: tuple[Path, SearchConfig], damage: Damage):
    folder, config = begun
    check_damaged(folder, damage, lambda folder: _check_unchanged(config, folder))
