"""Plain text: lines with equal numbers are translations."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hbt_ray.config import CorpusConfig, RunConfig
from hbt_ray.data.corpora import list_shards, read_shard
from hbt_ray.data.manifest import StoreManifest, write_manifest
from hbt_ray.data.prepare import assign_shards, make_shard, tokenizer_texts
from hbt_ray.data.row_tables import find_duplicate_items, read_rows
from hbt_ray.data.token_store import TokenStore
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.errors import ConfigError, CorpusError
from hbt_ray.sampling.factory import training_sampler
from tests.helpers import tiny_corpus


def corpus(path: Path, **settings) -> CorpusConfig:
    return CorpusConfig(format="text", path=str(path), name="lines", **settings)


def read(config: CorpusConfig) -> list[CorpusRow | RejectedRow]:
    return [row for shard in list_shards(config) for row in read_shard(shard)]


def line(item_id: str, language: str, text: str, location: str) -> CorpusRow:
    return CorpusRow("lines", item_id, language, None, text, location=location)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "deu.txt").write_bytes("\ufeffEins.\n\nDrei\u2028vier.\r\n".encode())
    (tmp_path / "eng.txt.gz").write_bytes(gzip.compress(b"One.\nTwo.\n  Three.  "))
    (tmp_path / "README.md").write_text("not a text")
    return tmp_path


def test_line_number_is_the_item_id_and_blank_lines_are_skipped(folder):
    assert read(corpus(folder)) == [
        line("1", "deu", "Eins.", "deu.txt:1"),
        line("3", "deu", "Drei\u2028vier.", "deu.txt:3"),
        line("1", "eng", "One.", "eng.txt.gz:1"),
        line("2", "eng", "Two.", "eng.txt.gz:2"),
        line("3", "eng", "Three.", "eng.txt.gz:3"),
    ]
    assert {row.language for row in read(corpus(folder, languages=["eng"]))} == {"eng"}
    assert len(read(corpus(folder / "deu.txt"))) == 2


def test_files_of_a_pair_share_items_and_pairs_do_not(tmp_path):
    for name, text in {"deu-eng.deu": "eins", "deu-eng.eng": "one", "fra-eng.fra": "un", "fra-eng.eng": "One"}.items():
        (tmp_path / f"set.{name}.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "SOURCE.md").write_text("not a text")
    assert read(corpus(tmp_path)) == [
        line("set.deu-eng:1", "deu", "eins", "set.deu-eng.deu.gz:1"),
        line("set.deu-eng:1", "eng", "one", "set.deu-eng.eng.gz:1"),
        line("set.fra-eng:1", "eng", "One", "set.fra-eng.eng.gz:1"),
        line("set.fra-eng:1", "fra", "un", "set.fra-eng.fra.gz:1"),
    ]
    assert [row.passage for row in read(corpus(tmp_path, languages=["fra", "deu"]))] == ["eins", "un"]
    with pytest.raises(CorpusError, match="has no spa; choose languages among deu, eng, fra"):
        read(corpus(tmp_path, languages=["spa"]))


def test_aligned_files_beside_a_text_file_are_read(tmp_path):
    for name in ("train.en", "train.de", "README.txt"):
        (tmp_path / name).write_text(f"{name}\n")
    assert [(row.item_id, row.language) for row in read(corpus(tmp_path))] == [("train:1", "de"), ("train:1", "en")]


def test_wrong_bytes_and_truncated_files_are_rejected(tmp_path):
    (tmp_path / "de.txt").write_bytes(b"gut\n\xff\nbesser\n")
    packed = gzip.compress(np.random.default_rng(0).bytes(4000).hex().encode())
    (tmp_path / "en.txt.gz").write_bytes(packed[: len(packed) // 2])
    found = [row for row in read(corpus(tmp_path)) if isinstance(row, RejectedRow)]
    assert [(bad.location, bad.reason) for bad in found] == [
        ("de.txt:2", "wrong encoding"),
        ("en.txt.gz:1", "unreadable file"),
    ]


def test_folder_without_text_files_is_refused_with_their_names(tmp_path):
    (tmp_path / "notes.md").touch()
    with pytest.raises(CorpusError, match=r"finds no <language>\.txt or <language>\.txt\.gz"):
        read(corpus(tmp_path))


def rows_of(config: CorpusConfig) -> pa.Table:
    return pa.concat_tables(read_rows(list_shards(config), None))


def test_lines_become_items_without_questions(folder, tmp_path):
    rows = assign_shards(rows_of(corpus(folder)), set(), {"lines": 1}, 0.0)
    tokenizer = tiny_corpus.tokenization()
    shard, rejects, _ = make_shard(rows, tmp_path / "store", tokenizer)
    assert not rejects
    write_manifest(tmp_path / "store", [shard], text_fingerprint="text", token_type=tokenizer.token_type)
    store = TokenStore.open(tmp_path / "store")
    assert sorted(store.item_ids("lines", np.arange(3))) == ["1", "2", "3"]
    first = store.item_ids("lines", np.arange(3)).index("1")
    for language, text in (("deu", "Eins."), ("eng", "One.")):
        assert (
            store.take("lines", "passage", language, np.array([first]))[0].tolist()
            == tokenizer.encode([text], "passage")[0].tolist()
        )
        assert store.take("lines", "question", language, np.array([first]))[1].tolist() == [0]
    assert shard.tokens["question/deu"] == (0,) * len(shard.runs)


def test_repeated_lines_are_kept_for_the_tokenizer(tmp_path):
    (tmp_path / "en.txt").write_text("Yes.\nYes.\nNo.\n")
    rows = rows_of(corpus(tmp_path))
    assert sorted(tokenizer_texts(rows, ("q: ", "p: "))) == ["p: No.", "p: Yes.", "p: Yes."]
    assert find_duplicate_items(rows).num_rows == 0


def test_training_on_plain_text_is_refused(folder):
    config = RunConfig(corpora=(corpus(folder),))
    with pytest.raises(ConfigError, match=r"'lines' is plain text and has no questions; pretrain on it"):
        training_sampler(config, StoreManifest("text", "uint16", {}))


def test_ntrex_and_tatoeba_are_read_as_published(shared_data):
    ntrex = corpus(shared_data / "ntrex", languages=["deu", "eng", "zho-CN"])
    found = read(ntrex)
    assert len(found) == 3 * 1997
    assert all(isinstance(row, CorpusRow) for row in found)
    tatoeba = read(corpus(shared_data / "tatoeba", languages=["deu", "eng"]))
    german = [row for row in tatoeba if row.language == "deu"]
    assert len(german) == 1000
    english = {row.item_id: row for row in tatoeba if row.language == "eng"}
    assert len(english) > 80_000
    assert all(row.item_id in english for row in german)
