"""A corpus that is a Hugging Face data set, on disk or on the hub."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from hbt_ray.data.corpora import huggingface, list_shards, read_shard
from hbt_ray.data.corpora.detection import detect_corpus
from hbt_ray.data.types import CorpusRow
from hbt_ray.errors import CorpusError
from tests.helpers.corpus_files import corpus, only_reject, read, table


def saved(folder: Path, rows: int = 3) -> Path:
    content = datasets.Dataset(table((["de", "en", "fr"] * rows)[:rows], rows))
    datasets.DatasetDict({"train": content, "dev": content.select([0])}).save_to_disk(str(folder))
    return folder


def test_saved_data_set_is_read_by_split_and_language(tmp_path: Path):
    folder = saved(tmp_path / "set")
    rows = read(corpus("huggingface", folder, languages=["de", "en"]))
    assert rows == [
        CorpusRow("source", "i0", "de", "q0", "p0", ("n0",), "train:1"),
        CorpusRow("source", "i1", "en", "q1", "p1", ("n1",), "train:2"),
    ]
    assert len(read(corpus("huggingface", folder, split="dev"))) == 1
    assert len(read(corpus("huggingface", folder / "train"))) == 3  # a Dataset rather than a DatasetDict


def test_shards_of_a_large_data_set_add_up_to_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = saved(tmp_path / "set", rows=10)
    whole = read(corpus("huggingface", folder))
    monkeypatch.setattr(huggingface, "_ROWS_PER_SHARD", 4)
    shards = list_shards(corpus("huggingface", folder))
    assert [shard.options["rows"] for shard in shards] == [(0, 4), (4, 8), (8, 10)]
    assert [row for shard in shards for row in read_shard(shard)] == whole
    assert len(whole) == 10


def test_column_of_translations_is_read_as_bitext(tmp_path: Path):
    pairs = [{"en": "One", "de": " Eins "}, {"en": "Two", "de": None}, {"en": " ", "de": "Drei"}]
    content = datasets.Dataset.from_dict({"id": ["a", "b", "c"], "translation": pairs})
    content.save_to_disk(str(tmp_path / "set"))
    rows = read(corpus("huggingface", tmp_path / "set"))
    expected = [("1", "en", "One"), ("1", "de", "Eins"), ("2", "en", "Two"), ("3", "de", "Drei")]
    found = [row for row in rows if isinstance(row, CorpusRow)]
    assert sorted((row.item_id, row.language, row.question) for row in found) == sorted(expected)
    assert all(row.question == row.passage for row in found)
    assert len(found) == len(rows)
    only_german = read(corpus("huggingface", tmp_path / "set", languages=["de"]))
    assert [(row.item_id, row.language) for row in only_german if isinstance(row, CorpusRow)] == [
        ("1", "de"),
        ("3", "de"),
    ]
    detected = detect_corpus(str(tmp_path / "set"))
    assert [replace(row, source="source") for row in read(detected)] == rows


def test_column_of_translations_beside_questions_and_passages_is_not_read(tmp_path: Path):
    content = datasets.Dataset(table(["en"] * 3).append_column("translation", pa.array(["Frage"] * 3)))
    content.save_to_disk(str(tmp_path / "pairs"))
    rows = read(corpus("huggingface", tmp_path / "pairs"))
    assert [(row.question, row.passage) for row in rows if isinstance(row, CorpusRow)] == [
        ("q0", "p0"), ("q1", "p1"), ("q2", "p2")
    ]  # fmt: skip


def test_translation_that_is_no_text_is_rejected_with_its_row(tmp_path: Path):
    content = datasets.Dataset.from_dict({"translation": [{"en": [1], "de": [2]}]})
    content.save_to_disk(str(tmp_path / "numbers"))
    reject = only_reject(read(corpus("huggingface", tmp_path / "numbers")))
    assert (reject.reason, reject.location) == ("translation is no text for each language", "numbers:1")
    datasets.Dataset.from_dict({"translation": [{"source": "a", "en": "b"}]}).save_to_disk(str(tmp_path / "names"))
    rows = read(corpus("huggingface", tmp_path / "names"))
    assert sorted(type(row).__name__ for row in rows) == ["CorpusRow", "RejectedRow"]


def test_language_stored_as_a_class_has_the_name_of_the_class(tmp_path: Path):
    content = datasets.Dataset(table(["de", "en", "zh_TW"])).cast_column(
        "language", datasets.ClassLabel(names=["en", "zh_TW", "de"])
    )
    content.save_to_disk(str(tmp_path / "set"))
    rows = read(corpus("huggingface", tmp_path / "set"))
    assert [row.language for row in rows if isinstance(row, CorpusRow)] == ["de", "en", "zh-TW"]


def test_link_within_a_data_set_is_read(tmp_path: Path):
    folder = saved(tmp_path / "set")
    [data] = (folder / "train").glob("*.arrow")
    data.rename(folder / "shared.arrow")
    data.symlink_to("../shared.arrow")
    assert len(read(corpus("huggingface", folder))) == 3


def test_missing_split_or_language_column_is_named(tmp_path: Path):
    folder = saved(tmp_path / "set")
    with pytest.raises(CorpusError, match="no split 'test'; choose among train, dev"):
        list_shards(corpus("huggingface", folder, split="test"))
    with pytest.raises(
        CorpusError, match=r"no column 'lang', but has 'id', .*did you mean columns: \{language: language\}\?"
    ):
        list_shards(corpus("huggingface", folder, columns={"language": "lang"}))


def test_data_set_that_is_damaged_or_points_elsewhere_is_refused(tmp_path: Path):
    folder = saved(tmp_path / "set") / "train"
    [data] = folder.glob("*.arrow")
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"] = [{"filename": "../dev/" + data.name}]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(CorpusError, match="lies outside its folder"):
        list_shards(corpus("huggingface", folder))
    (folder / "state.json").write_text("{")
    with pytest.raises(CorpusError, match="is damaged"):
        list_shards(corpus("huggingface", folder))


def test_data_set_damaged_after_listing_is_one_reject(tmp_path: Path):
    folder = saved(tmp_path / "set") / "train"
    [shard] = list_shards(corpus("huggingface", folder))
    [data] = folder.glob("*.arrow")
    data.write_bytes(data.read_bytes()[:100])
    assert only_reject(list(read_shard(shard))).reason == "unreadable file"


def test_languages_are_read_as_subsets_if_there_are_any(monkeypatch: pytest.MonkeyPatch):
    subsets = {language: datasets.Dataset(table().append_column("of", pa.array([language] * 3))) for language in "ab"}
    subsets = {"de": subsets["a"], "en": subsets["b"]}
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda path: [*subsets])
    monkeypatch.setattr(datasets, "load_dataset", lambda path, subset, split: subsets[subset])
    config = corpus("huggingface", Path("somebody/set"), languages=["en", "de"])
    assert Counter(row.language for row in read(config) if isinstance(row, CorpusRow)) == {"de": 3, "en": 3}
    with pytest.raises(CorpusError, match="has no fr; choose languages among de, en"):
        list_shards(config.model_copy(update={"languages": ("de", "fr")}))


def test_failed_download_is_an_error_and_no_reject(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    [shard] = list_shards(corpus("huggingface", Path("somebody/set")))
    with pytest.raises(CorpusError, match=r"'somebody/set' cannot be loaded \(no route to host\)"):
        list(read_shard(shard))


def test_data_set_without_languages_or_ids_is_read_with_the_settings(tmp_path: Path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    (folder / "train.csv").write_text("anchor,positive,negative\nWhere?,There.,Here.\nWho?,Me.,You.\n")
    config = corpus("huggingface", folder, language="en")
    rows = [row for row in read(config) if isinstance(row, CorpusRow)]
    assert [(row.item_id, row.language, row.question, row.passage, row.negatives) for row in rows] == [
        ("pairs:1", "en", "Where?", "There.", ("Here.",)),
        ("pairs:2", "en", "Who?", "Me.", ("You.",)),
    ]
    assert [
        row.item_id
        for row in read(corpus("huggingface", folder, language="en", ids="rows"))
        if isinstance(row, CorpusRow)
    ] == ["1", "2"]
    with pytest.raises(CorpusError, match=r"no column of pairs names a language \(columns: 'anchor', 'positive', 'neg"):
        read(corpus("huggingface", folder))
    with pytest.raises(CorpusError, match="no column 'id', but has 'anchor'"):
        read(corpus("huggingface", folder, language="en", ids="column"))
