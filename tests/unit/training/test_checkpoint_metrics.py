from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.errors import StorageError
from hbt_ray.training.checkpoint_metrics import evaluated_steps, load_checkpoint_metrics, save_checkpoint_metrics
from hbt_ray.utils.storage import StoragePath


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
