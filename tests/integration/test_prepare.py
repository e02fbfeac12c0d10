import json
import warnings

import numpy as np
import pytest

from hbt_ray.cluster.prepare import REJECTS, prepare, verify_store
from hbt_ray.data.manifest import read_manifest
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import CorpusError, StoreError
from tests.integration.conftest import tiny_config


def store_bytes(store):
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in sorted(store.rglob("*.arrow"))}


def test_store_does_not_depend_on_the_number_of_tasks(cluster, corpus, tmp_path):
    config = tiny_config(corpus, prepare={"items_per_shard": 40})
    one = prepare(config.prepare_inputs, tmp_path / "one", blocks=1)
    seven = prepare(config.prepare_inputs, tmp_path / "seven", blocks=7)
    assert len(store_bytes(one)) >= 3
    assert store_bytes(one) == store_bytes(seven)
    assert (one / "manifest.json").read_bytes() == (seven / "manifest.json").read_bytes()
    TokenStore.open(one).verify()


def test_items_with_a_common_text_are_stored_in_one_split_for_any_number_of_tasks(
    cluster, corpus, tmp_path, monkeypatch
):
    # Ten items in a row have the German passage of the first.
    file = corpus / "de.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [row | {"context": rows[n // 10 * 10]["context"]} for n, row in enumerate(rows)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tiny_config(corpus, prepare={"items_per_shard": 40, "validation_share": 0.3})
    one = prepare(config.prepare_inputs, tmp_path / "one", blocks=1)
    monkeypatch.setattr("hbt_ray.cluster.prepare.KEYS_PER_BUCKET", 200)
    many = prepare(config.prepare_inputs, tmp_path / "many", blocks=7)
    assert store_bytes(one) == store_bytes(many)
    store = TokenStore.open(one)
    splits = {}
    for split in ("train", "validation"):
        numbers = np.arange(store.manifest.sources["numbers"].items(split))
        ids = [int(item_id.removeprefix("item-")) for item_id in store.item_ids("numbers", numbers, split)]
        splits[split] = {n // 10 for n in ids}
        components = store.components("numbers", numbers, split).tolist()
        assert (
            len(set(zip(components, (n // 10 for n in ids), strict=True))) == len(splits[split]) == len(set(components))
        )
    assert splits["train"]
    assert splits["validation"]
    assert not splits["train"] & splits["validation"]


def test_every_item_is_stored_in_the_languages_that_it_has(cluster, corpus, tmp_path):
    manifest = read_manifest(
        prepare(tiny_config(corpus, prepare={"validation_share": 0.1}).prepare_inputs, tmp_path / "stores")
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


def test_items_of_an_evaluation_set_are_dropped_and_counted(cluster, corpus, tmp_path):
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
    manifest = read_manifest(prepare(config.prepare_inputs, tmp_path / "stores"))
    dropped = manifest.counts["numbers"]["items_dropped_for_evaluation"]
    assert [entry["item"] for entry in dropped] == ["item-7", "item-8"]
    source = manifest.sources["numbers"]
    assert source.items("train") + source.items("validation") == 118


def test_duplicate_items_are_dropped_and_the_first_is_kept(cluster, corpus, tmp_path):
    for language in ("de", "en"):
        file = corpus / f"{language}.jsonl"
        copy = json.loads(file.read_text().splitlines()[3])
        file.write_text(file.read_text() + json.dumps({**copy, "id": "item-3-again"}) + "\n")
    manifest = read_manifest(prepare(tiny_config(corpus).prepare_inputs, tmp_path / "stores"))
    assert manifest.counts["numbers"]["items_dropped_as_repeated"] == ["item-3-again"]


def test_few_rejected_rows_are_listed(cluster, corpus, tmp_path):
    file = corpus / "de.jsonl"
    file.write_text(file.read_text() + "{broken\n" + json.dumps({"id": "x", "question": "", "context": "y"}) + "\n")
    store = prepare(tiny_config(corpus).prepare_inputs, tmp_path / "stores")
    rejects = [json.loads(line) for line in (store / REJECTS).read_text().splitlines()]
    assert [reject["place"].rpartition(":")[2] for reject in rejects] == ["121", "122"]
    assert read_manifest(store).counts["numbers"]["rows_rejected"] == {reject["reason"]: 1 for reject in rejects}


def test_too_many_rejected_rows_are_refused_with_the_reason(cluster, corpus, tmp_path):
    file = corpus / "de.jsonl"
    file.write_text(file.read_text() + "{broken\n" * 30)
    with pytest.raises(CorpusError, match=r"30 of 366 rows of corpus 'numbers' .* 'broken JSON' \(30\)"):
        prepare(tiny_config(corpus).prepare_inputs, tmp_path / "stores")
    [left] = (tmp_path / "stores").iterdir()
    assert (left.name[-8:], [path.name for path in left.iterdir()]) == (".partial", [REJECTS])


def test_store_is_made_once_and_reused(cluster, corpus, tmp_path):
    config = tiny_config(corpus)
    store = prepare(config.prepare_inputs, tmp_path / "stores")
    made = (store / "manifest.json").stat().st_mtime_ns
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepare(config.prepare_inputs, tmp_path / "stores") == store
    assert (store / "manifest.json").stat().st_mtime_ns == made


@pytest.mark.parametrize("damage", ["shard", "missing shard", "manifest", "torn manifest", "tokenizer"])
def test_damaged_store_is_named_and_made_again(cluster, corpus, tmp_path, damage):
    config = tiny_config(corpus)
    store = prepare(config.prepare_inputs, tmp_path / "stores")
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
    assert prepare(config.prepare_inputs, tmp_path / "stores", verify=True) == store
    assert store_bytes(store) == whole
    assert verify_store(config.prepare_inputs, tmp_path / "stores") == store
    assert [path.name for path in (tmp_path / "stores").iterdir()] == [store.name]


def test_shard_found_damaged_by_a_reader_is_made_again_without_verify(cluster, corpus, tmp_path):
    config = tiny_config(corpus)
    store = prepare(config.prepare_inputs, tmp_path / "stores")
    whole = store_bytes(store)
    shard = next(store.rglob("train-*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-64] + bytes(64))
    with pytest.raises(StoreError, match=r"is damaged: .* the same command, or `hbt prepare`, makes a new one"):
        TokenStore.open(store).item_ids("numbers", np.array([0]))
    assert prepare(config.prepare_inputs, tmp_path / "stores") == store
    assert store_bytes(store) == whole
