from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from hbt_ray.config import RunConfig
from hbt_ray.data import engine, prepare, store_maker
from hbt_ray.data.components import ItemComponents, item_key
from hbt_ray.data.corpora import CorpusShard
from hbt_ray.data.decontamination import DecontaminationIndex
from hbt_ray.data.manifest import write_manifest
from hbt_ray.data.prepare import (
    Bucket,
    assign_shards,
    count_shards,
    make_shard,
    sample_for_tokenizer,
    shard_from_json,
    shard_to_json,
    tokenizer_texts,
)
from hbt_ray.data.token_store import TokenStore
from hbt_ray.data.tokenizer import PairTokenizer
from tests.helpers import tiny_corpus
from tests.helpers.row_tables import read_table, record, shuffled, write_corpus

NONE = np.empty(0, np.uint64)


@pytest.fixture(scope="module")
def tokenization() -> PairTokenizer:
    return tiny_corpus.tokenization()


# Splits and shards


def test_number_of_shards_follows_from_the_largest_language():
    counts = {("s", "de", ""): 100, ("s", "en", ""): 101, ("t", "de", ""): 1, ("t", "", "broken JSON"): 900}
    assert count_shards(counts, 50) == {"s": 3, "t": 1}


def test_rows_of_an_item_share_a_bucket_of_their_source_and_split(tmp_path):
    rows = pa.concat_tables(
        read_table(write_corpus(tmp_path / name, {x: [record(n, x) for n in range(200)] for x in ("de", "en")}))
        for name in "st"
    )
    placed = assign_shards(rows, np.array([item_key("s", "item-007")], np.uint64), {"s": 3, "t": 5}, 0.3)
    assert placed.num_rows == rows.num_rows - 2
    of_item: dict[tuple[str, str], set[str]] = {}
    for row in placed.to_pylist():
        of_item.setdefault((row["source"], row["item_id"]), set()).add(row["bucket"])
    assert ("s", "item-007") not in of_item
    assert all(len(found) == 1 for found in of_item.values())
    buckets = {item: Bucket.from_text(text) for item, (text,) in of_item.items()}
    for (source, item_id), bucket in buckets.items():
        is_held_out = ItemComponents().held_out(np.array([item_key(source, item_id)], np.uint64), 0.3, 400)[0]
        assert (bucket.source, bucket.split) == (source, "validation" if is_held_out else "train")
    # Of 3 shards a share of 0.3 fills one, of 5 it fills two (1.5, rounded to even).
    found = sorted({(b.source, b.split, b.number) for b in buckets.values()})
    assert [(s, split) for s, split, _ in found] == (
        [("s", "train")] * 3 + [("s", "validation")] + [("t", "train")] * 5 + [("t", "validation")] * 2
    )


def test_rejected_rows_have_no_bucket(tmp_path):
    rows = read_table(write_corpus(tmp_path / "c", {"de": [record(0, "de"), "{"]}))
    assert assign_shards(rows, NONE, {"c": 1}, 0.0).column("item_id").to_pylist() == ["item-000"]


def test_bucket_round_trips_through_text():
    bucket = Bucket("a “source”", "validation", 12)
    assert Bucket.from_text(bucket.to_text()) == bucket


# Writing


def one_bucket(shards: list[CorpusShard]) -> pa.Table:
    return assign_shards(read_table(shards), NONE, {"c": 1}, 0.0)


def test_shard_does_not_depend_on_the_order_of_rows(tmp_path, tokenization):
    rows = one_bucket(
        write_corpus(
            tmp_path / "c",
            {
                x: [
                    record(n, x, negatives=[tiny_corpus.negative(x, n, p) for p in range(n % 3)])
                    for n in range(skip, 30)
                ]
                for skip, x in enumerate(tiny_corpus.LANGUAGES)
            }
            | {"it": [record(3, "it"), record(3, "it", context="later")]},
        )
    )
    shard, rejects, _ = make_shard(rows, tmp_path / "one", tokenization)
    for seed in range(3):
        other, other_rejects, _ = make_shard(shuffled(rows, seed), tmp_path / "other", tokenization)
        assert (other, other_rejects.to_pylist()) == (shard, rejects.to_pylist())
        assert (tmp_path / "other" / shard.file).read_bytes() == (tmp_path / "one" / shard.file).read_bytes()


def test_repeated_id_in_a_language_is_rejected_after_the_first(tmp_path, tokenization):
    lines: list[Any] = [record(n, "de") for n in range(12)]
    lines[10] = record(1, "de", context="the eleventh line")
    lines[4] = record(1, "de", context="the fifth line")
    rows = one_bucket(write_corpus(tmp_path / "c", {"de": lines, "en": [record(1, "en")]}))
    shard, rejects, _ = make_shard(shuffled(rows), tmp_path / "store", tokenization)
    assert [tuple(row.values()) for row in rejects.to_pylist()] == [
        ("c", f"de.jsonl:{line}", "id repeated in its language", "item-001") for line in (5, 11)
    ]  # by line, not by letters: 11 is after 5
    assert shard.items == 10
    write_manifest(tmp_path / "store", [shard], text_fingerprint="text", token_type=tokenization.token_type)
    store = TokenStore.open(tmp_path / "store")
    row = store.item_ids("c", np.arange(10)).index("item-001")
    ids, _ = store.take("c", "passage", "de", np.array([row]))
    assert ids.tolist() == tokenization.encode([tiny_corpus.passage("de", 1).strip()], "passage")[0].tolist()


def test_shard_has_the_tokens_of_every_language_and_negative(tmp_path, tokenization):
    made = {
        x: [record(n, x, negatives=[tiny_corpus.negative(x, n, 0), tiny_corpus.negative(x, n, 1)]) for n in range(5)]
        for x in ("de", "en")
    }
    shard, rejects, _ = make_shard(
        shuffled(one_bucket(write_corpus(tmp_path / "c", made))), tmp_path / "store", tokenization
    )
    assert rejects.num_rows == 0
    write_manifest(tmp_path / "store", [shard], text_fingerprint="text", token_type=tokenization.token_type)
    store = TokenStore.open(tmp_path / "store")
    assert store.item_ids("c", np.arange(5)) == [f"item-{n:03d}" for n in range(5)]
    for language in ("de", "en"):
        for n in range(5):
            row = np.array([n])
            question, _ = store.take("c", "question", language, row)
            assert question.tolist() == tokenization.encode([tiny_corpus.question(language, n)], "question")[0].tolist()
            negatives, lengths = store.take_negatives("c", language, row, 2)
            expected = tokenization.encode([tiny_corpus.negative(language, n, p) for p in range(2)], "passage")
            assert negatives.tolist() == np.concatenate(expected).tolist()
            assert lengths.tolist() == [len(one) for one in expected]


def test_shard_result_round_trips_through_json(tmp_path, tokenization):
    rows = one_bucket(write_corpus(tmp_path / "c", {"de": [record(0, "de"), record(0, "de")], "en": [record(1, "en")]}))
    result = make_shard(rows, tmp_path / "store", tokenization)
    assert result.rejects.num_rows
    assert shard_from_json(shard_to_json(result)) == result


def test_tokenizer_texts_do_not_depend_on_the_order_of_rows(tmp_path):
    rows = read_table(write_corpus(tmp_path / "c", {x: [record(n, x) for n in range(20)] for x in ("de", "en")}))
    texts = tokenizer_texts(rows, ("Q: ", "P: "))
    assert texts == tokenizer_texts(shuffled(rows), ("Q: ", "P: "))
    assert len(texts) == 2 * 40
    assert all(text.startswith("Q: " if n % 2 == 0 else "P: ") for n, text in enumerate(texts))


@pytest.mark.parametrize("limit", [1, 7, 60])
def test_sample_for_the_tokenizer_has_the_first_of_all_texts(tmp_path, monkeypatch, limit):
    rows = read_table(write_corpus(tmp_path / "c", {x: [record(n, x) for n in range(40)] for x in ("de", "en")}))
    assigned = assign_shards(rows, NONE, {"c": 2}, 0.2)
    everything = tokenizer_texts(sample_for_tokenizer(assigned, 1.0), ("", ""))
    monkeypatch.setattr(prepare, "MAX_TOKENIZER_TEXTS", limit)
    half = sample_for_tokenizer(assigned, 0.5)
    assert limit / 2 <= half.num_rows < len(everything) / 2
    assert tokenizer_texts(half, ("", "")) == everything[:limit]


def test_sample_has_no_held_out_row_of_a_source_named_train(tmp_path):
    rows = read_table(write_corpus(tmp_path / "train", {"de": [record(n, "de") for n in range(40)]}))
    assigned = assign_shards(rows, NONE, {"train": 2}, 0.5)
    splits = [Bucket.from_text(text).split for text in assigned.column("bucket").to_pylist()]
    assert 0 < splits.count("train") < 40
    assert sample_for_tokenizer(assigned, 1.0).num_rows == splits.count("train")


def test_tokenizer_is_the_same_however_few_rows_are_sampled_first(tmp_path, monkeypatch):
    rows = read_table(write_corpus(tmp_path / "c", {x: [record(n, x) for n in range(40)] for x in ("de", "en")}))
    assigned = engine.TablesHere([assign_shards(rows, NONE, {"c": 1}, 0.0)])
    for module in (prepare, store_maker):
        monkeypatch.setattr(module, "MAX_TOKENIZER_TEXTS", 30)
    inputs = RunConfig().prepare_inputs
    expected = store_maker._train_tokenizer(inputs, assigned, 1).backend_tokenizer.to_str()  # samples all
    sampled = []
    monkeypatch.setattr(
        store_maker,
        "sample_for_tokenizer",
        lambda table, fraction: sampled.append(fraction) or sample_for_tokenizer(table, fraction),
    )
    found = store_maker._train_tokenizer(inputs, assigned, 3_300).backend_tokenizer.to_str()
    assert found == expected
    assert sampled[0] == pytest.approx(0.01)
    assert sampled[-1] < 1


@pytest.mark.parametrize(
    "evaluation_text",
    [tiny_corpus.question("en", 3), tiny_corpus.passage("de", 3), "DE: it is the number 3 so, so, so!"],
    ids=["its question", "its passage", "its passage written otherwise"],
)
def test_item_that_occurs_in_evaluation_is_dropped_in_all_languages(tmp_path, tokenization, evaluation_text):
    shards = write_corpus(tmp_path / "c", {x: [record(n, x) for n in range(10)] for x in tiny_corpus.LANGUAGES})
    rows = read_table(shards, DecontaminationIndex([evaluation_text, "quite another text that no row holds"], 1.0))
    occurring = rows.filter(pc.is_valid(rows.column("occurs_in_evaluation"))).to_pylist()
    assert len(occurring) == 1
    assert occurring[0]["occurs_in_evaluation"] == f"equal: {evaluation_text}"
    left_out = np.array([item_key(row["source"], row["item_id"]) for row in occurring], np.uint64)
    placed = assign_shards(rows, left_out, {"c": 1}, 0.0)
    shard, *_ = make_shard(placed, tmp_path / "store", tokenization)
    write_manifest(tmp_path / "store", [shard], text_fingerprint="text", token_type=tokenization.token_type)
    kept = TokenStore.open(tmp_path / "store").item_ids("c", np.arange(9))
    assert kept == [f"item-{n:03d}" for n in range(10) if n != 3]
    assert placed.num_rows == 9 * 3
