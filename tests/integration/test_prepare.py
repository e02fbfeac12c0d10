import json

import numpy as np

from hbt_ray.cluster.prepare import prepare
from hbt_ray.data.store_maker import prepare_here
from hbt_ray.data.token_store import TokenStore
from tests.helpers.tiny_runs import store_bytes, tiny_config


def test_store_of_a_cluster_is_that_of_one_process_for_any_number_of_tasks(cluster, corpus, tmp_path, monkeypatch):
    config = tiny_config(corpus, prepare={"items_per_shard": 40})
    one = prepare_here(config.prepare_inputs, tmp_path / "one")
    monkeypatch.setattr("hbt_ray.data.corpora.PART_BYTES", 1000)  # each file is read by several tasks
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
    one = prepare_here(config.prepare_inputs, tmp_path / "one")
    monkeypatch.setattr("hbt_ray.data.left_out.KEYS_PER_BUCKET", 200)
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
