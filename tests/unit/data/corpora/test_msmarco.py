"""MS MARCO: pairs of ids joined with a collection and queries in each language."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.data.corpora import list_shards, msmarco
from hbt_ray.data.corpora.msmarco import looks_like_msmarco
from hbt_ray.data.store_inputs import contents_of
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.errors import CorpusError
from tests.helpers.corpus_files import corpus, read


def write_mmarco(folder: Path, *triples: str) -> None:
    """Write the layout of mMARCO in English and German: queries 1 and 2, passages 10 to 12."""
    for part in ("collection", "queries"):
        (folder / part).mkdir()
    for language, code in (("english", "en"), ("german", "de")):
        (folder / f"collection/{language}_collection.tsv").write_text(
            "".join(f"{n}\t{code} p{n}\n" for n in (10, 11, 12))
        )
        for split in ("train", "dev"):
            text = "".join(f"{n}\t{code} q{n}\n" for n in (1, 2))
            (folder / f"queries/{language}_queries.{split}.tsv").write_text(text)
    (folder / "triples.train.ids.small.tsv").write_text("".join(f"{line}\n" for line in triples))


def test_triples_are_joined_in_every_language(tmp_path: Path):
    write_mmarco(tmp_path, "1\t10\t11", "2\t11\t10", "1\t10\t12", "1\t10\t11")
    rows = [row for row in read(corpus("msmarco", tmp_path)) if isinstance(row, CorpusRow)]
    assert [(row.language, row.item_id, row.question, row.passage, row.negatives) for row in rows] == [
        ("de", "1-10", "de q1", "de p10", ("de p11", "de p12")),
        ("de", "2-11", "de q2", "de p11", ("de p10",)),
        ("en", "1-10", "en q1", "en p10", ("en p11", "en p12")),
        ("en", "2-11", "en q2", "en p11", ("en p10",)),
    ]


def test_more_negatives_than_the_setting_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_mmarco(tmp_path, "1\t10\t11", "1\t10\t12")
    [row] = read(corpus("msmarco", tmp_path, languages=["en"], max_negatives=1))
    assert isinstance(row, CorpusRow)
    assert row.negatives == ("en p11",)
    assert "the first 1 hard negatives are read, and 1 lines of triples.train.ids.small.tsv are not" in caplog.text


def test_judgements_of_one_language_make_pairs_without_negatives(tmp_path: Path):
    (tmp_path / "collection.tsv").write_text("10\tThere.\n11\tHere.\n")
    (tmp_path / "queries.train.tsv").write_text("1\tWhere?\n")
    (tmp_path / "qrels.train.tsv").write_text("1\t0\t10\t1\n1 0 11 0\n")
    with pytest.raises(CorpusError, match=r"name of collection\.tsv has no language; write language: en"):
        list_shards(corpus("msmarco", tmp_path))
    [row] = read(corpus("msmarco", tmp_path, language="en"))
    assert isinstance(row, CorpusRow)
    assert (row.item_id, row.question, row.passage, row.negatives) == ("1-10", "Where?", "There.", ())


def write_judgements(folder: Path, *lines: str) -> list[CorpusRow | RejectedRow]:
    """Write English judgements of queries 1 and 2 and passages 10 to 12, and return what is read."""
    write_mmarco(folder)
    (folder / "triples.train.ids.small.tsv").unlink()
    (folder / "qrels.train.tsv").write_text("".join(f"{line}\n" for line in lines))
    return read(corpus("msmarco", folder, languages=["en"]))


def test_pair_with_a_grade_above_zero_is_positive(tmp_path: Path):
    rows = write_judgements(tmp_path, "1 0 10 0.0", "1 0 11 -2", "1 0 12 0.5", "2 0 10 2", "2 0 11 good")
    assert [row.item_id for row in rows if isinstance(row, CorpusRow)] == ["1-12", "2-10"]
    assert [row.location for row in rows if isinstance(row, RejectedRow)] == ["qrels.train.tsv:5"]


def test_judgement_of_three_columns_is_no_triple(tmp_path: Path):
    rows = write_judgements(tmp_path, "1 10 1", "1 11 0")
    assert [row.reason for row in rows if isinstance(row, RejectedRow)] == ["neither triple nor judgement"] * 2
    assert len(rows) == 2


def test_ids_without_text_and_broken_lines_are_rejected(tmp_path: Path):
    write_mmarco(tmp_path, "1\t10\t11", "3\t10\t11", "2\t99\t10", "2\t10\t99", "only two")
    rows = read(corpus("msmarco", tmp_path, languages=["en"]))
    assert [row.reason for row in rows if isinstance(row, RejectedRow)] == [
        "neither triple nor judgement", "missing question", "missing passage", "missing passage"
    ]  # fmt: skip
    assert sum(isinstance(row, CorpusRow) for row in rows) == 1


def test_parts_of_a_large_file_of_pairs_add_up_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_mmarco(tmp_path, "1\t10\t11", "2\t11\t10")
    config = corpus("msmarco", tmp_path)
    whole = read(config)
    monkeypatch.setattr(msmarco, "_BYTES_PER_SHARD", 4)
    assert len(list_shards(config)) > 2
    assert sorted(row.location + str(row) for row in read(config)) == sorted(row.location + str(row) for row in whole)


def test_broken_line_is_rejected_once_in_any_number_of_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_mmarco(tmp_path, "1\t10\t11", *(f"query{n} two" for n in range(9)))
    config = corpus("msmarco", tmp_path, languages=["en"])
    for bytes_per_shard, parts in ((1000, 1), (40, 3)):  # 8 bytes and 9 lines of 11
        monkeypatch.setattr(msmarco, "_BYTES_PER_SHARD", bytes_per_shard)
        assert len(list_shards(config)) == parts
        rejects = [row for row in read(config) if isinstance(row, RejectedRow)]
        assert [row.location for row in rejects] == [f"triples.train.ids.small.tsv:{n}" for n in range(2, 11)]


def test_every_file_that_is_read_determines_the_store(tmp_path: Path):
    write_mmarco(tmp_path, "1\t10\t11")
    shards = list_shards(corpus("msmarco", tmp_path))
    before = contents_of(shards)
    for file in ("triples.train.ids.small.tsv", "collection/german_collection.tsv", "queries/german_queries.train.tsv"):
        path = tmp_path / file
        text = path.read_text()
        path.write_text(text + "\n")
        assert contents_of(shards) != before
        path.write_text(text)


def test_collection_and_queries_are_recognized_by_their_names():
    assert looks_like_msmarco(["english_collection.tsv", "english_queries.train.tsv"])
    assert looks_like_msmarco(["collection.tsv.gz", "queries.train.tsv"])
    assert not looks_like_msmarco(["en.tsv", "queries.tsv"])
