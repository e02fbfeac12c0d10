"""What becomes of a row: read, checked, dropped or kept, and written the same in whatever order it comes."""

from __future__ import annotations

import gzip
import json
import math
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.config import CorpusConfig, RunConfig, load_config
from hbt_ray.data.corpora import list_shards
from hbt_ray.data.decontamination import DecontaminationIndex
from hbt_ray.data.prepare import (
    ROWS,
    Bucket,
    assign_shards,
    assign_split,
    check_languages,
    check_rejects,
    count_rows,
    count_shards,
    find_duplicate_items,
    make_shard,
    read_rows,
    shard_from_json,
    shard_to_json,
    store_fingerprint,
    tokenizer_texts,
    zero_shot_sets,
)
from hbt_ray.data.token_store import TokenStore, write_manifest
from hbt_ray.data.tokenizer import PairTokenizer
from hbt_ray.data.types import Benchmark, Passage, RejectedRow
from hbt_ray.errors import CorpusError
from tests.helpers import tiny_corpus


def record(item: int, language: str, **changed: Any) -> dict[str, Any]:
    return {
        "id": f"item-{item:03d}",
        "question": tiny_corpus.question(language, item),
        "context": tiny_corpus.passage(language, item),
    } | changed


def corpus(folder: Path, rows: Mapping[str, Sequence[dict[str, Any] | str]]) -> list[Any]:
    """Return the parts of a JSON Lines corpus with these records, or raw lines, per language."""
    folder.mkdir(parents=True, exist_ok=True)
    for language, records in rows.items():
        lines = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in records]
        (folder / f"{language}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return list_shards(CorpusConfig(format="jsonl", path=str(folder)))


def read(parts: list[Any], evaluation: DecontaminationIndex | None = None) -> pa.Table:
    return pa.concat_tables(read_rows(parts, evaluation))


def table(*rows: tuple[str, str, int]) -> pa.Table:
    """Rows of (source, item, pair key) alone."""
    return pa.Table.from_pylist([{"source": s, "item_id": i, "pair_key": k} for s, i, k in rows], ROWS)


def repeated(rows: pa.Table) -> set[tuple[str, str]]:
    return {(row["source"], row["item_id"]) for row in find_duplicate_items(rows).to_pylist()}


def shuffled(rows: pa.Table, seed: int = 0) -> pa.Table:
    places = list(range(rows.num_rows))
    random.Random(seed).shuffle(places)
    return rows.take(places)


@pytest.fixture(scope="module")
def tokenization() -> PairTokenizer:
    return tiny_corpus.tokenization()


# Reading


def test_good_rows_are_cleaned_and_bad_ones_stay_with_their_reason_and_place(tmp_path):
    rows = read(
        corpus(
            tmp_path / "c",
            {
                "de": [record(0, "de", question="  was\u200b  ist\tdas "), "{", record(1, "de", context="")],
                "en": [record(0, "en", context="\u200b"), record(1, "en", negatives=["no", "\u200b", "no  way"])],
            },
        )
    )
    assert rows.schema == ROWS
    good, bad = (rows.filter(mask(rows.column("rejected"))).to_pylist() for mask in (pc.is_null, pc.is_valid))
    assert [(r["item_id"], r["language"], r["question"], r["negatives"]) for r in good] == [
        ("item-000", "de", "was ist das", []),
        ("item-001", "en", tiny_corpus.question("en", 1), ["no", "no way"]),
    ]
    assert [(r["source"], r["place"], r["rejected"]) for r in bad] == [
        ("c", "de.jsonl:2", "broken JSON"),
        ("c", "de.jsonl:3", "missing passage"),
        ("c", "en.jsonl:1", "empty passage"),
    ]
    assert count_rows(rows) == {
        ("c", "de", ""): 1,
        ("c", "en", ""): 1,
        ("c", "", "broken JSON"): 1,
        ("c", "", "missing passage"): 1,
        ("c", "", "empty passage"): 1,
    }


def test_tables_hold_at_most_1024_rows_and_all_of_them(tmp_path):
    parts = corpus(tmp_path / "c", {x: [record(n, x) for n in range(700)] for x in ("de", "en", "fr")})
    tables = list(read_rows(parts, None))
    assert [one.num_rows for one in tables] == [1024, 1024, 52]
    assert len(set(pa.concat_tables(tables).column("place").to_pylist())) == 2100
    assert list(read_rows([], None)) == []


def test_pair_keys_are_equal_where_language_question_and_passage_are_once_normalised(tmp_path):
    same = {"question": "Where IS it?", "context": "“Here”"}
    rows = read(
        corpus(
            tmp_path / "c",
            {
                "de": [record(0, "de", **same)],
                "en": [
                    record(0, "en", **same),
                    record(1, "en", question="where is it", context="here."),
                    record(2, "en", question="where is it", context="there."),
                ],
            },
        )
    )
    de, en, also_en, other = rows.column("pair_key").to_pylist()
    assert en == also_en
    assert len({de, en, other}) == 3


# Too many bad rows


def bad_rows(source: str, **reasons: int) -> list[RejectedRow]:
    return [RejectedRow(source, f"de.jsonl:{n}", reason) for reason, rows in reasons.items() for n in range(rows)]


@pytest.mark.parametrize(
    ("bad", "rows", "share"), [(2, 100, 0.02), (29, 100, 0.29), (7, 100, 0.07), (57, 100, 0.57), (0, 5, 0.0)]
)
def test_a_share_of_bad_rows_exactly_at_the_threshold_is_allowed_and_one_more_is_not(bad, rows, share):
    read = {"s": rows, "other": 1000}
    check_rejects(read, bad_rows("s", broken=bad), share, Path("rejects.jsonl"))
    with pytest.raises(CorpusError, match=rf"^{bad + 1} of {rows} rows of corpus 's' cannot be used"):
        check_rejects(read, bad_rows("s", broken=bad + 1), share, Path("rejects.jsonl"))


def test_the_commonest_reason_is_told_and_where_all_are_listed():
    rejects = bad_rows("s", broken=2, missing=3)
    with pytest.raises(CorpusError, match=r"^5 of 10 .* 'missing' \(3\); see out/rejects\.jsonl, mend them"):
        check_rejects({"s": 10}, rejects, 0.1, Path("out/rejects.jsonl"))


def test_a_file_that_breaks_off_is_refused_however_few_its_rows_count_for(tmp_path):
    (tmp_path / "c").mkdir()
    whole = gzip.compress(b"".join(json.dumps(record(n, "de")).encode() + b"\n" for n in range(2000)))
    (tmp_path / "c/de.jsonl.gz").write_bytes(whole[:-100])
    rows = read(list_shards(CorpusConfig(format="jsonl", path=str(tmp_path / "c"))))
    assert rows.num_rows > 1000
    bad = [RejectedRow(r["source"], r["place"], r["rejected"], r["detail"]) for r in rows.to_pylist() if r["rejected"]]
    with pytest.raises(CorpusError, match=r"de\.jsonl\.gz:\d+ of corpus 'c' cannot be read .*; fetch it again"):
        check_rejects({"c": rows.num_rows}, bad, 1.0, tmp_path / "rejects.jsonl")


def test_a_corpus_or_a_language_asked_of_it_without_one_good_row_is_refused():
    counts = {("s", "de", ""): 9, ("s", "en", ""): 1, ("s", "", "broken JSON"): 3, ("t", "", "broken JSON"): 3}

    def asked(name: str, *languages: str) -> CorpusConfig:
        return CorpusConfig(format="jsonl", path=name, languages=languages or None)

    check_languages([asked("s"), asked("s", "de"), asked("s", "de", "en")], counts)
    with pytest.raises(CorpusError, match="corpus 's' has no row in 'fr'; it has de, en"):
        check_languages([asked("s", "de", "fr")], counts)
    with pytest.raises(CorpusError, match=r"corpus 't' has no row that can be used$"):
        check_languages([asked("t")], counts)


# Repeated items


def test_of_items_that_say_the_same_the_first_by_source_and_id_stays():
    rows = table(("b", "1", 7), ("a", "2", 7), ("a", "1", 7), ("a", "0", 8))
    assert repeated(rows) == {("a", "2"), ("b", "1")}


def test_one_language_that_says_the_same_makes_the_item_a_repeated_one():
    rows = table(("s", "1", 11), ("s", "1", 12), ("s", "2", 21), ("s", "2", 12))
    assert repeated(rows) == {("s", "2")}


def test_an_item_does_not_repeat_itself():
    assert repeated(table(("s", "1", 7), ("s", "1", 7))) == set()


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("0123"), st.integers(0, 5)), max_size=20),
    buckets=st.integers(1, 3),
)
def test_repeated_items_are_the_same_for_any_order_and_any_cut_by_pair_key(rows, buckets):
    whole = repeated(table(*rows))
    assert repeated(table(*rows[::-1])) == whole
    parts = [[row for row in rows if row[2] % buckets == bucket] for bucket in range(buckets)]
    assert set().union(*(repeated(table(*part)) for part in parts)) == whole
    # Every pair key of a dropped item, bar those it owns alone, is said by an item before it.
    for source, item in whole:
        assert any(
            row[2] == own[2] and row[:2] < (source, item) for own in rows for row in rows if own[:2] == (source, item)
        )


# Splits and shards


def test_the_validation_share_stays_within_binomial_bounds():
    for share in (0.02, 0.3):
        held_out = sum(assign_split("s", f"item-{n}", share) == "validation" for n in range(20_000))
        deviation = math.sqrt(20_000 * share * (1 - share))
        assert abs(held_out - 20_000 * share) < 4 * deviation


def test_share_0_holds_nothing_out_and_share_1_everything():
    names = [f"item-{n}" for n in range(500)]
    assert {assign_split("s", name, 0.0) for name in names} == {"train"}
    assert {assign_split("s", name, 1.0) for name in names} == {"validation"}


def test_an_item_held_out_stays_so_at_any_larger_share():
    held_out = [
        {n for n in range(2000) if assign_split("s", str(n), share) == "validation"} for share in (0.1, 0.2, 0.5)
    ]
    assert held_out[0] < held_out[1] < held_out[2]


def test_shards_are_as_many_as_the_largest_language_of_a_source_fills():
    counts = {("s", "de", ""): 100, ("s", "en", ""): 101, ("t", "de", ""): 1, ("t", "", "broken JSON"): 900}
    assert count_shards(counts, 50) == {"s": 3, "t": 1}


def test_all_rows_of_an_item_stand_in_one_bucket_and_buckets_are_of_one_source_and_split(tmp_path):
    rows = pa.concat_tables(
        read(corpus(tmp_path / name, {x: [record(n, x) for n in range(200)] for x in ("de", "en")})) for name in "st"
    )
    placed = assign_shards(rows, {("s", "item-007")}, {"s": 3, "t": 5}, 0.3)
    assert placed.num_rows == rows.num_rows - 2
    of_item: dict[tuple[str, str], set[str]] = {}
    for row in placed.to_pylist():
        of_item.setdefault((row["source"], row["item_id"]), set()).add(row["bucket"])
    assert ("s", "item-007") not in of_item
    assert all(len(found) == 1 for found in of_item.values())
    buckets = {item: Bucket.from_text(text) for item, (text,) in of_item.items()}
    for (source, item_id), bucket in buckets.items():
        assert (bucket.source, bucket.split) == (source, assign_split(source, item_id, 0.3))
    # Of 3 shards a share of 0.3 fills one, of 5 it fills two (1.5, rounded to even).
    found = sorted({(b.source, b.split, b.number) for b in buckets.values()})
    assert [(s, split) for s, split, _ in found] == (
        [("s", "train")] * 3 + [("s", "validation")] + [("t", "train")] * 5 + [("t", "validation")] * 2
    )


def test_rejected_rows_have_no_bucket(tmp_path):
    rows = read(corpus(tmp_path / "c", {"de": [record(0, "de"), "{"]}))
    assert assign_shards(rows, set(), {"c": 1}, 0.0).column("item_id").to_pylist() == ["item-000"]


def test_buckets_are_read_back_from_their_text():
    bucket = Bucket("a “source”", "validation", 12)
    assert Bucket.from_text(bucket.to_text()) == bucket


# Shards


def one_bucket(parts: list[Any]) -> pa.Table:
    return assign_shards(read(parts), set(), {"c": 1}, 0.0)


def test_a_shard_is_the_same_for_rows_in_any_order(tmp_path, tokenization):
    rows = one_bucket(
        corpus(
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
    shard, rejects = make_shard(rows, tmp_path / "one", tokenization)
    for seed in range(3):
        other, other_rejects = make_shard(shuffled(rows, seed), tmp_path / "other", tokenization)
        assert (other, other_rejects) == (shard, rejects)
        assert (tmp_path / "other" / shard.file).read_bytes() == (tmp_path / "one" / shard.file).read_bytes()


def test_an_id_repeated_in_its_language_is_rejected_with_its_place_and_the_first_stays(tmp_path, tokenization):
    lines: list[Any] = [record(n, "de") for n in range(12)]
    lines[10] = record(1, "de", context="the eleventh line")
    lines[4] = record(1, "de", context="the fifth line")
    rows = one_bucket(corpus(tmp_path / "c", {"de": lines, "en": [record(1, "en")]}))
    shard, rejects = make_shard(shuffled(rows), tmp_path / "store", tokenization)
    assert rejects == [
        RejectedRow("c", f"de.jsonl:{line}", "id repeated in its language", "item-001") for line in (5, 11)
    ]  # by line, not by letters: 11 is after 5
    assert shard.items == 10
    write_manifest(tmp_path / "store", [shard], text_fingerprint="text", token_type=tokenization.token_type)
    store = TokenStore.open(tmp_path / "store")
    row = store.item_ids("c", np.arange(10)).index("item-001")
    ids, _ = store.take("c", "passage", "de", np.array([row]))
    assert ids.tolist() == tokenization.encode([tiny_corpus.passage("de", 1).strip()], "passage")[0].tolist()


def test_a_shard_holds_the_tokens_of_every_language_and_negative(tmp_path, tokenization):
    made = {
        x: [record(n, x, negatives=[tiny_corpus.negative(x, n, 0), tiny_corpus.negative(x, n, 1)]) for n in range(5)]
        for x in ("de", "en")
    }
    shard, rejects = make_shard(shuffled(one_bucket(corpus(tmp_path / "c", made))), tmp_path / "store", tokenization)
    assert rejects == []
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


def test_what_a_task_tells_of_its_shard_is_read_back(tmp_path, tokenization):
    rows = one_bucket(corpus(tmp_path / "c", {"de": [record(0, "de"), record(0, "de")], "en": [record(1, "en")]}))
    told = make_shard(rows, tmp_path / "store", tokenization)
    assert told[1]
    assert shard_from_json(shard_to_json(*told)) == told


def test_texts_of_a_tokenizer_are_the_same_for_rows_in_any_order(tmp_path):
    rows = read(corpus(tmp_path / "c", {x: [record(n, x) for n in range(20)] for x in ("de", "en")}))
    texts = tokenizer_texts(rows, ("Q: ", "P: "))
    assert texts == tokenizer_texts(shuffled(rows), ("Q: ", "P: "))
    assert len(texts) == 2 * 40
    assert all(text.startswith("Q: " if n % 2 == 0 else "P: ") for n, text in enumerate(texts))


# Zero-shot


@pytest.mark.parametrize(
    "evaluation_text",
    [tiny_corpus.question("en", 3), tiny_corpus.passage("de", 3), "DE: it is the number 3 so, so, so!"],
    ids=["its question", "its passage", "its passage written otherwise"],
)
def test_an_item_that_occurs_in_evaluation_in_one_language_is_dropped_in_all(tmp_path, tokenization, evaluation_text):
    parts = corpus(tmp_path / "c", {x: [record(n, x) for n in range(10)] for x in tiny_corpus.LANGUAGES})
    rows = read(parts, DecontaminationIndex([evaluation_text, "quite another text that no row holds"], 1.0))
    occurring = rows.filter(pc.is_valid(rows.column("occurs_in_evaluation"))).to_pylist()
    assert len(occurring) == 1
    assert occurring[0]["occurs_in_evaluation"] == f"equal: {evaluation_text}"
    left_out = {(row["source"], row["item_id"]) for row in occurring}
    placed = assign_shards(rows, left_out, {"c": 1}, 0.0)
    shard, _ = make_shard(placed, tmp_path / "store", tokenization)
    write_manifest(tmp_path / "store", [shard], text_fingerprint="text", token_type=tokenization.token_type)
    kept = TokenStore.open(tmp_path / "store").item_ids("c", np.arange(9))
    assert kept == [f"item-{n:03d}" for n in range(10) if n != 3]
    assert placed.num_rows == 9 * 3


def test_a_near_duplicate_of_an_evaluation_text_is_dropped_at_its_threshold(tmp_path):
    letters = "abcdefghijklmnopqrstuvwxyz"  # 22 shingles of 5 letters; with one letter more, 22 of 23 are shared
    parts = corpus(tmp_path / "c", {"en": [record(0, "en", context=letters + "0"), record(1, "en")]})
    for threshold, found in ((0.9, ["item-000"]), (0.96, [])):
        rows = read(parts, DecontaminationIndex([letters], threshold))
        assert [r["item_id"] for r in rows.to_pylist() if r["occurs_in_evaluation"]] == found


def test_a_negative_that_occurs_in_evaluation_goes_alone(tmp_path):
    parts = corpus(tmp_path / "c", {"en": [record(0, "en", negatives=["the first one", "the second one"])]})
    [row] = read(parts, DecontaminationIndex(["The second one."], 1.0)).to_pylist()
    assert row["negatives"] == ["the first one"]
    assert row["occurs_in_evaluation"] is None


def test_training_must_not_have_seen_what_the_run_is_measured_on():
    config = load_config(
        None,
        ["evaluate.benchmarks.xquad-r=a", "evaluate.benchmarks.embedded=null", "prepare.evaluation_sets.squad=b"],
    )
    assert sorted(zero_shot_sets(config)) == [("squad", "b"), ("xquad-r", "a")]


# Which store


def test_a_stores_name_changes_with_what_makes_it_and_with_nothing_else(tmp_path):
    parts = corpus(tmp_path / "c", {"de": [record(0, "de")], "en": [record(0, "en")]})
    benchmark = Benchmark("b", [], [Passage("1", "en", "one")], {})
    name = store_fingerprint(RunConfig(), parts, [benchmark], "tokenizer")

    def named(*overrides: str) -> str:
        return store_fingerprint(load_config(None, overrides), parts, [benchmark], "tokenizer")

    assert named() == name
    assert named("alpha=0.1", "seed=7", "name=x", "steps=3", "run_depth=3") == name
    other = Benchmark("b", [], [Passage("1", "en", "two")], {})
    changed = [
        named("items_per_shard=5"),
        named("query_prefix=q"),
        named("corpora=[{format: jsonl, path: x}]"),
        store_fingerprint(RunConfig(), parts[:1], [benchmark], "tokenizer"),
        store_fingerprint(RunConfig(), parts, [other], "tokenizer"),
        store_fingerprint(RunConfig(), parts, [benchmark], "another"),
    ]
    os.utime(tmp_path / "c/de.jsonl", ns=(0, 0))
    changed.append(store_fingerprint(RunConfig(), parts, [benchmark], "tokenizer"))
    assert len({name, *changed}) == 8
