"""Inspecting a corpus: its text is the configuration with which the corpus can be prepared and trained on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from rich.cells import cell_len

from hbt_ray.config import RunConfig, load_config
from hbt_ray.data import inspection
from hbt_ray.data.corpora import list_shards
from hbt_ray.data.inspection import CorpusSample, describe_sample, sample_corpus
from hbt_ray.data.manifest import StoreManifest, write_manifest
from hbt_ray.data.prepare import assign_shards, count_items, count_shards, describe_store, make_shard, tokenizer_texts
from hbt_ray.data.row_tables import check_languages, check_rejects, count_rows, count_rows_read, read_rows, rejects_of
from hbt_ray.data.tokenizer import PairTokenizer, train_tokenizer
from hbt_ray.errors import CorpusError
from hbt_ray.sampling.factory import training_sampler
from tests.helpers.corpus_files import write_lines
from tests.helpers.own_data import FOLDERS, ITEMS, pair


def prepare_in_this_process(config: RunConfig, store: Path) -> StoreManifest:
    """Make the store of a small corpus with the functions that `hbt prepare` maps over a cluster."""
    shards = [shard for corpus in config.corpora for shard in list_shards(corpus)]
    rows = pa.concat_tables(read_rows(shards, None))
    counts = count_rows(rows)
    rejects = rejects_of(rows)
    check_rejects(count_rows_read(counts), rejects, config.prepare.max_reject_share, store)
    check_languages(config.corpora, counts)
    share = config.prepare.validation_share
    assigned = assign_shards(
        rows, np.empty(0, np.uint64), count_shards(counts, 1000), share, num_items=count_items(counts)
    )
    texts = tokenizer_texts(rows, (config.text.query_prefix, config.text.passage_prefix))
    tokenization = PairTokenizer(train_tokenizer(texts, 400), config.text)
    results = []
    for bucket in sorted(set(assigned.column("bucket").to_pylist())):
        results.append(
            make_shard(assigned.filter(pa.compute.equal(assigned.column("bucket"), bucket)), store, tokenization)
        )
    no_counts = {"rows_rejected": {}, "items_dropped_for_evaluation": [], "items_dropped_as_repeated": []}
    return write_manifest(
        store,
        [result.shard for result in results],
        text_fingerprint=tokenization.fingerprint(),
        token_type=tokenization.token_type,
        counts={corpus.name: no_counts for corpus in config.corpora},  # type: ignore[misc]
    )


def sample_of(name: str, tmp_path: Path) -> CorpusSample:
    """Write one of FOLDERS, and return what is found in it."""
    folder = tmp_path / name
    folder.mkdir()
    FOLDERS[name](folder)
    return sample_corpus(str(folder))


@pytest.mark.parametrize("name", FOLDERS)
def test_inspected_configuration_prepares_a_store_to_train_on(name: str, tmp_path: Path):
    sample = sample_of(name, tmp_path)
    file = tmp_path / "run.yaml"
    file.write_text(describe_sample(sample, next_command="hbt prepare"), encoding="utf-8")
    config = load_config(file)
    (tmp_path / "store").mkdir()
    manifest = prepare_in_this_process(config, tmp_path / "store")
    assert manifest.languages == ("de", "en")
    assert (
        sum(manifest.sources[source].items(split) for source in manifest.sources for split in ("train", "validation"))
        == ITEMS
    )
    assert f"{ITEMS} of {ITEMS} items in two or more languages" in describe_store(tmp_path, manifest)
    assert len(training_sampler(config, manifest).batch(0).rows) == config.train.global_batch_pairs
    assert (sample.parallel_items, sample.is_whole, list(sample.rejects)) == (ITEMS, True, [])


@pytest.mark.parametrize("name", FOLDERS)
def test_every_item_of_every_format_has_its_texts(name: str, tmp_path: Path):
    sample = sample_of(name, tmp_path)
    sides = (1, 1) if sample.corpus.format in ("bitext", "tmx") else (0, 1)
    texts = {
        language: sorted((row[language].question, row[language].passage) for row in sample.items.values())
        for language in ("de", "en")
    }
    expected = {x: sorted(tuple(pair(x, n)[side] for side in sides) for n in range(ITEMS)) for x in ("de", "en")}
    assert texts == expected
    assert all(row["de"].question in {pair("de", n)[0] for n in range(ITEMS) if pair("en", n)[0] == row["en"].question}
               for row in sample.items.values() if sides[0] == 0)  # fmt: skip


def write_faq(folder: Path, **ids: list[str]) -> Path:
    folder.mkdir()
    for language, of_language in ids.items():
        write_lines(
            folder / f"{language}.jsonl",
            *({"id": one, "question": f"{language} {one}?", "context": f"{one}."} for one in of_language),
        )
    return folder


def text_of(path: Path, *overrides: str) -> str:
    return describe_sample(sample_corpus(str(path), overrides), next_command="hbt prepare --config faq.yaml")


def test_items_without_translations_are_counted_with_a_question(tmp_path: Path):
    text = text_of(write_faq(tmp_path / "faq", de=["a", "b"], en=["1", "2"]))
    assert "# items in two or more languages: 0 of 4 - do ids agree between files?" in text
    assert yaml.safe_load(text)["mix"] == {"strategy": "x-x-mono"}
    one = text_of(write_faq(tmp_path / "one", de=["a", "b"]))
    assert "items in two or more languages: 0 of 2\n" in one


def test_negatives_that_every_row_has_are_used(tmp_path: Path):
    record = {"id": "a", "anchor": "Wo?", "positive": "Dort.", "negative": "Hier."}
    write_lines(tmp_path / "de.jsonl", record, {**record, "id": "b"})
    assert yaml.safe_load(text_of(tmp_path))["mix"] == {"strategy": "x-x-mono", "hard_negatives": 1}
    write_lines(tmp_path / "de.jsonl", record, {**record, "id": "b", "negative": ""})
    assert yaml.safe_load(text_of(tmp_path))["mix"] == {"strategy": "x-x-mono"}


def test_text_ends_with_the_next_command(tmp_path: Path):
    text = text_of(write_faq(tmp_path / "faq", de=["a"], en=["a"]))
    assert text.splitlines()[-1] == "# next: hbt prepare --config faq.yaml"


def test_too_few_items_for_a_batch_are_noted(tmp_path: Path):
    def note_of(name: str, **ids: list[str]) -> str:
        return text_of(write_faq(tmp_path / name, **ids)).partition("training takes two or more items ")[2]

    assert note_of("one", de=["a"]).startswith("of a language; add items")
    assert note_of("pair", de=["a", "b"], en=["a"]).startswith("in two or more languages; add")
    assert not note_of("two", de=["a", "b"]) + note_of("both", de=["a", "b"], en=["a", "b"])


def test_lines_of_any_script_fit_in_80_cells(tmp_path: Path):
    folder = tmp_path / "faq"
    folder.mkdir()
    long = {
        "zh": "锁" * 200,
        "ar": "أين المفتاح " * 30,
        "th": "กุญแจอยู่ที่ไหน" * 20,
        "en": "\x1b[31mred \u202e" + "x" * 300,
    }
    for language, text in long.items():
        write_lines(folder / f"{language}.jsonl", {"id": "1", "question": text, "context": text})
    comments = [line for line in text_of(folder).splitlines() if line.startswith("#")]
    assert max(map(cell_len, comments)) <= 80
    assert "\x1b" not in "".join(comments)
    assert "\u202e" not in "".join(comments)


def test_rejected_rows_are_counted_with_the_first_reason(tmp_path: Path):
    folder = write_faq(tmp_path / "faq", de=["a", "a"])
    with (folder / "de.jsonl").open("a") as file:
        file.write('\n{"id": "b"}\n')
    text = text_of(folder)
    assert "# rejected  " in text.replace("#   rejected", "# rejected")
    assert "1 id repeated in its language" in text
    assert "1 missing passage" in text


def test_only_the_first_rows_of_a_file_are_read_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inspection, "ROWS_PER_FILE", 3)
    folder = write_faq(tmp_path / "faq", de=list("abcdef"), en=list("abcdef"))
    sample = sample_corpus(str(folder))
    assert (sum(sample.rows.values()), sample.is_whole) == (6, False)
    text = text_of(folder)
    assert "6 among the first 3 of each file" in text
    assert "3 of 3 of the sample" in text
    assert "train" not in yaml.safe_load(text)


def test_large_file_is_not_read_to_its_end(tmp_path: Path):
    file = tmp_path / "en.jsonl"
    line = json.dumps({"id": "1", "question": "Where?", "context": "There." * 100}) + "\n"
    file.write_text(line * 3000)
    with file.open("ab") as opened:
        os.truncate(opened.fileno(), 1 << 34)  # 16 GiB that take no space
    assert not sample_corpus(str(file)).is_whole


def test_settings_are_given_as_overrides(tmp_path: Path):
    file = tmp_path / "faq.csv"
    file.write_text("Frage,Antwort\nWo ist er?,Der Schlüssel ist dort.\n")
    with pytest.raises(CorpusError, match=r"here by `hbt inspect \S*faq\.csv language=en`"):
        sample_corpus(str(file))
    settings = yaml.safe_load(text_of(file, "language=de"))
    assert settings["corpora"][0] | {"path": ""} == {
        "format": "csv",
        "name": "faq.csv",
        "path": "",
        "language": "de",
        "ids": "unique",
        "columns": {"question": "Frage", "passage": "Antwort"},
    }


def test_settings_serve_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_faq(tmp_path / "faq", de=["a"], en=["a"])
    monkeypatch.chdir(tmp_path)
    text = text_of(Path("faq"))
    assert text.startswith("# faq: JSON Lines")
    assert yaml.safe_load(text)["corpora"][0]["path"] == str(folder)


def test_overrides_that_change_no_reading_are_printed(tmp_path: Path):
    text = text_of(write_faq(tmp_path / "faq", de=["a"]), "licence=cc0-1.0", "max_negatives=3")
    entry = yaml.safe_load(text)["corpora"][0]
    assert (entry["licence"], entry["max_negatives"]) == ("cc0-1.0", 3)


def test_empty_corpus_is_an_error(tmp_path: Path):
    (tmp_path / "de.csv").write_text("id,question,context\n")
    with pytest.raises(CorpusError, match="has no row that can be used"):
        sample_corpus(str(tmp_path))
