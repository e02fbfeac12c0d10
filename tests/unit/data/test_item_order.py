from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.data.item_order import order_items
from hbt_ray.data.manifest import Group, write_manifest
from hbt_ray.data.prepare import count_shards, shard_number
from hbt_ray.data.token_store import TokenStore, write_shard
from tests.helpers import tiny_corpus

PAIR_TOKENIZER = tiny_corpus.tokenization()


def test_items_are_sorted_by_group_then_by_id():
    rows = [("s", "b", "en", 0), ("s", "b", "de", 0), ("s", "a", "de", 0), ("s", "a", "en", 0), ("s", "z", "de", 2)]
    manifest, ids = order_items(rows)
    assert ids == {"s": ["z", "a", "b"]}
    assert manifest.sources["s"].groups == (Group(("de",), 2), Group(("de", "en"), 0))
    assert [shard.runs for shard in manifest.sources["s"].shards["train"]] == [((0, 1), (1, 2))]


@given(
    st.dictionaries(st.integers(0, 99), st.sets(st.sampled_from(tiny_corpus.LANGUAGES), min_size=1), min_size=1),
    st.integers(1, 40),
)
def test_order_is_that_of_a_store_of_the_same_items(tmp_path_factory, languages_of, items_per_shard):
    rows = [("numbers", f"item-{item:04d}", x, 0) for item, languages in languages_of.items() for x in languages]
    counts = {
        ("numbers", x, ""): sum(x in languages for languages in languages_of.values()) for x in ("de", "en", "fr")
    }
    num_shards = count_shards(counts, items_per_shard)["numbers"]
    items = [tiny_corpus.token_item(PAIR_TOKENIZER, item, tuple(languages_of[item])) for item in languages_of]
    folder = tmp_path_factory.mktemp("store")
    written = [
        write_shard(
            *(folder, "numbers", "train", number),
            [item for item in items if shard_number("numbers", item.item_id, num_shards) == number],
            PAIR_TOKENIZER.token_type,
        )
        for number in range(num_shards)
    ]
    expected = write_manifest(folder, written, text_fingerprint="", token_type="").sources["numbers"]
    manifest, ids = order_items(rows, items_per_shard)
    found = manifest.sources["numbers"]
    assert found.groups == expected.groups
    assert [shard.runs for shard in found.shards["train"]] == [shard.runs for shard in expected.shards["train"]]
    assert ids["numbers"] == TokenStore.open(folder).item_ids("numbers", range(len(items)))
