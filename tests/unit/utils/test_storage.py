from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from hbt_ray.errors import ConfigError, StorageError
from hbt_ray.utils.storage import StoragePath


@pytest.fixture(params=["folder", "s3"])
def location(request, tmp_path) -> StoragePath:
    if request.param == "folder":
        return StoragePath.of(tmp_path)
    return request.getfixturevalue("bucket") / tmp_path.name


def test_written_files_are_read_and_listed(location):
    assert location.names() == []
    (location / "b.txt").write_text("zwei\n")
    (location / "a.txt").write_text("ä")
    assert location.names() == ["a.txt", "b.txt"]
    assert (location / "a.txt").read_text() == "ä"
    assert (location / "a.txt").exists()
    (location / "a.txt").write_text("new")
    assert (location / "a.txt").read_text() == "new"


def test_delete_may_be_repeated(location):
    (location / "folder" / "file").write_text("x")
    for _ in range(2):
        (location / "folder").delete()
    assert not (location / "folder").exists()
    with pytest.raises(StorageError, match=r"cannot read .*file"):
        (location / "folder" / "file").read_text()


def test_uploaded_folder_is_downloaded(location, tmp_path):
    (tmp_path / "from").mkdir()
    for name in ("z", "marker", "a"):
        (tmp_path / "from" / name).write_bytes(name.encode() * 1000)
    (location / "copy").upload(tmp_path / "from", last="marker")
    (location / "copy").download(tmp_path / "to")
    assert {p.name: p.read_bytes() for p in (tmp_path / "to").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "from").iterdir()
    }


def test_storage_path_pickles(location):
    assert pickle.loads(pickle.dumps(location)) == location


def test_relative_folder_is_made_absolute():
    assert StoragePath.of("runs").local == Path("runs").absolute()
    assert StoragePath.of("s3://bucket/runs/").local is None
    assert str(StoragePath.of("s3://bucket/runs/") / "one") == "s3://bucket/runs/one"


def test_unknown_store_or_setting_is_refused():
    with pytest.raises(ConfigError, match=r"ftp:// is no storage; write a folder, s3://\.\.\. or gs://"):
        StoragePath.of("ftp://host/folder")
    with pytest.raises(ConfigError, match="no setting 'endpoint'; there are endpoint_override, region, scheme"):
        StoragePath.of("s3://bucket/runs?endpoint=http://127.0.0.1:1")


def test_credentials_in_the_uri_are_refused_and_not_shown():
    with pytest.raises(ConfigError, match="export AWS_ACCESS_KEY_ID") as error:
        StoragePath.of("s3://someone:swordfish@bucket/runs")
    assert "swordfish" not in str(error.value)


def test_missing_bucket_is_named(bucket):
    with pytest.raises(StorageError, match="cannot write s3://absent/file"):
        StoragePath("s3://absent/file", bucket.query).write_text("x")
