"""Items with a text in common, in any language, are in one component, and so in one split."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.config import CorpusConfig
from hbt_ray.data import components
from hbt_ray.data.components import (
    TEXT_KEYS,
    ItemComponents,
    find_components,
    item_key,
    link_items,
    list_text_keys,
)
from hbt_ray.data.corpora import list_shards
from hbt_ray.data.prepare import Bucket, assign_shards, count_items
from hbt_ray.data.row_tables import count_rows
from tests.helpers import tiny_corpus
from tests.helpers.row_tables import read_table, record, shuffled, write_corpus

TextKey = tuple[int, int, bool]  # key, item, is_negative


def table(*texts: TextKey) -> pa.Table:
    columns = zip(*texts, strict=True) if texts else ((), (), ())
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, TEXT_KEYS, strict=True)], TEXT_KEYS)


def sets_of(found: ItemComponents) -> set[frozenset[int]]:
    by_name: dict[int, set[int]] = {}
    for item, name in zip(found.items.tolist(), found.components.tolist(), strict=True):
        by_name.setdefault(name, set()).add(item)
    assert all(name in members for name, members in by_name.items())
    assert all(
        size == len(by_name[name]) for size, name in zip(found.sizes.tolist(), found.components.tolist(), strict=True)
    )
    return set(map(frozenset, by_name.values()))


def test_items_are_joined_by_a_chain_of_shared_texts():
    found = find_components([link_items(table((1, 10, False), (1, 11, False), (2, 11, False), (2, 12, False)))])
    assert sets_of(found) == {frozenset({10, 11, 12})}
    assert found.of_items(np.array([10, 12, 13], np.uint64)).tolist() == [found.components[0]] * 2 + [0]


def test_a_negative_joins_no_items_but_knows_whose_passage_it_is():
    texts = [(1, 10, False), (1, 11, True), (2, 12, False), (3, 11, True), (1, 13, True)]
    found = find_components([link_items(table(*texts))])
    assert sets_of(found) == {frozenset({10})}
    assert found.of_negatives(np.array([1, 2, 3], np.uint64)).tolist() == [10, 0, 0]


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 20), st.booleans()), max_size=40),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_components_equal_a_plain_search_for_any_blocks(texts: list[TextKey], buckets: int, order):
    expected: list[set[int]] = []
    for key in {key for key, _, _ in texts}:
        joined = {item for other, item, is_negative in texts if other == key and not is_negative}
        is_negative = any(other == key and flag for other, _, flag in texts)
        if len(joined) > 1 or (joined and is_negative):
            meeting = [one for one in expected if one & joined]
            expected = [one for one in expected if not one & joined] + [joined.union(*meeting)]
    order.shuffle(texts)
    links = [link_items(table(*(one for one in texts if one[0] % buckets == bucket))) for bucket in range(buckets)]
    order.shuffle(links)
    found = find_components(links)
    assert sets_of(found) == set(map(frozenset, expected))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "MAX_LINKS", 2)
        again = find_components(links)
    for name in ("items", "components", "sizes", "negative_keys", "negative_components"):
        assert getattr(again, name).tolist() == getattr(found, name).tolist()


def test_links_of_many_items_are_joined_few_times(monkeypatch):
    joined = []  # numbers of links

    def counted(links, join=components._join):
        joined.append(links.shape[1])
        return join(links)

    monkeypatch.setattr(components, "MAX_LINKS", 100)
    monkeypatch.setattr(components, "_join", counted)
    # 800 pairs of items, in tables of 10 links
    items = np.arange(1, 1601, dtype=np.uint64)
    links = pa.table([items[::2], items[1::2], pa.nulls(800, pa.uint64())], components.LINKS)
    found = find_components(pa.Table.from_batches([batch]) for batch in links.to_batches(10))
    assert len(set(found.components.tolist())) == 800
    # 110 links are joined to 220, one of each item; with 230 more to 680. The last join is of the 1,140 at the end.
    assert joined == [110, 450, 1140]


# Splits


def held_out(found: ItemComponents, keys: np.ndarray, fraction: float, num_items: int) -> set[int]:
    return set(keys[found.held_out(keys, fraction, num_items)].tolist())


def test_held_out_fraction_is_within_binomial_bounds():
    keys = np.array([item_key("s", f"item-{n}") for n in range(20_000)], np.uint64)
    for share in (0.02, 0.3):
        chosen = held_out(ItemComponents(), keys, share, len(keys))
        assert abs(len(chosen) - 20_000 * share) < 4 * math.sqrt(20_000 * share * (1 - share))


def test_fraction_0_holds_out_nothing_and_1_everything():
    keys = np.array([item_key("s", str(n)) for n in range(500)], np.uint64)
    assert not held_out(ItemComponents(), keys, 0.0, 500)
    assert len(held_out(ItemComponents(), keys, 1.0, 500)) == 500


def test_components_are_held_out_whole_and_as_often_as_items():
    # 4,000 components of 5 items: the expected number of held-out components is 4,000 * share.
    keys = np.array([item_key("s", str(n)) for n in range(20_000)], np.uint64)
    joined = keys.reshape(4_000, 5)
    found = find_components([link_items(table(*((row, key, False) for row, of in enumerate(joined) for key in of)))])
    chosen = [found.held_out(keys, share, len(keys)).reshape(4_000, 5) for share in (0.05, 0.2, 0.5)]
    for share, of_share in zip((0.05, 0.2, 0.5), chosen, strict=True):
        assert (of_share.all(1) == of_share.any(1)).all()
        assert abs(of_share[:, 0].sum() - 4_000 * share) < 4 * math.sqrt(4_000 * share * (1 - share))
    assert (chosen[0] <= chosen[1]).all()
    assert (chosen[1] <= chosen[2]).all()


def test_a_component_larger_than_the_share_is_trained_on():
    keys = np.array([item_key("s", str(n)) for n in range(100)], np.uint64)
    found = find_components([link_items(table(*((1, key, False) for key in keys[:20])))])
    name = int(found.components[0])
    fraction = (name + 1) / 2**64 + 0.01  # its hash is below
    assert not found.held_out(keys[:20], fraction, int(19 / fraction)).any()
    assert found.held_out(keys[:20], fraction, int(21 / fraction) + 1).all()


def splits_of(rows: pa.Table, share: float) -> dict[str, set[str]]:
    """Return the texts of each split, by side, after `assign_shards`."""
    found = find_components([link_items(list_text_keys(rows))])
    counts = count_rows(rows)
    assigned = assign_shards(
        rows, np.empty(0, np.uint64), dict.fromkeys({x for x, _, _ in counts}, 1), share, found, count_items(counts)
    )
    texts: dict[str, set[str]] = {"train": set(), "validation": set(), "train items": set(), "validation items": set()}
    keys = {(r["source"], r["item_id"], r["language"]): (r["question_key"], r["passage_key"]) for r in rows.to_pylist()}
    for row in assigned.to_pylist():
        split = Bucket.from_text(row["bucket"]).split
        texts[split].update(
            f"{side} {key}"
            for side, key in zip("qp", keys[row["source"], row["item_id"], row["language"]], strict=True)
            if key
        )
        texts[f"{split} items"].add(f"{row['source']} {row['item_id']}")
    return texts


def test_splits_share_no_text_across_languages_and_sources(tmp_path):
    # The German passage of item n is the English one of item n + 1, ten items to a chain; the sources are equal.
    def passage(language: str, n: int) -> str:
        return f"passage {n // 10} {n % 10 + (language == 'de')}"

    rows = pa.concat_tables(
        read_table(
            write_corpus(
                tmp_path / name,
                {
                    x: [record(n, x, context=passage(x, n), question=f"{n} {x}") for n in range(300)]
                    for x in ("de", "en")
                },
            )
        )
        for name in "st"
    )
    found = splits_of(rows, 0.2)
    assert not found["train"] & found["validation"]
    assert found == splits_of(shuffled(rows), 0.2)
    chains = {(name.split("item-")[1])[:2] for name in found["validation items"]}
    assert 0 < len(chains) < 30
    assert len(found["validation items"]) == len(chains) * 10 * 2


def test_no_training_row_has_a_held_out_passage_as_negative(tmp_path):
    # The negatives of item n are the German passage of item n + 1 and a text that is no passage.
    records = [
        record(n, "en", negatives=[tiny_corpus.passage("de", (n + 1) % 200).strip(), f"negative {n}"])
        for n in range(200)
    ]
    rows = read_table(write_corpus(tmp_path / "c", {"de": [record(n, "de") for n in range(200)], "en": records}))
    found = find_components([link_items(list_text_keys(rows))])
    assigned = assign_shards(rows, np.empty(0, np.uint64), {"c": 1}, 0.2, found, 200).to_pylist()
    splits = {row["item_id"]: Bucket.from_text(row["bucket"]).split for row in assigned}
    held_out = {tiny_corpus.passage("de", n).strip() for n in range(200) if splits[f"item-{n:03d}"] == "validation"}
    assert 20 < len(held_out) < 60
    before = {record["id"]: record["negatives"] for record in records}
    for row in assigned:
        negatives = before[row["item_id"]] if row["language"] == "en" else []
        is_trained_on = splits[row["item_id"]] == "train"
        kept = [text for text in negatives if not (is_trained_on and text in held_out)]
        assert (row["negatives"], row["negatives_held_out"]) == (kept, len(negatives) - len(kept))
        assert len(row["negative_components"]) == len(kept)


def test_texts_of_only_punctuation_join_no_items(tmp_path):
    rows = read_table(write_corpus(tmp_path / "c", {"de": [record(n, "de", question="?" * (n + 1)) for n in range(9)]}))
    assert not find_components([link_items(list_text_keys(rows))]).items.size


@pytest.mark.parametrize(("corpus", "items"), [("squad-parallel", 4_370), ("squad-dev-parallel", 4_029)])
def test_splits_of_real_corpora_share_no_passage_or_question(shared_data: Path, corpus: str, items: int):
    rows = read_table(list_shards(CorpusConfig(format="jsonl", path=str(shared_data / corpus))))
    found = splits_of(rows, 0.05)
    assert not found["train"] & found["validation"]
    assert len(found["train items"]) + len(found["validation items"]) == items
    assert 0.03 < len(found["validation items"]) / items < 0.07
