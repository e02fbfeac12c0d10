"""What `open_run` refuses; it deletes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.config import PretrainRunConfig, RunConfig, build_config, dump_config
from hbt_ray.errors import ConfigError
from hbt_ray.training.resume import changed_settings, open_run


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["model/a.bin", "evaluation/x/report.json", "checkpoints/step-000000001/x"])
def test_files_of_no_run_are_neither_replaced_nor_deleted(tmp_path, fresh, name):
    write(tmp_path, name)
    with pytest.raises(ConfigError, match=f"{name.partition('/')[0]} is not of a run of hbt_ray: .* no run.yaml"):
        open_run(RunConfig(), tmp_path, fresh=fresh)
    assert files(tmp_path) == {name}


def test_run_yaml_of_something_else_is_no_run(tmp_path):
    write(tmp_path, "model/a.bin")
    (tmp_path / "run.yaml").write_text("image: ubuntu\n")
    with pytest.raises(ConfigError, match=r"is not of a run of hbt_ray"):
        open_run(RunConfig(), tmp_path, fresh=True)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("link", [False, True])
def test_start_model_in_the_folder_is_refused(tmp_path, fresh, link):
    out = tmp_path / "run"
    write(out, "model/config.json")
    (out / "run.yaml").write_text(dump_config(RunConfig()))
    start = out / "model"
    if link:
        (tmp_path / "start").symlink_to(start)
        start = tmp_path / "start"
    config = build_config({"model": {"path": str(start)}})
    with pytest.raises(ConfigError, match=r"model\.path=.* is in .*run/model, which this run would replace"):
        open_run(config, out, fresh=fresh)
    assert files(out) == {"model/config.json", "run.yaml"}


@pytest.mark.parametrize("text", ["", "name: [", "name: x\nno_such_setting: 1\n", "- 1\n", "\0", "[" * 10_000])
def test_damaged_run_yaml_is_one_sentence_and_fresh_replaces_it(tmp_path, text):
    write(tmp_path, "mlflow_run_id", "checkpoints/step-000000001/x")
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yaml cannot be read \(.*\), so its run cannot be resumed; write"):
        open_run(RunConfig(), tmp_path)
    assert open_run(RunConfig(), tmp_path, fresh=True).path == tmp_path


@pytest.mark.parametrize(
    ("before", "now", "number"),
    [
        ("/old/study/pretraining/one/model", "/new/pretraining/one/model", 0),  # the study's folder was /old/study
        ("/old/study/pretraining/one/model", "/new/pretraining/two/model", 1),
        ("/old/pretraining/one/model", "/elsewhere/pretraining/one/model", 1),  # not in the study's folder
        ("/old/xpretraining/one/model", "/new/pretraining/one/model", 1),
    ],
)
def test_paths_in_a_moved_study_are_compared_from_its_folder(before, now, number):
    configs = (build_config({"model": {"path": path}}) for path in (before, now))
    assert len(changed_settings(*configs, root=Path("/new"))) == number


@pytest.mark.parametrize(("gather", "changed"), [(True, []), (False, [("train.workers", 2, 4)])])
def test_number_of_workers_matters_if_each_has_negatives_of_its_own(gather: bool, changed: list[tuple[str, int, int]]):
    configs = (build_config({"train": {"workers": workers, "gather_negatives": gather}}) for workers in (2, 4))
    assert changed_settings(*configs) == changed


def test_run_of_another_stage_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_text(dump_config(PretrainRunConfig()))
    with pytest.raises(ConfigError, match="holds a pretraining; write another --out"):
        open_run(RunConfig(), tmp_path)


def test_name_that_no_folder_can_have_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be a folder \(embedded null byte\); write another --out"):
        open_run(RunConfig(), tmp_path / "a\0b")
