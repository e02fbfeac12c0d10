from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.data.manifest import Group, WrittenShard, write_manifest
from hbt_ray.data.token_store import SUSPECT, TokenItem, TokenStore, write_shard
from hbt_ray.errors import StoreError
from tests.helpers.damage import EXAMPLES, Damage, check_damaged, damages, malformed_cases
from tests.helpers.full_disk import no_file_above


def item(
    number: int, languages: tuple[str, ...] = ("de", "en"), negatives: int = 0, dtype: str = "uint16"
) -> TokenItem:
    """Return item n: question [n, language's number], passage [language's number, 7 n] and n mod 4 ones."""
    number_of = {"de": 100, "en": 200, "fr": 300}
    return TokenItem(
        f"item-{number:03d}",
        {x: np.array([number, number_of[x]], dtype) for x in languages},
        {x: np.array([number_of[x], number * 7] + [1] * (number % 4), dtype) for x in languages},
        {x: [np.array([number_of[x], number, n][: n + 1], dtype) for n in range(negatives)] for x in languages},
    )


def open_store(folder: Path, shards: list[WrittenShard], token_type: str = "uint16") -> TokenStore:
    write_manifest(folder, shards, text_fingerprint="text", token_type=token_type)
    return TokenStore.open(folder)


@pytest.fixture(scope="module")
def three_shards(tmp_path_factory) -> tuple[TokenStore, list[TokenItem]]:
    """Return a store of three shards, and its items in row order: in each shard, those in de and en first."""
    folder = tmp_path_factory.mktemp("store")
    items, shards = [], []
    for shard in range(3):
        shard_items = [
            item(n, ("de", "en", "fr") if n % 3 else ("de", "en"), negatives=2) for n in range(shard, 40, 3 + shard)
        ]
        shards.append(write_shard(folder, "s", "train", shard, shard_items, "uint16"))
        items += sorted(shard_items, key=lambda i: (i.group.languages, i.item_id))
    return open_store(folder, shards), items


def sequences(ids: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
    ends = np.cumsum(lengths)
    assert ids.dtype == lengths.dtype == np.int32
    assert len(ids) == (ends[-1] if len(ends) else 0)
    return [ids[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)]


def test_shard_bytes_do_not_depend_on_the_order_of_items(tmp_path):
    items = [item(n, ("de",) if n % 3 else ("de", "en"), negatives=n % 2) for n in range(20)]
    one = write_shard(tmp_path / "one", "s", "train", 4, items, "uint16")
    random.Random(1).shuffle(items)
    other = write_shard(tmp_path / "other", "s", "train", 4, iter(items), "uint16")
    assert one == other
    assert one.file == "s/train-00004.arrow"
    assert (tmp_path / "one" / one.file).read_bytes() == (tmp_path / "other" / one.file).read_bytes()
    assert [path.name for path in (tmp_path / "one/s").iterdir()] == ["train-00004.arrow"]  # nothing partial is left


def test_runs_count_the_items_of_each_group_in_row_order(tmp_path):
    # Of 0..5: 0 and 3 have two languages; odd ones have a negative. Groups sort by languages, then by negatives.
    items = [item(n, ("de",) if n % 3 else ("de", "en"), negatives=n % 2) for n in range(6)]
    shard = write_shard(tmp_path, "s", "train", 0, items, "uint16")
    assert shard.runs == (
        (Group(("de",), 0), 2),  # 2, 4
        (Group(("de",), 1), 2),  # 1, 5
        (Group(("de", "en"), 0), 1),  # 0
        (Group(("de", "en"), 1), 1),  # 3
    )
    store = open_store(tmp_path, [shard])
    assert store.item_ids("s", np.arange(6)) == [f"item-{n:03d}" for n in (2, 4, 1, 5, 0, 3)]


def test_group_has_the_minimum_number_of_negatives():
    three = item(1, ("de", "en"), negatives=3)
    fewer = TokenItem(
        "x", three.questions, three.passages, {"de": three.negatives["de"], "en": three.negatives["en"][:1]}
    )
    none = TokenItem("x", three.questions, three.passages, {"de": three.negatives["de"]})
    assert [i.group.negatives for i in (three, fewer, none)] == [3, 1, 0]


@given(rows=st.lists(st.integers(0, 31), max_size=40), language=st.sampled_from(["de", "en"]))
def test_any_rows_are_read_as_written(three_shards, rows, language):
    store, items = three_shards
    assert len(items) == store.manifest.sources["s"].items() == 14 + 10 + 8
    wanted = [items[row] for row in rows]
    taken = np.array(rows, np.int64)
    assert sequences(*store.take("s", "question", language, taken)) == [i.questions[language].tolist() for i in wanted]
    assert sequences(*store.take("s", "passage", language, taken)) == [i.passages[language].tolist() for i in wanted]
    assert store.item_ids("s", taken) == [i.item_id for i in wanted]
    for count in (1, 2):
        assert sequences(*store.take_negatives("s", language, taken, count)) == [
            ids.tolist() for i in wanted for ids in i.negatives[language][:count]
        ]


def test_language_that_some_items_lack_is_read_for_the_others(three_shards):
    store, items = three_shards
    rows = np.array([row for row, one in enumerate(items) if "fr" in one.questions])
    assert 0 < len(rows) < len(items)
    assert sequences(*store.take("s", "passage", "fr", rows)) == [items[r].passages["fr"].tolist() for r in rows]


def test_rows_are_counted_by_split(tmp_path):
    shards = [
        write_shard(tmp_path, "s", "train", 0, [item(1), item(2)], "uint16"),
        write_shard(tmp_path, "s", "validation", 0, [item(3)], "uint16"),
    ]
    store = open_store(tmp_path, shards)
    assert store.item_ids("s", np.array([0])) == ["item-001"]
    assert store.item_ids("s", np.array([0]), "validation") == ["item-003"]
    assert sequences(*store.take("s", "question", "en", np.array([0]), "validation")) == [[3, 200]]


def test_large_vocabulary_takes_four_bytes_per_token(tmp_path):
    def write_and_read(token_type: str, first: int) -> tuple[int, list[list[int]]]:
        ids = np.arange(first, first + 10_000, dtype=token_type)
        one = TokenItem("x", {"de": ids}, {"de": ids[:2]}, {})
        store = open_store(
            tmp_path / token_type, [write_shard(tmp_path / token_type, "s", "train", 0, [one], token_type)], token_type
        )
        read = sequences(*store.take("s", "question", "de", np.array([0])))
        return (tmp_path / token_type / "s/train-00000.arrow").stat().st_size, read

    small, read_small = write_and_read("uint16", 55_000)
    large, read_large = write_and_read("int32", 240_000)
    assert read_small == [list(range(55_000, 65_000))]
    assert read_large == [list(range(240_000, 250_000))]
    assert abs(large - small - 2 * 10_000) < 1000


def test_store_of_another_tokenizer_is_refused(tmp_path):
    open_store(tmp_path, [write_shard(tmp_path, "s", "train", 0, [item(1)], "uint16")])
    TokenStore.open(tmp_path, "text")
    with pytest.raises(StoreError) as error:
        TokenStore.open(tmp_path, "other")
    assert str(tmp_path) in str(error.value)
    assert "(text, this run has other)" in str(error.value)


def test_flipped_bit_is_found_before_the_shard_is_read(tmp_path):
    shards = [write_shard(tmp_path, "s", "train", n, [item(n)], "uint16") for n in range(3)]
    store = open_store(tmp_path, shards)
    store.verify()
    path = tmp_path / shards[1].file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert store.item_ids("s", np.array([0, 2]))  # its neighbours are not touched by it
    with pytest.raises(StoreError, match=r"shard .*/s/train-00001\.arrow is damaged: .*; prepare the store again"):
        store.take("s", "question", "de", np.array([1]))
    assert (tmp_path / SUSPECT).exists()
    with pytest.raises(StoreError, match=r"train-00001\.arrow is damaged"):
        store.verify()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    store.verify()
    assert not (tmp_path / SUSPECT).exists()


def test_verify_names_every_damaged_shard(tmp_path):
    shards = [write_shard(tmp_path, "s", "train", n, [item(n)], "uint16") for n in range(3)]
    store = open_store(tmp_path, shards)
    (tmp_path / shards[0].file).write_bytes(b"")
    (tmp_path / shards[2].file).unlink()
    with pytest.raises(StoreError, match=r"00000\.arrow is damaged.*; shard .*00002\.arrow cannot be read"):
        store.verify()


def read_all(folder: Path) -> list[object]:
    store = TokenStore.open(folder)
    store.verify()
    rows = np.arange(store.manifest.sources["s"].items())
    return [store.item_ids("s", rows), *map(np.ndarray.tolist, store.take("s", "passage", "de", rows)), store.manifest]


@malformed_cases(5 * EXAMPLES, damage=damages)
def test_damaged_store_is_read_equal_or_refused_by_name(three_shards, damage: Damage):
    check_damaged(three_shards[0].folder, damage, read_all)


def test_released_shards_are_mapped_again(tmp_path, monkeypatch):
    shards = [write_shard(tmp_path, "s", "train", n, [item(n)], "uint16") for n in range(5)]
    store = open_store(tmp_path, shards)
    rows = np.array([4, 0, 3, 0, 1, 2, 4])
    expected = store.take("s", "passage", "de", rows)
    monkeypatch.setattr("hbt_ray.data.token_store.MAPPED_SHARDS", 2)
    bounded = TokenStore.open(tmp_path)
    for _ in range(2):
        for one, other in zip(bounded.take("s", "passage", "de", rows), expected, strict=True):
            assert np.array_equal(one, other)
        assert bounded.item_ids("s", rows) == store.item_ids("s", rows)
        assert len(bounded._tables) <= 2


@pytest.mark.parametrize("bytes_left", [0, 5, 300, -1], ids=lambda n: f"{n} bytes")
def test_truncated_shard_is_found_by_take_and_verify(tmp_path, bytes_left):
    shard = write_shard(tmp_path, "s", "train", 0, [item(n) for n in range(50)], "uint16")
    store = open_store(tmp_path, [shard])
    path = tmp_path / shard.file
    path.write_bytes(path.read_bytes()[:bytes_left])
    with pytest.raises(StoreError, match=r"shard .*/s/train-00000\.arrow is damaged"):
        store.take("s", "question", "de", np.array([0]))
    with pytest.raises(StoreError, match=r"s/train-00000\.arrow"):
        store.verify()


def test_missing_shard_is_found_by_take_and_verify(tmp_path):
    shard = write_shard(tmp_path, "s", "train", 0, [item(1)], "uint16")
    store = open_store(tmp_path, [shard])
    (tmp_path / shard.file).unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        store.item_ids("s", np.array([0]))
    with pytest.raises(StoreError, match="cannot be read"):
        store.verify()


def test_full_disk_is_an_error_and_leaves_no_shard(tmp_path):
    sentence = r"shard s/train-00000\.arrow cannot be written to .*; make room"
    with no_file_above(1000), pytest.raises(StoreError, match=sentence):
        write_shard(tmp_path, "s", "train", 0, [item(n) for n in range(100)], "uint16")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    with pytest.raises(StoreError, match="no complete store"):
        TokenStore.open(tmp_path)


UNSAFE = ["../x", "..", "/etc/x", "a/b", "a\\b", ".hidden", "a\x00b", "", "con cert", "日本/語"]


@pytest.mark.parametrize("source", [*UNSAFE, "manifest.json", "rejects.jsonl", "n" * 300])
def test_source_of_any_name_has_a_folder_inside_the_store(tmp_path, source):
    folder = tmp_path / "store"
    shards = [write_shard(folder, name, "train", 0, [item(n)], "uint16") for n, name in enumerate([source, "x", "a_b"])]
    store = open_store(folder, shards)
    paths = [(folder / shard.file).resolve() for shard in shards]
    assert all(path.parent.parent == folder.resolve() for path in paths)
    assert len({path.parent for path in paths}) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert store.item_ids(source, np.array([0])) == ["item-000"]


def test_unsafe_names_have_distinct_folders(tmp_path):
    files = {write_shard(tmp_path, name, "train", 0, [], "uint16").file for name in (*UNSAFE, "a_b", "_x", "source")}
    assert len(files) == len(UNSAFE) + 3
