"""A run that `--fresh` replaces is complete in its folder or in `replaced/`, wherever the new one stops."""

from __future__ import annotations

from pathlib import Path

import pyarrow.fs as pafs
import pytest

from hbt_ray.config import RunConfig, build_config
from hbt_ray.training import previous_run
from hbt_ray.training.previous_run import drop_replaced, recover_replaced, starting_over
from hbt_ray.training.run_dir import RunDir, run_dir_of
from hbt_ray.utils.storage import StoragePath

FILES = {
    "run.yaml": "name: earlier",
    "mlflow_run_id": "ab",
    "checkpoints/step-000000005/complete.json": "{}",
    "checkpoints/step-000000005/state.json": "{}",
    "model/model.safetensors": "weights",
    "evaluation/xquad/report.json": "{}",
}


@pytest.fixture
def folder(request, tmp_path) -> RunDir:
    """Return a run's folder, with `indirect` "s3" one whose storage is in an object store."""
    storage = request.getfixturevalue("bucket") / tmp_path.name if getattr(request, "param", "") == "s3" else None
    located = None if storage is None else f"{storage}?{storage.query}"
    return run_dir_of(build_config({"storage": located}), tmp_path / "run")


def write_run(folder: RunDir, names: dict[str, str] = FILES) -> None:
    for name, text in names.items():
        place = StoragePath.of(folder.path) if name.startswith(("model", "evaluation")) else folder.storage
        (place / name).write_text(text)


def content(place: StoragePath) -> dict[str, str]:
    filesystem, path = place.arrow()
    found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    names = [info.path.removeprefix(f"{path}/") for info in found if info.is_file]
    return {name: (place / name).read_text() for name in names}


def start_and_stop(folder: RunDir) -> None:
    """Start a new run over the folder's, which stops before it has a checkpoint."""
    with starting_over(folder, fresh=True):
        folder.write_config(RunConfig())
        raise KeyboardInterrupt


def all_of(folder: RunDir) -> dict[str, str]:
    return content(folder.storage) | content(StoragePath.of(folder.path))


def save_checkpoint(folder: RunDir) -> None:
    (folder.checkpoints / "step-000000001" / "complete.json").write_text("{}")


@pytest.mark.parametrize("folder", ["local", "s3"], indirect=True)
def test_failed_start_puts_the_earlier_run_back(folder):
    write_run(folder)

    def stop() -> None:
        with starting_over(folder, fresh=True):
            assert set(all_of(folder)) == {f"replaced/{name}" for name in FILES}
            folder.write_config(RunConfig())
            (StoragePath.of(folder.path) / "initial_model" / "weights").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert all_of(folder) == FILES


def test_earlier_run_is_deleted_at_the_first_checkpoint(folder):
    write_run(folder)

    def stop() -> None:
        with starting_over(folder, fresh=True):
            folder.write_config(RunConfig())
            assert not drop_replaced(folder)
            save_checkpoint(folder)
            assert drop_replaced(folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert set(all_of(folder)) == {"run.yaml", "checkpoints/step-000000001/complete.json"}


def test_second_fresh_start_keeps_the_run_with_checkpoints(folder):
    write_run(folder)
    previous_run._set_aside(folder)
    folder.write_config(RunConfig())
    with pytest.raises(KeyboardInterrupt):
        start_and_stop(folder)
    assert all_of(folder) == FILES


def test_without_fresh_a_failure_moves_nothing(folder):
    write_run(folder)
    with pytest.raises(KeyboardInterrupt), starting_over(folder, fresh=False):
        raise KeyboardInterrupt
    assert all_of(folder) == FILES


@pytest.mark.parametrize("stop_at", range(12))
@pytest.mark.parametrize("method", ["move", "delete"])
def test_kill_at_any_moment_leaves_the_whole_run(tmp_path, monkeypatch, stop_at, method):
    """Stop at the n-th move or deletion, as a kill would, then open the folder again."""
    folder = run_dir_of(RunConfig(), tmp_path / "run")
    write_run(folder)
    calls = iter(range(1000))
    real = getattr(StoragePath, method)

    class Killed(BaseException):
        pass

    def stops(path: StoragePath, *arguments: StoragePath) -> None:
        if next(calls) == stop_at:
            raise Killed
        real(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(StoragePath, method, stops)
        patch.setattr(previous_run, "_restore", previous_run._put_back)
        with pytest.raises((Killed, KeyboardInterrupt)):
            start_and_stop(folder)
    recover_replaced(folder)
    if (folder.path / "replaced").exists():  # a new run was begun: the earlier one is whole beside it
        found = {name.removeprefix("replaced/"): text for name, text in all_of(folder).items() if "replaced" in name}
        assert found == FILES
    else:
        assert all_of(folder) == FILES
    assert Path(folder.path).exists()
