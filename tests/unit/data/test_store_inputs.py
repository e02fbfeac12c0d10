from __future__ import annotations

import os

import pytest

from hbt_ray.config import CorpusConfig, PrepareConfig, PretrainRunConfig, RunConfig, load_config
from hbt_ray.data.store_inputs import store_fingerprint
from hbt_ray.data.types import Benchmark, Passage
from tests.helpers.row_tables import record, write_corpus


def test_fingerprints_of_small_configurations_are_unchanged(monkeypatch):
    monkeypatch.setattr("hbt_ray.__version__", "0.1.0")
    corpora = (CorpusConfig(format="jsonl", name="c", path="c"),)
    prepare = PrepareConfig(evaluation_sets={"xquad-r": "x"})
    benchmark = Benchmark("b", [], [Passage("1", "en", "one")], {})
    training = RunConfig(corpora=corpora, prepare=prepare).prepare_inputs
    pretraining = PretrainRunConfig(corpora=corpora, prepare=prepare).prepare_inputs
    assert store_fingerprint(training, [], [benchmark], "tokenizer") == "2a854cfad264c86f"
    assert store_fingerprint(pretraining, [], [benchmark], "tokenizer") == "ae36e7db4517c844"
    assert training.evaluation_sets == pretraining.evaluation_sets == (("xquad-r", "x"),)


def test_evaluation_sets_are_those_of_both_sections_but_embedded():
    config = load_config(
        None,
        ["evaluate.benchmarks.xquad-r=a", "evaluate.benchmarks.embedded=null", "prepare.evaluation_sets.squad=b"],
    )
    assert sorted(config.prepare_inputs.evaluation_sets) == [("squad", "b"), ("xquad-r", "a")]


@pytest.mark.parametrize(("variable", "default"), [("HBT_MAX_LINE_BYTES", 1 << 26), ("HBT_MAX_GROWTH", 200)])
def test_fingerprint_changes_with_a_limit_that_rejects_rows(monkeypatch, variable, default):
    def name() -> str:
        return store_fingerprint(RunConfig().prepare_inputs, [], [], "tokenizer")

    before = name()
    monkeypatch.setenv(variable, str(default))
    assert name() == before
    monkeypatch.setenv(variable, "100")
    assert name() != before


def test_fingerprint_changes_with_each_input_and_nothing_else(tmp_path):
    shards = write_corpus(tmp_path / "c", {"de": [record(0, "de")], "en": [record(0, "en")]})
    benchmark = Benchmark("b", [], [Passage("1", "en", "one")], {})
    name = store_fingerprint(RunConfig().prepare_inputs, shards, [benchmark], "tokenizer")

    def named(*overrides: str) -> str:
        return store_fingerprint(load_config(None, overrides).prepare_inputs, shards, [benchmark], "tokenizer")

    assert named() == name
    assert named("alpha=0.1", "seed=7", "name=x", "steps=3", "run_depth=3") == name
    other = Benchmark("b", [], [Passage("1", "en", "two")], {})
    changed = [
        named("items_per_shard=5"),
        named("query_prefix=q"),
        named("corpora=[{format: jsonl, path: x}]"),
        store_fingerprint(RunConfig().prepare_inputs, shards[:1], [benchmark], "tokenizer"),
        store_fingerprint(RunConfig().prepare_inputs, shards, [other], "tokenizer"),
        store_fingerprint(RunConfig().prepare_inputs, shards, [benchmark], "another"),
    ]
    file = tmp_path / "c/de.jsonl"
    state, content = file.stat(), file.read_bytes()
    os.utime(file, ns=(0, 0))
    assert store_fingerprint(RunConfig().prepare_inputs, shards, [benchmark], "tokenizer") == name
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    changed.append(store_fingerprint(RunConfig().prepare_inputs, shards, [benchmark], "tokenizer"))
    assert len({name, *changed}) == 8
