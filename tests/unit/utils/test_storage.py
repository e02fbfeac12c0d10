"""Folders and object stores behave alike."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from hbt_ray.errors import ConfigError, StorageError
from hbt_ray.utils.storage import StoragePath


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path) -> StoragePath:
    if request.param == "folder":
        return StoragePath.of(tmp_path)
    return request.getfixturevalue("bucket") / tmp_path.name


def test_what_is_written_is_read_and_listed(place):
    assert place.names() == []
    (place / "b.txt").write_text("zwei\n")
    (place / "a.txt").write_text("ä")
    assert place.names() == ["a.txt", "b.txt"]
    assert (place / "a.txt").read_text() == "ä"
    assert (place / "a.txt").exists()
    (place / "a.txt").write_text("new")
    assert (place / "a.txt").read_text() == "new"


def test_what_is_deleted_is_gone_and_may_be_deleted_again(place):
    (place / "folder" / "file").write_text("x")
    for _ in range(2):
        (place / "folder").delete()
    assert not (place / "folder").exists()
    with pytest.raises(StorageError, match=r"cannot read .*file"):
        (place / "folder" / "file").read_text()


def test_a_folder_goes_there_and_back(place, tmp_path):
    (tmp_path / "from").mkdir()
    for name in ("z", "marker", "a"):
        (tmp_path / "from" / name).write_bytes(name.encode() * 1000)
    (place / "copy").upload(tmp_path / "from", last="marker")
    (place / "copy").download(tmp_path / "to")
    assert {p.name: p.read_bytes() for p in (tmp_path / "to").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "from").iterdir()
    }


def test_a_place_may_be_handed_to_another_process(place):
    assert pickle.loads(pickle.dumps(place)) == place


def test_a_relative_folder_is_made_absolute():
    assert StoragePath.of("runs").local == Path("runs").absolute()
    assert StoragePath.of("s3://bucket/runs/").local is None
    assert str(StoragePath.of("s3://bucket/runs/") / "one") == "s3://bucket/runs/one"


def test_a_store_of_another_kind_or_with_an_unknown_setting_is_refused():
    with pytest.raises(ConfigError, match=r"ftp:// is no storage; write a folder, s3://\.\.\. or gs://"):
        StoragePath.of("ftp://host/folder")
    with pytest.raises(ConfigError, match="no setting 'endpoint'; there are endpoint_override, region, scheme"):
        StoragePath.of("s3://bucket/runs?endpoint=http://127.0.0.1:1")


def test_credentials_in_the_uri_are_refused_without_being_shown():
    with pytest.raises(ConfigError, match="export AWS_ACCESS_KEY_ID") as told:
        StoragePath.of("s3://someone:swordfish@bucket/runs")
    assert "swordfish" not in str(told.value)


def test_a_bucket_that_is_not_there_is_told_by_name(bucket):
    with pytest.raises(StorageError, match="cannot write s3://absent/file"):
        StoragePath("s3://absent/file", bucket.query).write_text("x")
