"""Tests for errors.py."""

import errno

import pytest

from hbt_ray.errors import StorageError, full_disk_error


def test_full_disk_error_finds_the_file_in_a_cause():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/data/a.json")
        except OSError as error:
            raise RuntimeError("saving failed") from error
    except RuntimeError as error:
        found = full_disk_error(error)
    assert isinstance(found, StorageError)
    assert str(found) == (
        "/data/a.json cannot be written (No space left on device); free disk space, and run the same command again"
    )


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied", "/a"), ValueError("x"), OSError("full")])
def test_full_disk_error_is_none_for_other_errors(error):
    assert full_disk_error(error) is None
