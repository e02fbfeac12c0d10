from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora import list_shards
from hbt_ray.data.decontamination import DecontaminationIndex
from hbt_ray.data.row_tables import (
    ROWS,
    check_languages,
    check_rejects,
    count_rows,
    find_duplicate_items,
    read_rows,
    rejects_of,
    rejects_table,
    write_rejects,
)
from hbt_ray.data.text_files import UNREADABLE_FILE
from hbt_ray.data.types import RejectedRow
from hbt_ray.errors import CorpusError
from tests.helpers import tiny_corpus
from tests.helpers.row_tables import read_table, record, write_corpus


def table(*rows: tuple[str, str, int]) -> pa.Table:
    """Rows of (source, item, pair key) alone."""
    return pa.Table.from_pylist([{"source": s, "item_id": i, "pair_key": k} for s, i, k in rows], ROWS)


def repeated(rows: pa.Table) -> set[tuple[str, str]]:
    return {(row["source"], row["item_id"]) for row in find_duplicate_items(rows).to_pylist()}


def test_rows_are_normalized_or_rejected_with_reason_and_place(tmp_path):
    rows = read_table(
        write_corpus(
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


def test_tables_have_at_most_1024_rows_and_together_all(tmp_path):
    shards = write_corpus(tmp_path / "c", {x: [record(n, x) for n in range(700)] for x in ("de", "en", "fr")})
    tables = list(read_rows(shards, None))
    assert [one.num_rows for one in tables] == [1024, 1024, 52]
    assert len(set(pa.concat_tables(tables).column("place").to_pylist())) == 2100
    assert list(read_rows([], None)) == []


def test_pair_keys_are_equal_for_equal_normalized_pairs(tmp_path):
    same = {"question": "Where IS it?", "context": "“Here”"}
    rows = read_table(
        write_corpus(
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


def test_near_duplicate_of_an_evaluation_text_is_marked(tmp_path):
    letters = "abcdefghijklmnopqrstuvwxyz"  # 22 shingles of 5; with another last letter, 21 of 23 are shared
    shards = write_corpus(tmp_path / "c", {"en": [record(0, "en", context=letters[:-1] + "0"), record(1, "en")]})
    for threshold, found in ((0.9, ["item-000"]), (0.96, [])):
        rows = read_table(shards, DecontaminationIndex([letters], threshold))
        assert [r["item_id"] for r in rows.to_pylist() if r["occurs_in_evaluation"]] == found


def test_negative_that_occurs_in_evaluation_is_dropped_only(tmp_path):
    shards = write_corpus(tmp_path / "c", {"en": [record(0, "en", negatives=["the first one", "the second one"])]})
    [row] = read_table(shards, DecontaminationIndex(["The second one."], 1.0)).to_pylist()
    assert row["negatives"] == ["the first one"]
    assert row["occurs_in_evaluation"] is None


# Rejects


def bad_rows(source: str, **reasons: int) -> pa.Table:
    return rejects_table(
        RejectedRow(source, f"de.jsonl:{n}", reason) for reason, rows in reasons.items() for n in range(rows)
    )


@pytest.mark.parametrize(
    ("bad", "rows", "share"), [(2, 100, 0.02), (29, 100, 0.29), (7, 100, 0.07), (57, 100, 0.57), (0, 5, 0.0)]
)
def test_rejects_are_allowed_up_to_exactly_the_maximum_fraction(bad, rows, share):
    read = {"s": rows, "other": 1000}
    check_rejects(read, bad_rows("s", broken=bad), share, Path("rejects.jsonl"))
    with pytest.raises(CorpusError, match=rf"^{bad + 1} of {rows} rows of corpus 's' cannot be used"):
        check_rejects(read, bad_rows("s", broken=bad + 1), share, Path("rejects.jsonl"))


def test_questions_marked_as_unanswerable_are_no_faults():
    skipped = rejects_table([RejectedRow("s", "en.json", "marked as unanswerable")] * 5)
    check_rejects({"s": 10}, skipped, 0.0, Path("rejects.jsonl"))
    with pytest.raises(CorpusError, match=r"^1 of 10 .* 'broken' \(1\)"):
        check_rejects({"s": 10}, pa.concat_tables([skipped, bad_rows("s", broken=1)]), 0.0, Path("rejects.jsonl"))


def test_message_has_the_commonest_reason_and_the_file_of_rejects():
    rejects = bad_rows("s", broken=2, missing=3)
    with pytest.raises(CorpusError, match=r"^5 of 10 .* 'missing' \(3\); see out/rejects\.jsonl, mend them"):
        check_rejects({"s": 10}, rejects, 0.1, Path("out/rejects.jsonl"))


def test_truncated_file_is_refused_at_any_maximum_fraction(tmp_path):
    (tmp_path / "c").mkdir()
    whole = gzip.compress(b"".join(json.dumps(record(n, "de")).encode() + b"\n" for n in range(2000)))
    (tmp_path / "c/de.jsonl.gz").write_bytes(whole[:-100])
    rows = read_table(list_shards(CorpusConfig(format="jsonl", path=str(tmp_path / "c"))))
    assert rows.num_rows > 1000
    with pytest.raises(CorpusError, match=r"de\.jsonl\.gz:\d+ of corpus 'c' cannot be read .*; fetch it again"):
        check_rejects({"c": rows.num_rows}, rejects_of(rows), 1.0, tmp_path / "rejects.jsonl")


def test_first_of_several_unreadable_files_is_named_with_the_number_of_the_others():
    rejects = rejects_table([RejectedRow("s", f"{x}.json", UNREADABLE_FILE, "no JSON") for x in ("de", "en", "fr")])
    message = r"^de\.json of corpus 's' cannot be read .*; fetch it again or mend it; 2 more are in out/r\.jsonl$"
    with pytest.raises(CorpusError, match=message):
        check_rejects({"s": 3}, rejects, 1.0, Path("out/r.jsonl"))


@given(st.lists(st.tuples(*[st.sampled_from(["", "a", "é", "Z", "\U0001f600", "\uffee"])] * 4)))
def test_file_of_rejects_is_sorted_by_source_place_and_reason(rows):
    rejects = [RejectedRow(*row) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        write_rejects(Path(folder) / "rejects.jsonl", rejects_table(rejects))
        lines = [json.loads(line) for line in (Path(folder) / "rejects.jsonl").read_text("utf-8").splitlines()]
    assert lines == [RejectedRow(*row).record() for row in sorted(rows)]


def test_two_spellings_of_a_language_are_refused():
    configured = [CorpusConfig(format="jsonl", name=name, path="x") for name in ("s", "t")]
    counts = {("s", "aze-Latn", ""): 9, ("t", "aze_Latn", ""): 1}
    with pytest.raises(CorpusError, match="spell one language as 'aze-Latn' and 'aze_Latn'; write one"):
        check_languages(configured, counts)


def test_corpus_or_language_without_an_accepted_row_is_refused():
    counts = {("s", "de", ""): 9, ("s", "en", ""): 1, ("s", "", "broken JSON"): 3, ("t", "", "broken JSON"): 3}

    def configured(name: str, *languages: str) -> CorpusConfig:
        return CorpusConfig(format="jsonl", path=name, languages=languages or None)

    check_languages([configured("s"), configured("s", "de"), configured("s", "de", "en")], counts)
    with pytest.raises(CorpusError, match="corpus 's' has no row in 'fr'; it has de, en"):
        check_languages([configured("s", "de", "fr")], counts)
    with pytest.raises(CorpusError, match=r"corpus 't' has no row that can be used$"):
        check_languages([configured("t")], counts)
    check_languages([configured("s")], counts, ("de",))
    with pytest.raises(CorpusError, match="languages: 'fr' is not in the corpora; there are de, en"):
        check_languages([configured("s")], counts, ("de", "fr"))


# Duplicates


def test_first_of_duplicate_items_by_source_and_id_is_kept():
    rows = table(("b", "1", 7), ("a", "2", 7), ("a", "1", 7), ("a", "0", 8))
    assert repeated(rows) == {("a", "2"), ("b", "1")}


def test_item_with_an_equal_pair_in_one_language_is_a_duplicate():
    rows = table(("s", "1", 11), ("s", "1", 12), ("s", "2", 21), ("s", "2", 12))
    assert repeated(rows) == {("s", "2")}


def test_item_is_no_duplicate_of_itself():
    assert repeated(table(("s", "1", 7), ("s", "1", 7))) == set()


@given(
    rows=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("0123"), st.integers(0, 5)), max_size=20),
    buckets=st.integers(1, 3),
)
def test_duplicates_do_not_depend_on_order_or_buckets(rows, buckets):
    whole = repeated(table(*rows))
    assert repeated(table(*rows[::-1])) == whole
    shards = [[row for row in rows if row[2] % buckets == bucket] for bucket in range(buckets)]
    assert set().union(*(repeated(table(*part)) for part in shards)) == whole
    # Some pair key of a duplicate is that of an earlier item.
    for source, item in whole:
        assert any(
            other[2] == row[2] and other[:2] < (source, item)
            for row in rows
            for other in rows
            if row[:2] == (source, item)
        )
