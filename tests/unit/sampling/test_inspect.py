"""`hbt plan`: the trace of a sampler equals the batches that ranks train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError
from hbt_ray.sampling.collate import build_batch
from hbt_ray.sampling.inspect import SamplerTrace, parse_steps, trace_tables, write_trace
from tests.helpers import fake_manifests, tiny_corpus


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TokenStore:
    folder: Path = tmp_path_factory.mktemp("order") / "store"
    tiny_corpus.make_store(folder)
    return TokenStore.open(folder)


def make_trace(
    store: TokenStore, num_ranks: int = 2, first: int = 0, last: int = 12, accumulated: int = 1, **mix
) -> SamplerTrace:
    return SamplerTrace(tiny_corpus.make_sampler(store, **mix), store, first, last, num_ranks, 2, accumulated)


def pairs(trace: SamplerTrace) -> pa.Table:
    return pa.concat_tables(trace.pair_tables())


def test_trace_has_each_ranks_pairs_in_their_order(store):
    for num_ranks in (1, 2, 3, 4):
        table = pairs(make_trace(store, num_ranks)).to_pandas()
        sampler = tiny_corpus.make_sampler(store)
        for (step, rank), rows in table.groupby(["step", "rank"]):
            spec = sampler.batch(step)
            batch = build_batch(spec, store, rank, num_ranks, 2)
            mine = slice(batch.first_pair, batch.first_pair + batch.num_pairs)
            assert rows.row.tolist() == spec.rows[mine].tolist()
            assert rows.item_id.tolist() == store.item_ids("numbers", spec.rows[mine])
            assert rows.query_language.tolist() == spec.query_languages[mine].tolist()
            assert rows.passage_language.tolist() == spec.passage_languages[mine].tolist()


def test_trace_has_a_row_for_each_positive(store):
    trace = make_trace(store, 3, last=4, strategy="one-to-k", positive_languages=3)
    table = pairs(trace).to_pandas()
    assert len(table) == 4 * 8 * 3
    for step, of_step in table.groupby("step"):
        spec = trace.sampler.batch(step)
        assert of_step.passage_language.tolist() == spec.passage_languages.tolist()
        assert of_step.row.tolist() == np.repeat(spec.rows, 3).tolist()
        assert of_step.query_language.tolist() == np.repeat(spec.query_languages, 3).tolist()
        assert of_step.item_id.tolist() == np.repeat(store.item_ids("numbers", spec.rows), 3).tolist()
        assert of_step["rank"].tolist() == [0] * 4 * 3 + [1] * 2 * 3 + [2] * 2 * 3  # whole chunks of two questions
    assert {entry.value for entry in trace.mix() if entry.attribute == "kind"} == {"one-to-k"}


def test_trace_has_the_language_of_each_translation(store):
    trace = make_trace(store, last=4, strategy="x-y", second_questions=True)
    planned = [language for step in range(4) for language in trace.sampler.batch(step).second_languages.tolist()]
    assert pairs(trace)["second_language"].to_pylist() == planned
    assert pairs(make_trace(store, last=4, strategy="x-y"))["second_language"].null_count == 4 * 8


def test_only_the_rank_depends_on_the_number_of_ranks(store):
    one = pairs(make_trace(store, 1)).drop_columns("rank")
    for num_ranks in (2, 3, 8, 100):
        assert pairs(make_trace(store, num_ranks)).drop_columns("rank").equals(one)


def test_trace_of_a_range_of_steps_is_part_of_the_whole(store):
    whole = pairs(make_trace(store, last=40))
    part = pairs(make_trace(store, first=25, last=40))
    assert part.equals(whole.filter(pa.compute.greater_equal(whole["step"], 25)))


def test_accumulated_batches_belong_to_one_step(store):
    table = pairs(make_trace(store, last=3, accumulated=4)).to_pandas()
    assert table.groupby("step").batch.unique().map(list).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_trace_without_shards_lacks_only_the_item_ids(store, tmp_path):
    (tmp_path / "manifest.json").write_bytes((store.folder / "manifest.json").read_bytes())
    without_shards = pairs(make_trace(TokenStore.open(tmp_path)))
    assert without_shards["item_id"].null_count == len(without_shards)
    assert without_shards.drop_columns("item_id").equals(pairs(make_trace(store)).drop_columns("item_id"))


def test_mix_is_that_of_the_batches_and_near_the_intended(store):
    trace = make_trace(store, last=2000, strategy="hybrid", alpha=0.3)
    shares = {(entry.attribute, entry.value): (entry.intended, entry.realised) for entry in trace.mix()}
    kinds = [trace.sampler.batch(step).kind for step in range(2000)]
    assert shares["kind", "monolingual"][1] == pytest.approx(kinds.count("monolingual") / 2000)
    assert shares["kind", "monolingual"][0] == pytest.approx(0.3)
    for of in ("kind", "source", "languages"):
        own_shares = np.array([both for (key, _), both in shares.items() if key == of])
        assert own_shares.sum(axis=0) == pytest.approx([1, 1])
        assert np.abs(own_shares[:, 0] - own_shares[:, 1]).max() < 0.05


def test_grid_of_language_pairs_has_those_with_a_hyphen(store):
    manifest, _ = fake_manifests.groups_manifest({"en", "zh-CN"})
    sampler = fake_manifests.make_sampler(store=manifest, strategy="x-y", cross_pairs="one")
    share = sampler.realised_mix(0, 50)["languages"]["en-zh-CN"]
    assert 0 < share < 1
    trace = SamplerTrace(sampler, store, 0, 50, 1, 2, 1)
    np.testing.assert_allclose(trace.language_pairs(), [[0, share], [1 - share, 0]])


@pytest.mark.parametrize("mix", [{"cross_pairs": "mixed"}, {"strategy": "one-to-k", "positive_languages": 3}])
def test_grid_of_language_pairs_counts_mixed_batches(store, mix):
    trace = make_trace(store, last=30, **{"strategy": "hybrid", "alpha": 0.3, **mix})
    drawn = pairs(trace).to_pandas().value_counts(["query_language", "passage_language"], normalize=True)
    languages = trace.sampler.languages
    expected = [[drawn.get((query, passage), 0) for passage in languages] for query in languages]
    np.testing.assert_allclose(trace.language_pairs(), expected)
    assert np.count_nonzero(expected) == 9


def test_epochs_count_how_often_items_are_drawn(store):
    trace = make_trace(store, last=100, strategy="x-x-mono")
    seen = pairs(trace).group_by("query_language").aggregate([("row", "count")]).to_pydict()
    drawn = dict(zip(seen["query_language"], seen["row_count"], strict=True))
    epochs = {entry.stream.rpartition(" ")[2]: (entry.num_items, entry.epochs) for entry in trace.epochs()}
    assert {f"{x}-{x}": drawn[x] / epochs[f"{x}-{x}"][0] for x in drawn} == pytest.approx(
        {name: times for name, (_, times) in epochs.items()}
    )


def test_write_trace_writes_the_pairs_and_a_figure(store, tmp_path):
    trace = make_trace(store, last=150)
    write_trace(trace, tmp_path)
    assert pq.read_table(tmp_path / "plan.parquet").equals(pairs(trace))
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert [len(table.rows) > 0 for table in trace_tables(trace)] == [True, True, True]


@pytest.mark.parametrize("text", ["5", "8:5", "-1:5", "a:b"])
def test_parse_steps_rejects_other_texts(text):
    with pytest.raises(ConfigError, match="write --steps FIRST:LAST"):
        parse_steps(text, 40)
