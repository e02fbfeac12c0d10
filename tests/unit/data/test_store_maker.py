from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from hbt_ray.data.engine import ThisProcess
from hbt_ray.data.hybrid_dataset import HybridDataset
from hbt_ray.data.manifest import read_manifest
from hbt_ray.data.prepare import describe_store
from hbt_ray.data.row_tables import REJECTS
from hbt_ray.data.store_maker import list_source, make_store, prepare_here, verify_store
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import CorpusError, StoreError
from hbt_ray.utils.progress import active_stages
from tests.helpers.tiny_runs import store_bytes, tiny_config, write_corpus


@pytest.fixture
def corpus(tmp_path) -> Path:
    return write_corpus(tmp_path)


def test_every_item_is_stored_in_the_languages_that_it_has(corpus, tmp_path):
    manifest = read_manifest(
        prepare_here(tiny_config(corpus, prepare={"validation_share": 0.1}).prepare_inputs, tmp_path / "stores")
    )
    source = manifest.sources["numbers"]
    assert source.items("train") + source.items("validation") == 120
    with_french = sum(
        items
        for shards in source.shards.values()
        for shard in shards
        for group, items in shard.runs
        if "fr" in source.groups[group].languages
    )
    assert with_french == 96


def test_progress_says_what_is_done_to_how_many_rows(corpus, tmp_path):
    (folder := tmp_path / "store").mkdir()
    shown = []

    def on_stage(name: str, seconds: float) -> None:
        shown.append(active_stages()[0].detail)

    source = list_source(tiny_config(corpus).prepare_inputs, tmp_path / "stores")
    make_store(source, folder, ThisProcess(), on_stage)
    files, linking, tokenizer, writing = dict.fromkeys(shown)
    assert files == f"reading {len(source.shards)} files"
    assert re.fullmatch(r"finding repeated and linked items in \d+ rows", linking)
    assert re.fullmatch(r"training a tokenizer on \d+ rows", tokenizer)
    assert re.fullmatch(r"tokenizing \d+ rows and writing \d+ shards", writing)


def test_items_of_an_evaluation_set_are_dropped_and_counted(corpus, tmp_path):
    # The set asks item 7's German question and holds item 8's English passage, in other case and punctuation,
    # and a near-duplicate of nothing.
    folder = tmp_path / "squad"
    folder.mkdir()
    sentence = "EN it is the number 8: so so so!"
    paragraph = {
        "context": sentence,
        "sentence_breaks": [[0, len(sentence)]],
        "qas": [{"id": "q", "question": "De What is h7?", "answers": [{"text": "number", "answer_start": 13}]}],
    }
    (folder / "de.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    config = tiny_config(corpus, prepare={"evaluation_sets": {"squad": str(folder)}, "near_duplicate_threshold": 1.0})
    manifest = read_manifest(prepare_here(config.prepare_inputs, tmp_path / "stores"))
    dropped = manifest.counts["numbers"]["items_dropped_for_evaluation"]
    assert [entry["item"] for entry in dropped] == ["item-7", "item-8"]
    source = manifest.sources["numbers"]
    assert source.items("train") + source.items("validation") == 118


def test_duplicate_items_are_dropped_and_the_first_is_kept(corpus, tmp_path):
    for language in ("de", "en"):
        file = corpus / f"{language}.jsonl"
        copy = json.loads(file.read_text().splitlines()[3])
        file.write_text(file.read_text() + json.dumps({**copy, "id": "item-3-again"}) + "\n")
    manifest = read_manifest(prepare_here(tiny_config(corpus).prepare_inputs, tmp_path / "stores"))
    assert manifest.counts["numbers"]["items_dropped_as_repeated"] == ["item-3-again"]


def test_held_out_passages_are_no_negatives_and_counted(tmp_path):
    folder = tmp_path / "numbers"
    folder.mkdir()
    rows = {
        f"i{n}": {"question": f"what is {n}?", "context": f"it is {n}", "negatives": [f"it is {(n + 1) % 100}"]}
        for n in range(100)
    }
    (folder / "en.jsonl").write_text("".join(json.dumps({"id": name, **row}) + "\n" for name, row in rows.items()))
    config = tiny_config(folder, prepare={"validation_share": 0.2}, mix={"hard_negatives": 1, "strategy": "x-x"})
    prepared = prepare_here(config.prepare_inputs, tmp_path / "stores")
    store = TokenStore.open(prepared)
    source = store.manifest.sources["numbers"]
    trained, held_out = (
        store.item_ids("numbers", np.arange(source.items(split)), split) for split in ("train", "validation")
    )
    passages = {rows[name]["context"] for name in held_out}
    without = [name for name in trained if rows[name]["negatives"][0] in passages]
    assert without
    assert store.manifest.counts["numbers"]["negatives_dropped_as_held_out"] == len(without)
    assert f"left out {len(without)} hard negatives that are held-out passages" in describe_store(
        prepared, store.manifest
    )
    dataset = HybridDataset.from_store(prepared, config)
    used = dict(zip(dataset["anchor"], dataset["negative_1"], strict=True))
    assert [name for name in trained if used[rows[name]["question"]] is None] == without


def test_few_rejected_rows_are_listed(corpus, tmp_path):
    file = corpus / "de.jsonl"
    file.write_text(file.read_text() + "{broken\n" + json.dumps({"id": "x", "question": "", "context": "y"}) + "\n")
    store = prepare_here(tiny_config(corpus).prepare_inputs, tmp_path / "stores")
    rejects = [json.loads(line) for line in (store / REJECTS).read_text().splitlines()]
    assert [reject["place"].rpartition(":")[2] for reject in rejects] == ["121", "122"]
    assert read_manifest(store).counts["numbers"]["rows_rejected"] == {reject["reason"]: 1 for reject in rejects}


def test_too_many_rejected_rows_are_refused_with_the_reason(corpus, tmp_path):
    file = corpus / "de.jsonl"
    file.write_text(file.read_text() + "{broken\n" * 30)
    with pytest.raises(CorpusError, match=r"30 of 366 rows of corpus 'numbers' .* 'broken JSON' \(30\)"):
        prepare_here(tiny_config(corpus).prepare_inputs, tmp_path / "stores")
    [left] = (tmp_path / "stores").iterdir()
    assert (left.name[-8:], [path.name for path in left.iterdir()]) == (".partial", [REJECTS])


def test_store_is_made_once_and_reused(corpus, tmp_path):
    config = tiny_config(corpus)
    store = prepare_here(config.prepare_inputs, tmp_path / "stores")
    made = (store / "manifest.json").stat().st_mtime_ns
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepare_here(config.prepare_inputs, tmp_path / "stores") == store
    assert (store / "manifest.json").stat().st_mtime_ns == made


@pytest.mark.parametrize("damage", ["shard", "missing shard", "manifest", "torn manifest", "tokenizer"])
def test_damaged_store_is_named_and_made_again(corpus, tmp_path, damage):
    config = tiny_config(corpus)
    store = prepare_here(config.prepare_inputs, tmp_path / "stores")
    whole = store_bytes(store)
    shard = next(store.rglob("*.arrow"))
    match damage:
        case "shard":
            shard.write_bytes(shard.read_bytes()[:-64] + bytes(64))
        case "missing shard":
            shard.unlink()
        case "manifest":
            (store / "manifest.json").unlink()
        case "torn manifest":
            (store / "manifest.json").write_text((store / "manifest.json").read_text()[:99])
        case "tokenizer":
            (store / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(StoreError, match=str(store)):
        verify_store(config.prepare_inputs, tmp_path / "stores")
    assert prepare_here(config.prepare_inputs, tmp_path / "stores", verify=True) == store
    assert store_bytes(store) == whole
    assert verify_store(config.prepare_inputs, tmp_path / "stores") == store
    assert [path.name for path in (tmp_path / "stores").iterdir()] == [store.name]


def test_shard_found_damaged_by_a_reader_is_made_again_without_verify(corpus, tmp_path):
    config = tiny_config(corpus)
    store = prepare_here(config.prepare_inputs, tmp_path / "stores")
    whole = store_bytes(store)
    shard = next(store.rglob("train-*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-64] + bytes(64))
    with pytest.raises(StoreError, match=r"is damaged: .* the same command, or `hbt prepare`, makes a new one"):
        TokenStore.open(store).item_ids("numbers", np.array([0]))
    assert prepare_here(config.prepare_inputs, tmp_path / "stores") == store
    assert store_bytes(store) == whole
