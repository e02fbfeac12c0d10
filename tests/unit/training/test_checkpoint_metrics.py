from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import strategies as st

from hbt_ray.errors import StorageError
from hbt_ray.training.checkpoint_metrics import (
    Measurement,
    evaluated_steps,
    load_checkpoint_metrics,
    save_checkpoint_metrics,
)
from hbt_ray.utils.storage import StoragePath
from tests.helpers.damage import EXAMPLES, Damage, check_damaged, damages, malformed_cases


def test_changed_metrics_are_passed_over_or_refused(tmp_path: Path):
    folder = StoragePath.of(tmp_path)
    for step in (10, 9):
        save_checkpoint_metrics(folder, step, {"dev/mono/map": 0.472})
    (tmp_path / "11.json").write_text('{"dev/mono/map": 0.5}')  # of an earlier version
    (tmp_path / "12.json.bak").write_text("{}")
    assert evaluated_steps(folder) == [9, 10, 11]
    file = tmp_path / "9.json"
    file.write_text(file.read_text().replace("0.472", "0.492"))
    assert load_checkpoint_metrics(folder) == [(10, {"dev/mono/map": 0.472}), (11, {"dev/mono/map": 0.5})]
    with pytest.raises(StorageError, match=r"the metrics .*9\.json are damaged \(its checksum does not match\)"):
        load_checkpoint_metrics(folder, can_repeat=False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    for step in (5, 10):
        save_checkpoint_metrics(StoragePath.of(folder), step, {"dev/mono/map": step / 100, "loss": 1 / step})
    return folder


@malformed_cases(3 * EXAMPLES, damage=damages, can_repeat=st.booleans())
def test_damaged_metrics_are_refused_or_passed_over(measured: Path, damage: Damage, can_repeat: bool):
    def read(folder: Path) -> list[Measurement]:
        return load_checkpoint_metrics(StoragePath.of(folder), can_repeat=can_repeat)

    whole = read(measured)
    may_be_fewer = can_repeat or damage.kind == "delete"
    check_damaged(measured, damage, read, may_be=lambda found: may_be_fewer and all(one in whole for one in found))
