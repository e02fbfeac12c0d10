from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from hbt_ray.errors import StorageError
from hbt_ray.utils.folder_lock import lock_folder
from hbt_ray.utils.shared_folder import new_shared_folder

MARKER = "manifest.json"


def fault_of(folder: Path) -> str | None:
    return None if (folder / MARKER).exists() else "it has no manifest"


def make(path: Path, content: str = "x", error: BaseException | None = None) -> bool:
    """Make a folder with a file, or raise after it has rejects; return whether it was made."""
    with new_shared_folder(path, fault_of, keep="rejects.jsonl") as folder:
        if folder is None:
            return False
        (folder / "shards").mkdir()
        (folder / "rejects.jsonl").write_text(content)
        if error is not None:
            raise error
        (folder / MARKER).write_text(content)
    return True


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_complete_folder_is_made_once(tmp_path):
    assert make(tmp_path / "a")
    assert not make(tmp_path / "a", "other")
    assert tree(tmp_path) == {"a/manifest.json", "a/rejects.jsonl"}
    assert (tmp_path / "a" / MARKER).read_text() == "x"


def test_folder_without_its_manifest_is_replaced(tmp_path, caplog):
    make(tmp_path / "a", "old")
    (tmp_path / "a" / MARKER).unlink()
    assert make(tmp_path / "a", "new")
    assert (tmp_path / "a" / MARKER).read_text() == "new"
    assert tree(tmp_path) == {"a/manifest.json", "a/rejects.jsonl"}
    assert "a is set aside as a.damaged, and made again: it has no manifest" in caplog.text


def test_damaged_folder_is_kept_until_it_is_replaced(tmp_path):
    make(tmp_path / "a", "old")
    (tmp_path / "a" / MARKER).unlink()
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "a", "new", KeyboardInterrupt())
    assert tree(tmp_path) == {"a.damaged/rejects.jsonl", "a.partial/rejects.jsonl"}


def test_of_failed_folders_only_the_newest_rejects_stay(tmp_path):
    for name in ("a", "b", "b", "c"):
        with pytest.raises(ValueError, match="bad"):
            make(tmp_path / name, name, ValueError("bad"))
    assert tree(tmp_path) == {"c.partial/rejects.jsonl"}


def test_deleted_folder_does_not_hide_the_error(tmp_path):
    def fail() -> None:
        with new_shared_folder(tmp_path / "a", fault_of) as folder:
            assert folder is not None
            folder.rmdir()
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        fail()


def test_folders_of_killed_processes_are_deleted_and_those_in_work_stay(tmp_path):
    for name in ("a.partial", "b.partial-1234abcd", "b.partial-5678abcd", "c.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shard").touch()
    with lock_folder(tmp_path / "c"):
        make(tmp_path / "a")
    assert tree(tmp_path) == {"a/manifest.json", "a/rejects.jsonl", "c.partial/shard"}


def test_second_process_waits_for_the_first(tmp_path):
    def make_slowly() -> None:
        with new_shared_folder(tmp_path / "a", fault_of) as folder:
            assert folder is not None
            time.sleep(0.4)
            (folder / MARKER).write_text("first")

    first = threading.Thread(target=make_slowly)
    first.start()
    time.sleep(0.1)
    assert not make(tmp_path / "a", "second")
    first.join()
    assert (tmp_path / "a" / MARKER).read_text() == "first"


def test_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        make(tmp_path / "file" / "a")
