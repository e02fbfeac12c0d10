from __future__ import annotations

import json
import pickle

import datasets
import numpy as np
import pytest

from hbt_ray.config import Columns, build_config
from hbt_ray.data.hybrid_dataset import HybridDataset, PairIndex
from hbt_ray.errors import CorpusError, StoreError
from tests.helpers import tiny_corpus

ROWS = [
    {"id": 1, "language": "en", "anchor": "q1 en", "positive": "p1 en", "negative_1": "n1", "negative_2": "n2"},
    {"id": 1, "language": "DE", "anchor": "q1 de", "positive": "p1 de", "negative_1": "n3", "negative_2": "n4"},
    {"id": 2, "language": "en", "anchor": "q2 en", "positive": "p2 en", "negative_1": "n5", "negative_2": None},
]


def test_pair_index_returns_the_question_of_one_row_and_the_passage_of_another():
    dataset = HybridDataset(ROWS)
    assert dataset[PairIndex(0, 1)] == {"anchor": "q1 en", "positive": "p1 de"}
    assert dataset[2] == {"anchor": "q2 en", "positive": "p2 en"}
    assert dataset.__getitems__([PairIndex(1, 0), 2]) == [
        {"anchor": "q1 de", "positive": "p1 en"},
        {"anchor": "q2 en", "positive": "p2 en"},
    ]
    assert len(dataset) == 3


def test_negatives_are_those_of_the_passage():
    dataset = HybridDataset(ROWS, hard_negatives=2)
    pair = {"anchor": "q1 en", "positive": "p1 de", "negative_1": "n3", "negative_2": "n4"}
    assert dataset[PairIndex(0, 1)] == pair
    assert [group.negatives for group in dataset.manifest.sources["data"].groups] == [2, 1]
    lists = [{**row, "negatives": ["a", "b", "c"]} for row in ROWS]
    assert HybridDataset(lists, hard_negatives=1)[0]["negative_1"] == "a"


def test_single_text_is_one_negative():
    rows = [{**row, "negatives": "Tomorrow"} for row in ROWS]
    assert HybridDataset(rows, hard_negatives=1)["negative_1"] == ["Tomorrow"] * 3


@pytest.mark.parametrize("value", [7, [7], [["n"]], {"text": "n"}])
def test_negatives_that_are_no_texts_are_refused(value):
    with pytest.raises(CorpusError, match=r"column 'negatives' has a (int|list|dict), not a text or a list of texts"):
        HybridDataset([{**row, "negatives": value} for row in ROWS])


def test_only_numbered_columns_are_negatives():
    rows = [{**row, "negative_id": "7", "negative": "n0"} for row in ROWS]
    columns = [HybridDataset(rows, hard_negatives=3)[f"negative_{number}"][0] for number in (1, 2, 3)]
    assert sorted(columns) == ["n0", "n1", "n2"]


def test_unused_negatives_are_reported(caplog):
    HybridDataset(ROWS)
    assert "hard_negatives=1" in caplog.text


def test_rows_may_be_a_data_set_or_one_for_each_language():
    whole = datasets.Dataset.from_list(ROWS)
    english, german = whole.select([0, 2]).remove_columns("language"), whole.select([1]).remove_columns("language")
    by_language = HybridDataset(datasets.DatasetDict({"en": english, "de": german}))
    for dataset, shown in ((HybridDataset(whole), "p1 de"), (by_language, "p1 de")):
        [row] = dataset.rows_of("data", np.array([0]), np.array(["de"]))
        assert dataset[int(row)]["positive"] == shown
        assert dataset.manifest == HybridDataset(ROWS).manifest


def test_pair_index_moves_and_is_pickled_with_both_rows():
    moved = pickle.loads(pickle.dumps(10 + PairIndex(3, 5) + 2)) - 1
    assert (int(moved), moved.passage_row) == (14, 16)


def test_repeated_items_are_reported_and_the_first_is_drawn(caplog):
    dataset = HybridDataset([*ROWS, {**ROWS[0], "positive": "later"}])
    assert "1 rows repeat" in caplog.text
    assert dataset.rows_of("data", np.array([0, 1]), np.array(["en", "en"])).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": 1, "anchor": "q", "positive": "p"}], "no column 'language', only id, anchor, positive"),
        ([*ROWS, {**ROWS[0], "positive": " "}], "row 3 has no positive"),
        ([{**ROWS[0], "language": "english"}], "'english', which is no language code; write one such as de"),
        ({"train": ROWS}, "'train' is no language"),
        ({"fr": ROWS[:1]}, "'fr' has rows in another language"),
        ([{**ROWS[0], "positive": ["p"]}], "column 'positive' is of list<item: string> and not of text"),
        ([ROWS[0], {**ROWS[1], "positive": ["p"]}], "column 'positive' has values of several types"),
        ({"en": [ROWS[0]], "DE": [{**ROWS[1], "positive": ["p"]}]}, "have columns of different types .*positive"),
        ([{**ROWS[0], "source": "a"}, {**ROWS[1], "source": None}], "row 1 has no source"),
        ([{**ROWS[0], "id": {"n": 1}}], "column 'id' is of struct<n: int64> and not of text"),
    ],
)
def test_wrong_rows_are_named(rows, message):
    with pytest.raises(CorpusError, match=message):
        HybridDataset(rows)


@pytest.mark.parametrize("make", [list, datasets.Dataset.from_list])
def test_ids_are_the_same_as_numbers_and_as_text(make):
    english, german = {**ROWS[0], "language": "en"}, {**ROWS[1], "language": "de"}
    both = HybridDataset({"en": make([{**english, "id": 1}]), "de": make([{**german, "id": "1"}])})
    assert both.manifest.sources["data"].groups[0].languages == ("de", "en")
    mixed = HybridDataset([{**ROWS[0], "id": 1}, {**ROWS[0], "id": "b"}, {**ROWS[0], "id": 2.0}])
    assert mixed.manifest.sources["data"].items() == 3


def test_other_columns_can_be_named():
    rows = [{"key": "1", "lang": "en", "question": "q", "answer": "a"}]
    columns = Columns(id="key", language="lang", question="question", passage="answer")
    assert HybridDataset(rows, columns=columns)[0] == {"anchor": "q", "positive": "a"}


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "numbers").mkdir()
    rows = tiny_corpus.trainer_rows()
    for language in tiny_corpus.LANGUAGES:
        lines = [
            json.dumps({"id": row["id"], "question": row["anchor"], "context": row["positive"]})
            for row in rows
            if row["language"] == language
        ]
        (tmp_path / "numbers" / f"{language}.jsonl").write_text("\n".join(lines))
    tiny_corpus.make_store(tmp_path / "store")
    return tmp_path


def test_a_stores_items_have_the_texts_of_its_corpora(corpus):
    config = build_config({"corpora": [{"format": "jsonl", "path": str(corpus / "numbers")}]})
    dataset = HybridDataset.from_store(corpus / "store", config)
    [row] = dataset.rows_of("numbers", np.array([0]), np.array(["de"]))
    assert dataset[int(row)] == {"anchor": "de what is e4", "positive": "de it is the number 4 so so so so"}
    assert set(dataset.manifest.languages) == set(tiny_corpus.LANGUAGES)


def test_a_corpus_that_lacks_items_of_the_store_is_refused(corpus):
    file = corpus / "numbers/fr.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[1:]))
    config = build_config({"corpora": [{"format": "jsonl", "path": str(corpus / "numbers")}]})
    with pytest.raises(StoreError, match="item 'item-0058' of numbers in fr"):
        HybridDataset.from_store(corpus / "store", config)
