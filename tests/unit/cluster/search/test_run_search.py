from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.cluster.search.run_search import SETTINGS, _check_unchanged
from hbt_ray.cluster.search.tuner import TUNE
from hbt_ray.config import dump_config
from hbt_ray.search.config import SearchConfig
from tests.helpers.damage import EXAMPLES, Damage, check_damaged, damages, malformed_cases
from tests.unit.search.searches import search_of


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchConfig]:
    folder, search = tmp_path_factory.mktemp("search"), search_of()
    (folder / SETTINGS).write_text(dump_config(search))
    (folder / TUNE).mkdir()
    return folder, search


@malformed_cases(EXAMPLES // 2, damage=damages)
def test_damaged_search_is_resumed_unchanged_or_refused_by_name(begun: tuple[Path, SearchConfig], damage: Damage):
    folder, search = begun
    check_damaged(folder, damage, lambda folder: _check_unchanged(search, folder))
