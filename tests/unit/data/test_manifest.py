from __future__ import annotations

import numpy as np
import pytest

from hbt_ray.data.manifest import StoreManifest, read_manifest, write_manifest
from hbt_ray.data.token_store import TokenItem, TokenStore, write_shard
from hbt_ray.errors import StoreError


def item(number: int, languages: tuple[str, ...] = ("de", "en"), negatives: int = 0) -> TokenItem:
    ids = np.array([number, 1], "uint16")
    return TokenItem(
        f"item-{number:03d}",
        dict.fromkeys(languages, ids),
        dict.fromkeys(languages, ids),
        {x: [ids] * negatives for x in languages},
    )


def test_manifest_round_trips_through_its_file(tmp_path):
    items = [item(n, ("de",) if n % 3 else ("de", "en"), negatives=n % 2) for n in range(9)]
    shards = [
        write_shard(tmp_path, "b", "train", 1, items[:3], "uint16"),
        write_shard(tmp_path, "a", "validation", 0, items[3:5], "uint16"),
        write_shard(tmp_path, "a", "train", 0, items[5:], "uint16"),
    ]
    counts = {"a": {"rows_read": 9, "rows_rejected": {"“broken” JSON": 1}}}
    manifest = write_manifest(tmp_path, shards, text_fingerprint="text", token_type="uint16", counts=counts)
    assert read_manifest(tmp_path) == manifest == StoreManifest.from_json(manifest.to_json())
    assert read_manifest(tmp_path).fingerprint() == manifest.fingerprint()
    assert list(manifest.sources) == ["a", "b"]
    assert (manifest.sources["a"].items(), manifest.sources["a"].items("validation")) == (4, 2)
    assert (manifest.sources["b"].items(), manifest.sources["b"].items("validation")) == (3, 0)
    assert manifest.languages == manifest.sources["a"].languages == ("de", "en")
    other = write_manifest(tmp_path, shards[::-1], text_fingerprint="text", token_type="uint16", counts=counts)
    assert other.fingerprint() == manifest.fingerprint()  # whatever order the shards came in


def test_shard_without_items_is_left_out(tmp_path):
    shards = [write_shard(tmp_path, "s", "train", n, [item(n)] * (1 - n), "uint16") for n in range(2)]
    manifest = write_manifest(tmp_path, shards, text_fingerprint="text", token_type="uint16")
    assert [shard.file for shard in manifest.sources["s"].shards["train"]] == ["s/train-00000.arrow"]
    TokenStore.open(tmp_path).verify()


def test_folder_without_manifest_is_refused(tmp_path):
    write_shard(tmp_path, "s", "train", 0, [item(1)], "uint16")
    with pytest.raises(StoreError, match=r"holds no complete store \(no manifest\.json\); run `hbt prepare` first"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', '{"format": 1, "sources": []}'])
def test_truncated_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match="prepare"):
        read_manifest(tmp_path)


def test_manifest_with_a_changed_number_is_refused(tmp_path):
    shard = write_shard(tmp_path, "s", "train", 0, [item(1), item(2)], "uint16")
    manifest = write_manifest(tmp_path, [shard], text_fingerprint="text", token_type="uint16")
    file = tmp_path / "manifest.json"
    text = file.read_text()
    file.write_text(text.replace('"items": 2', '"items": 3'))
    with pytest.raises(StoreError, match=r"manifest\.json cannot be read; .*its checksum does not match"):
        read_manifest(tmp_path)
    file.write_text(manifest.to_json())  # as earlier versions did
    assert read_manifest(tmp_path) == manifest


def test_manifest_of_another_format_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": 0}')
    with pytest.raises(StoreError, match="written by another version of hbt_ray; prepare it again"):
        read_manifest(tmp_path)


def test_items_in_two_or_more_languages_are_counted_over_all_splits(tmp_path):
    items = [item(1), item(2, ("de",)), item(3, ("en",))]
    shards = [
        write_shard(tmp_path, "s", "train", 0, items, "uint16"),
        write_shard(tmp_path, "s", "validation", 0, [item(4)], "uint16"),
    ]
    manifest = write_manifest(tmp_path, shards, text_fingerprint="text", token_type="uint16")
    assert manifest.sources["s"].parallel_items() == 2
