"""A command for a run that is finished is refused until something is left to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hbt_ray.config import RunConfig, build_config, with_absolute_paths, with_settings
from hbt_ray.errors import ConfigError
from hbt_ray.training.completed_run import check_not_completed, mark_completed
from hbt_ray.training.run_dir import RunDir, run_dir_of


@pytest.fixture
def config(tmp_path) -> RunConfig:
    (tmp_path / "faq").mkdir()
    (tmp_path / "faq/en.jsonl").write_text("{}\n")
    return build_config({"corpora": [{"format": "jsonl", "path": str(tmp_path / "faq")}]})


@pytest.fixture
def folder(config, tmp_path) -> RunDir:
    """Return the folder of a finished run."""
    folder = run_dir_of(config, tmp_path / "run")
    folder.write_config(config)
    for file in ("model/config.json", "evaluation/pairs/report.json"):
        (folder.path / file).parent.mkdir(parents=True)
        (folder.path / file).write_text("{}")
    mark_completed(folder, with_absolute_paths(config), 600)
    return folder


def test_finished_run_is_named_with_its_model_and_the_ways_on(config, folder):
    with pytest.raises(ConfigError) as raised:
        check_not_completed(config, folder.path)
    assert str(raised.value) == (
        f"this run is finished: {folder.model} has the weights of step 600. To train longer, write "
        f"model.path={folder.model} and another --out; write another --out for a second run, or --fresh to start over"
    )


def test_run_that_can_be_extended_is_answered_with_more_steps(config, tmp_path):
    config = with_settings(config, {"train.schedule": "constant", "train.warmup_share": 0})
    folder = run_dir_of(config, tmp_path / "run")
    folder.write_config(config)
    mark_completed(folder, with_absolute_paths(config), 600)
    with pytest.raises(ConfigError, match=r"To train longer, raise train\.steps above 600; write another --out"):
        check_not_completed(config, folder.path)


def test_changed_setting_file_or_result_leaves_something_to_do(config, folder, tmp_path):
    check_not_completed(with_settings(config, {"evaluate.run_depth": 7}), folder.path)
    check_not_completed(config, tmp_path / "another")
    corpus = tmp_path / "faq/en.jsonl"
    before = corpus.stat()
    corpus.write_text("{}\n{}\n")
    check_not_completed(config, folder.path)
    corpus.write_text("{}\n")
    os.utime(corpus, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ConfigError, match="this run is finished"):
        check_not_completed(config, folder.path)
    Path(folder.path / "evaluation/pairs/report.json").unlink()
    check_not_completed(config, folder.path)


def test_deleted_loss_of_a_pretraining_leaves_something_to_do(config, folder):
    loss = folder.path / "held_out_loss.json"
    loss.write_text("{}")
    mark_completed(folder, with_absolute_paths(config), 600)
    loss.unlink()
    check_not_completed(config, folder.path)
