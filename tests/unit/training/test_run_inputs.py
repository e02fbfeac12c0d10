from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hbt_ray.config import build_config
from hbt_ray.errors import ConfigError
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.training.run_inputs import record_inputs
from tests.helpers.damage import flip_bit
from tests.helpers.fake_manifests import fake_manifest


def test_run_resumes_only_with_the_same_contents(tmp_path: Path):
    for name in ("model", "teacher"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(name)
    teacher = {"distillation": {"teacher": str(tmp_path / "teacher")}}
    config = build_config({"model": {"path": str(tmp_path / "model")}, "loss": teacher})
    folder, manifest = run_dir_of(config, tmp_path / "run"), fake_manifest()
    record_inputs(folder, config, manifest)
    record_inputs(folder, config, fake_manifest(shards=((1, 1),)))  # no run has begun
    record_inputs(folder, config, manifest)
    folder.write_config(config)
    record_inputs(folder, config, manifest)
    record_inputs(folder, config, replace(manifest, counts={"s": {"rows_read": 9}}))  # what was left out is not read
    with pytest.raises(ConfigError, match=r"a run whose corpora had another content; .* or --fresh to start over"):
        record_inputs(folder, config, fake_manifest(shards=((100, 21), (80, 0))))
    for name, key in (("model", "model.path"), ("teacher", "loss.distillation.teacher")):
        file = tmp_path / name / "model.safetensors"
        flip_bit(file)
        with pytest.raises(ConfigError, match=rf"{key} had another content; write another --out, or delete .*run to"):
            record_inputs(folder, config, manifest, root=tmp_path)
        flip_bit(file)
    record_inputs(folder, config, manifest)


def test_run_of_an_earlier_version_gets_digests(tmp_path: Path):
    config = build_config({})
    folder = run_dir_of(config, tmp_path / "run")
    folder.write_config(config)
    record_inputs(folder, config, fake_manifest())
    with pytest.raises(ConfigError, match="corpora had another content"):
        record_inputs(folder, config, fake_manifest(shards=((1, 1),)))
