from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.errors import ConfigError
from hbt_ray.utils.digests import (
    content_digest,
    damaged_file,
    done_with,
    file_checksums,
    is_done,
    mark_done,
    with_checksum,
    without_checksum,
)
from hbt_ray.utils.storage import StoragePath

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1).filter(lambda key: key != "sha256"), VALUES, max_size=4))
def test_data_with_a_checksum_are_read_as_written(data: dict[str, object]):
    assert without_checksum(with_checksum(data)) == json.loads(json.dumps(data))


@given(st.data())
def test_one_changed_digit_is_found(data: st.DataObject):
    text = with_checksum({"de/mono/map": 0.4721, "step": 3})
    digits = [at for at, c in enumerate(text) if c.isdigit() and at < text.index("sha256")]
    at = data.draw(st.sampled_from(digits))
    changed = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
    with pytest.raises(ValueError, match="checksum"):
        without_checksum(changed)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_what_is_no_object_is_refused(text: str):
    with pytest.raises(ValueError):  # noqa: PT011, json's message or ours
        without_checksum(text)


def test_files_of_earlier_versions_have_no_checksum():
    assert without_checksum('{"map": 0.5}') == {"map": 0.5}


def test_swapped_and_missing_files_are_damaged(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    checksums = file_checksums(tmp_path, ["a", "b"])
    assert damaged_file(tmp_path, checksums) is None
    (tmp_path / "b").unlink()
    assert damaged_file(tmp_path, checksums) == "b"
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").write_text("b")
    assert damaged_file(tmp_path, checksums) == "a"


def test_content_digest_changes_with_content_and_names_only(tmp_path: Path):
    for folder in ("one", "other"):
        (tmp_path / folder / "inner").mkdir(parents=True)
        (tmp_path / folder / "inner" / "a").write_text("text")
    digest = content_digest(tmp_path / "one")
    assert content_digest(tmp_path / "other") == digest
    (tmp_path / "one" / "inner" / "a").write_text("Text")
    assert content_digest(tmp_path / "one") != digest
    (tmp_path / "other" / "inner" / "a").rename(tmp_path / "other" / "inner" / "b")
    assert content_digest(tmp_path / "other") != digest
    assert content_digest("a/model") != content_digest("b/model")


def test_work_is_done_only_with_what_it_depended_on(tmp_path: Path):
    marker = StoragePath.of(tmp_path / "finished.json")
    assert not is_done(marker, {})
    mark_done(marker, {"steps": 3, "benchmarks": ("a", "b")})
    assert is_done(marker, {"steps": 3, "benchmarks": ["a", "b"]})
    assert not is_done(marker, {"steps": 40, "benchmarks": ["a", "b"]})
    assert not is_done(marker, {"steps": 3, "benchmarks": ["a", "b"], "seed": 0})
    for damaged in ("", "{}", '{"evaluate": "1"}', marker.read_text().replace("3", "4", 1)):
        marker.write_text(damaged)
        assert done_with(marker) is None


def test_file_that_cannot_be_read_is_named_in_one_sentence(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr("hbt_ray.utils.digests.file_sha256", refuse)
    with pytest.raises(ConfigError, match=r"model.safetensors cannot be read \(Permission denied\); give this user"):
        content_digest(tmp_path)
