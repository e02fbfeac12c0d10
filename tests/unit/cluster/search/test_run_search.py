from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hbt_ray.cluster.search.run_search import SETTINGS, _check_unchanged
from hbt_ray.cluster.search.tuner import TUNE
from hbt_ray.config import dump_config, replace_in
from hbt_ray.errors import ConfigError
from hbt_ray.search.config import SearchConfig
from tests.helpers.damage import EXAMPLES, Damage, check_damaged, damages, malformed_cases
from tests.unit.search.searches import search_of


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchConfig]:
    folder, search = tmp_path_factory.mktemp("search"), search_of()
    (folder / SETTINGS).write_text(dump_config(search))
    (folder / TUNE).mkdir()
    return folder, search


def test_search_of_before_a_setting_existed_is_resumed(begun: tuple[Path, SearchConfig], tmp_path: Path):
    _, search = begun
    settings = yaml.safe_load(dump_config(search))
    for section, name in (("mix", "phases"), ("train", "reproducible"), ("train", "step_timeout_s")):
        del settings["run"][section][name]
    (tmp_path / SETTINGS).write_text(yaml.safe_dump(settings))
    _check_unchanged(search, tmp_path)


def test_changed_setting_of_a_search_is_named(begun: tuple[Path, SearchConfig]):
    folder, search = begun
    changed = replace_in(search, "run.train.learning_rate", 0.5)
    with pytest.raises(ConfigError, match=r"a search with another run\.train\.learning_rate; write another --out"):
        _check_unchanged(changed, folder)


@malformed_cases(EXAMPLES // 2, damage=damages)
def test_damaged_search_is_resumed_unchanged_or_refused_by_name(begun: tuple[Path, SearchConfig], damage: Damage):
    folder, search = begun
    check_damaged(folder, damage, lambda folder: _check_unchanged(search, folder))
