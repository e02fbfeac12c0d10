"""`hbt plan`: the order of training looked at without training, equal to what workers are fed."""

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
from tests.helpers import tiny_corpus


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TokenStore:
    folder: Path = tmp_path_factory.mktemp("order") / "store"
    tiny_corpus.make_store(folder)
    return TokenStore.open(folder)


def order(store: TokenStore, num_ranks: int = 2, first: int = 0, last: int = 12, each: int = 1, **mix) -> SamplerTrace:
    return SamplerTrace(tiny_corpus.make_plan(store, **mix), store, first, last, num_ranks, 2, each)


def pairs(of: SamplerTrace) -> pa.Table:
    return pa.concat_tables(of.pair_tables())


def test_a_rank_s_pairs_are_those_it_is_fed_in_their_order(store):
    for num_ranks in (1, 2, 3, 4):
        table = pairs(order(store, num_ranks)).to_pandas()
        plan = tiny_corpus.make_plan(store)
        for (step, rank), own in table.groupby(["step", "rank"]):
            spec = plan.batch(step)
            batch = build_batch(spec, store, rank, num_ranks, 2)
            mine = slice(batch.first_pair, batch.first_pair + batch.num_pairs)
            assert own.row.tolist() == spec.rows[mine].tolist()
            assert own.item_id.tolist() == store.item_ids("numbers", spec.rows[mine])
            assert own.query_language.tolist() == spec.query_languages[mine].tolist()
            assert own.passage_language.tolist() == spec.passage_languages[mine].tolist()


def test_a_question_with_several_positives_has_a_row_for_each(store):
    own = order(store, 3, last=4, strategy="one-to-k", positive_languages=3)
    table = pairs(own).to_pandas()
    assert len(table) == 4 * 8 * 3
    for step, of_step in table.groupby("step"):
        spec = own.sampler.batch(step)
        assert of_step.passage_language.tolist() == spec.passage_languages.tolist()
        assert of_step.row.tolist() == np.repeat(spec.rows, 3).tolist()
        assert of_step.query_language.tolist() == np.repeat(spec.query_languages, 3).tolist()
        assert of_step.item_id.tolist() == np.repeat(store.item_ids("numbers", spec.rows), 3).tolist()
        assert of_step["rank"].tolist() == [0] * 4 * 3 + [1] * 2 * 3 + [2] * 2 * 3  # whole chunks of two questions
    assert {entry.value for entry in own.mix() if entry.attribute == "kind"} == {"one-to-k"}


def test_the_second_language_of_each_question_is_shown(store):
    own = order(store, last=4, strategy="x-y", second_questions=True)
    planned = [language for step in range(4) for language in own.sampler.batch(step).second_languages.tolist()]
    assert pairs(own)["second_language"].to_pylist() == planned
    assert pairs(order(store, last=4, strategy="x-y"))["second_language"].null_count == 4 * 8


def test_only_the_rank_depends_on_the_number_of_workers(store):
    one = pairs(order(store, 1)).drop_columns("rank")
    for num_ranks in (2, 3, 8, 100):
        assert pairs(order(store, num_ranks)).drop_columns("rank").equals(one)


def test_a_range_of_steps_is_that_part_of_the_whole(store):
    whole = pairs(order(store, last=40))
    part = pairs(order(store, first=25, last=40))
    assert part.equals(whole.filter(pa.compute.greater_equal(whole["step"], 25)))


def test_accumulated_batches_belong_to_one_step(store):
    table = pairs(order(store, last=3, each=4)).to_pandas()
    assert table.groupby("step").batch.unique().map(list).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_without_shards_the_manifest_gives_all_but_the_items_names(store, tmp_path):
    (tmp_path / "manifest.json").write_bytes((store.folder / "manifest.json").read_bytes())
    alone = pairs(order(TokenStore.open(tmp_path)))
    assert alone["item_id"].null_count == len(alone)
    assert alone.drop_columns("item_id").equals(pairs(order(store)).drop_columns("item_id"))


def test_shares_are_those_of_the_batches_and_near_what_was_asked_for(store):
    own = order(store, last=2000, strategy="hybrid", alpha=0.3)
    shares = {(entry.attribute, entry.value): (entry.intended, entry.realised) for entry in own.mix()}
    kinds = [own.sampler.batch(step).kind for step in range(2000)]
    assert shares["kind", "monolingual"][1] == pytest.approx(kinds.count("monolingual") / 2000)
    assert shares["kind", "monolingual"][0] == pytest.approx(0.3)
    for of in ("kind", "source", "languages"):
        own_shares = np.array([both for (key, _), both in shares.items() if key == of])
        assert own_shares.sum(axis=0) == pytest.approx([1, 1])
        assert np.abs(own_shares[:, 0] - own_shares[:, 1]).max() < 0.05


def test_epochs_count_how_often_items_are_seen(store):
    own = order(store, last=100, strategy="x-x-mono")
    seen = pairs(own).group_by("query_language").aggregate([("row", "count")]).to_pydict()
    drawn = dict(zip(seen["query_language"], seen["row_count"], strict=True))
    epochs = {entry.stream.rpartition(" ")[2]: (entry.num_items, entry.epochs) for entry in own.epochs()}
    assert {f"{x}-{x}": drawn[x] / epochs[f"{x}-{x}"][0] for x in drawn} == pytest.approx(
        {name: times for name, (_, times) in epochs.items()}
    )


def test_the_files_hold_the_pairs_and_a_figure(store, tmp_path):
    own = order(store, last=150)
    write_trace(own, tmp_path)
    assert pq.read_table(tmp_path / "plan.parquet").equals(pairs(own))
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert [len(table.rows) > 0 for table in trace_tables(own)] == [True, True, True]


@pytest.mark.parametrize("text", ["5", "8:5", "-1:5", "a:b"])
def test_what_is_no_range_of_steps_is_refused(text):
    with pytest.raises(ConfigError, match="write --steps FIRST:LAST"):
        parse_steps(text, 40)
