from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hbt_ray.cluster.search import run_search
from hbt_ray.cluster.search.run_search import SETTINGS, _check_unchanged, _record_inputs, search
from hbt_ray.cluster.search.tuner import TUNE
from hbt_ray.config import build_config, dump_config, replace_in
from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.errors import ConfigError
from hbt_ray.search.config import SearchConfig
from tests.helpers import tiny_corpus
from tests.helpers.benchmark_files import squad_paragraph, write_squad
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


def test_dev_set_is_compared_as_the_benchmarks_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the texts of a test benchmark, also where its sentences are read with their paragraphs."""
    monkeypatch.setattr(run_search, "connect", lambda: pytest.fail("the dev set was accepted"))
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        write_squad(tmp_path / folder, "de", squad_paragraph("Eins. Zwei.", [[0, 5], [6, 11]], ("q", "Was?", 0)))
    evaluate = {"benchmarks": {"squad": str(tmp_path / "one")}, "with_paragraph": True}
    run = {"corpora": [{"format": "embedded"}], "evaluate": evaluate}
    with pytest.raises(ConfigError, match="squad is a test benchmark, and must not be chosen by"):
        search(search_of(dev={"benchmarks": {"squad": str(tmp_path / "other")}}, run=run), tmp_path / "out")


def test_trials_without_windows_of_the_dev_set_are_not_mixed_with_others(tmp_path: Path):
    dev = load_benchmark("pairs", str(write_pairs(tmp_path / "pairs")))
    (tmp_path / SETTINGS).touch()
    _record_inputs(tmp_path, [build_config({})], {}, dev)  # as an earlier version did with windows, too
    _record_inputs(tmp_path, [build_config({})], {}, dev)
    with pytest.raises(ConfigError, match="holds a search whose dev set had another content; write another --out"):
        _record_inputs(tmp_path, [build_config({"evaluate": {"window_chars": 16}})], {}, dev)


def test_objective_without_a_value_ends_the_search_before_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = search_of(objectives={"mono/map/sw": 1, "multi/map": 1}, dev={"items": 4})
    store = str(tiny_corpus.make_held_out_store(tmp_path / "store").folder)
    monkeypatch.setattr(run_search, "connect", lambda: None)
    monkeypatch.setattr(run_search, "plan_concurrency", lambda *_: None)
    monkeypatch.setattr(run_search, "_prepare_stores_and_models", lambda *_: ({config.run.store_key: store}, {}))
    with pytest.raises(ConfigError, match="the dev set held-out has no mono/map/sw; write only objectives that it has"):
        search(config, tmp_path / "out")
    assert not (tmp_path / "out" / SETTINGS).exists()


@malformed_cases(EXAMPLES // 2, damage=damages)
def test_damaged_search_is_resumed_unchanged_or_refused_by_name(begun: tuple[Path, SearchConfig], damage: Damage):
    folder, config = begun
    check_damaged(folder, damage, lambda folder: _check_unchanged(config, folder))
