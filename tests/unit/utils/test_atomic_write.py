from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

import pytest

from hbt_ray.errors import UserError
from hbt_ray.utils.atomic_write import (
    atomic_file,
    atomic_files,
    atomic_folder,
    atomic_write_text,
    make_output_folder,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_write_text_replaces_a_file(tmp_path):
    atomic_write_text(tmp_path / "a.json", "one")
    atomic_write_text(tmp_path / "a.json", "zwölf")
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "zwölf"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("unique", [False, True])
def test_atomic_file_appears_after_the_block(tmp_path, unique):
    with atomic_file(tmp_path / "a.json", unique=unique) as partial:
        partial.write_text("whole")
        assert not (tmp_path / "a.json").exists()
    assert names(tmp_path) == ["a.json"]


def test_failed_atomic_file_leaves_the_earlier_one(tmp_path):
    (tmp_path / "a.json").write_text("earlier")

    def fail() -> None:
        with atomic_file(tmp_path / "a.json") as partial:
            partial.write_text("hal")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert names(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "earlier"


@pytest.mark.parametrize("write", [atomic_file, atomic_folder])
def test_error_of_a_full_disk_names_what_was_written(tmp_path, write):
    target = tmp_path / "model"
    with (
        pytest.raises(OSError, match="No space left on device") as raised,
        write(target),
        open("/dev/full", "w") as full,
    ):
        full.write("x")
    assert raised.value.filename == str(target)
    with pytest.raises(OSError, match="No space left on device") as raised, write(target):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")  # safetensors
    assert (raised.value.filename, raised.value.errno) == (str(target), errno.ENOSPC)


def test_unique_atomic_files_may_be_written_at_the_same_time(tmp_path):
    file = tmp_path / "a.json"
    with atomic_file(file, unique=True) as one, atomic_file(file, unique=True) as other:
        one.write_text("one")
        other.write_text("other")
    assert names(tmp_path) == ["a.json"]


def test_atomic_folder_replaces_a_folder_and_leftovers(tmp_path):
    for name in ("model", "model.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").touch()
    with atomic_folder(tmp_path / "model") as partial:
        partial.mkdir()
        (partial / "new").touch()
        assert names(tmp_path / "model") == ["old"]
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["new"]


@pytest.mark.parametrize("name", ["model.partial", "model.earlier", "z.partial"])
def test_file_in_place_of_a_temporary_folder_is_deleted(tmp_path, name):
    (tmp_path / name).touch()
    with atomic_folder(tmp_path / "model") as partial:
        partial.mkdir()
    with atomic_files(tmp_path, last="z") as partial:
        (partial / "z").touch()
    assert names(tmp_path) == ["model", "z"]


def test_files_interrupted_at_any_step_are_never_mixed(tmp_path, monkeypatch):
    old, new = (dict.fromkeys(names, age) for age, names in (("old", "abz"), ("new", "bcz")))

    def write(folder: Path, files: dict[str, str]) -> None:
        (folder / "figures").mkdir(exist_ok=True)
        for name, text in {**files, "figures/of": next(iter(files.values()))}.items():
            (folder / name).write_text(text)

    outcomes = []
    for stop_at in range(20):
        folder = tmp_path / str(stop_at)
        folder.mkdir()
        (folder / "other").touch()
        write(folder, old)
        with monkeypatch.context() as patched:
            steps = iter(range(100))
            for place, name in ((os, "replace"), (Path, "unlink"), (shutil, "rmtree")):
                whole = getattr(place, name)

                def step(*arguments, whole=whole, steps=steps, stop_at=stop_at, **options):
                    if next(steps) == stop_at + 1:  # the first deletes what an earlier call left behind
                        raise KeyboardInterrupt
                    return whole(*arguments, **options)

                patched.setattr(place, name, step)
            with contextlib.suppress(KeyboardInterrupt), atomic_files(folder, last="z", replaced=["a"]) as partial:
                write(partial, new)
        found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
        found = {name: text for name, text in found.items() if "partial" not in name}
        assert found.pop("other") == ""
        assert found.get("z") is None or set(found.values()) == {found["z"]}, stop_at
        outcomes.append(found.get("z"))
        if found.get("z") == "new":
            assert set(found) == {"b", "c", "z", "figures/of"}
    assert outcomes[0] == "old"
    assert outcomes[-1] == "new"
    assert None in outcomes


def test_failed_files_leave_the_earlier_ones(tmp_path):
    (tmp_path / "z").write_text("old")
    with contextlib.suppress(OSError), atomic_files(tmp_path, last="z") as partial:
        (partial / "a").write_text("new")
        raise OSError("full")
    assert names(tmp_path) == ["z"]


def test_interrupted_deletion_leaves_no_part_of_a_folder(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    deleted = []
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: deleted.append(path.name))
    with atomic_folder(tmp_path / "model") as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert names(tmp_path / "model") == ["new"]
    assert "model" not in deleted


def test_files_of_a_folder_get_its_readers(tmp_path: Path):
    with atomic_folder(tmp_path / "model") as partial:
        partial.mkdir(mode=0o755)
        (partial / "weights").touch(mode=0o600)
    assert (tmp_path / "model/weights").stat().st_mode & 0o777 == 0o644


def test_failed_atomic_folder_leaves_only_the_earlier_one(tmp_path: Path):
    def fill_disk() -> None:
        with atomic_folder(tmp_path / "model") as partial:
            partial.mkdir()
            (partial / "weights").touch()
            raise OSError(errno.ENOSPC, "disk full")

    (tmp_path / "model").mkdir()
    with pytest.raises(OSError, match="disk"):
        fill_disk()
    assert names(tmp_path) == ["model"]


def test_output_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    make_output_folder(tmp_path / "a/b")
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path / "kept")
    for path, reason in (
        (tmp_path / "file/x", "Not a directory"),
        (tmp_path / "file", "File exists"),
        (tmp_path / "kept", "Permission denied"),
    ):
        with pytest.raises(UserError, match=rf"{path} cannot be written \({reason}\); write another path"):
            make_output_folder(path)
