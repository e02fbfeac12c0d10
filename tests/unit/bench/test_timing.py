"""The benchmark's frame: turns, ratios, the file of figures, the parts' names; and its own parts in small."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from hbt_ray.bench import BenchResult, Contestant, compare_alternating, describe_result, write_results
from hbt_ray.bench.data_feed import collating, feed_40m, feeding, training
from hbt_ray.bench.encoder import encoder_to_measure
from hbt_ray.bench.evaluation import parallel_benchmark
from hbt_ray.bench.registry import BENCHES, run_parts
from hbt_ray.bench.result import of_rounds
from hbt_ray.bench.scaling_model import Assumptions, assumptions, check_ranks, predict, scale
from hbt_ray.bench.settings import BenchSettings
from hbt_ray.bench.synthetic import TextTokens, bytes_per_item, write_synthetic_store
from hbt_ray.cli import main
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError, StoreError, UserError
from tests.helpers.timing_contestants import failing, holding, lacking, sleeping

FIGURE = BenchResult(4.0, "steps/s", 2.0, 2.0, (1.5, 2.5), {"peer_is": "another"})


def test_work_by_the_second_of_two_sides_is_compared():
    # 6 in 0.04 s against 1 in 0.02 s: 150 against 50 a second at most, as sleep is never short; on a busy machine it is
    # long, but not by so much that less were done in a second than in one call.
    figure = compare_alternating(
        Contestant(sleeping, (0.04, 6)), Contestant(sleeping, (0.02, 1)), unit="steps/s", rounds=3, warm_up=0
    )
    assert 6 < figure.value <= 150
    assert 1 < figure.peer <= 50
    assert figure.spread[0] <= figure.ratio <= figure.spread[1]


def test_a_round_of_several_repeats_counts_as_their_mean():
    once, thrice = Contestant(sleeping, (0.04, 6)), Contestant(sleeping, (0.04, 6), repeats=3)
    by_work = compare_alternating(once, thrice, unit="steps/s", rounds=1, warm_up=0)
    assert 6 < by_work.peer <= 150
    by_time = compare_alternating(once, thrice, unit="s", rounds=1, warm_up=0)
    assert 0.04 <= by_time.peer < 1


def test_a_sides_peak_memory_is_its_own():
    held = np.ones(200 * 2**20, np.uint8)  # of this process, from which a side's is not to start
    figure = compare_alternating(
        Contestant(holding, (80,)), Contestant(holding, (1,)), unit="steps/s", rounds=1, warm_up=0
    )
    assert held[0]
    assert 70 < figure.details["peak_mib"] - figure.details["peer_peak_mib"] < 90
    assert figure.details["peer_peak_mib"] < 150


def test_a_side_that_fails_is_told_and_one_that_lacks_a_library_names_it():
    with pytest.raises(UserError, match="a side of the benchmark failed: ValueError: no luck"):
        compare_alternating(Contestant(sleeping, (0, 1)), Contestant(failing), unit="steps/s")
    with pytest.raises(ImportError) as told:
        compare_alternating(Contestant(lacking), Contestant(sleeping, (0, 1)), unit="steps/s")
    assert told.value.name == "accelerate"


def test_a_figure_of_rounds_has_the_medians_and_the_rounds_own_ratios():
    figure = of_rounds([10, 30, 20], [5, 10, 20], "steps/s", {"a": 1})
    assert (figure.value, figure.peer) == (20, 10)
    assert (figure.ratio, figure.spread) == (2, (1, 3))  # of 2, 3 and 1
    assert figure.details == {"a": 1}


def test_seconds_are_compared_as_speeds():
    figure = of_rounds([1.0, 2.0], [10.0, 10.0], "s", {})
    assert (figure.ratio, figure.spread) == (7.5, (5, 10))


def test_the_file_keeps_parts_of_earlier_runs(tmp_path):
    write_results({"feed": FIGURE, "embed": FIGURE}, tmp_path / "new")
    write_results({"feed": replace(FIGURE, value=8.0)}, tmp_path / "new")
    found = json.loads((tmp_path / "new/bench.json").read_text())
    whole = {"unit": "steps/s", "peer": 2.0, "ratio": 2.0, "spread": [1.5, 2.5], "details": {"peer_is": "another"}}
    assert found == {"feed": {"value": 8.0, **whole}, "embed": {"value": 4.0, **whole}}
    (tmp_path / "new/bench.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot be read .*; move it away"):
        write_results({"feed": FIGURE}, tmp_path / "new")


def test_a_figure_in_a_line_leaves_out_what_is_nested():
    line = describe_result("feed", replace(FIGURE, details={"peak_mib": 12.34567, "predicted": [1], "assumed": {}}))
    assert line == "feed: 4 steps/s against 2, ratio 2 (1.5 to 2.5), peak_mib 12.35"


# The parts by name


@pytest.fixture
def fake_parts(monkeypatch):
    """Two parts of this module, one that lacks a library, and one that fails."""
    here = f"{__name__}:"
    names = {"one": "part_one", "lacking": "part_lacking", "failing": "part_failing", "two": "part_two"}
    monkeypatch.setattr("hbt_ray.bench.registry.BENCHES", {name: here + function for name, function in names.items()})


def part_one(settings: BenchSettings) -> BenchResult:
    return replace(FIGURE, value=float(settings.rounds))


def part_two(settings: BenchSettings) -> BenchResult:
    assert "one" in json.loads((settings.out / "bench.json").read_text())  # as soon as it was there
    return FIGURE


def part_lacking(settings: BenchSettings) -> BenchResult:
    raise ModuleNotFoundError("No module named 'ray'", name="ray")


def part_failing(settings: BenchSettings) -> BenchResult:
    raise UserError("no room")


def test_all_parts_run_but_those_that_lack_a_library_or_fail(fake_parts, tmp_path):
    lines: list[str] = []
    outcome = run_parts((), BenchSettings(tmp_path, rounds=3), lines.append)
    assert list(outcome.figures) == list(json.loads((tmp_path / "bench.json").read_text())) == ["one", "two"]
    assert outcome.skipped == {"lacking": "lacking needs ray; pip install 'hbt_ray[bench]'"}
    assert outcome.failed == {"failing": "no room"}
    assert [line.split(":")[0] for line in lines] == ["one", "skipped", "failed", "two"]


def test_a_named_part_that_cannot_run_is_refused_in_a_sentence(fake_parts, tmp_path):
    with pytest.raises(UserError, match=r"lacking needs ray; pip install 'hbt_ray\[bench\]'"):
        run_parts(["lacking"], BenchSettings(tmp_path))
    with pytest.raises(UserError, match="no room"):
        run_parts(["failing"], BenchSettings(tmp_path))
    with pytest.raises(UserError, match="there is no part 'on'; did you mean 'one'\\? There are one, lacking"):
        run_parts(["one", "on"], BenchSettings(tmp_path))
    assert not (tmp_path / "bench.json").exists()


def test_every_part_that_needs_no_ray_is_a_function_outside_of_the_cluster():
    assert {name for name, place in BENCHES.items() if place.startswith("hbt_ray.cluster")} == {
        "train_under_ray",
        "two_workers",
        "prepare",
        "start_up",
        "search",
    }
    assert all(place.startswith("hbt_ray.") and place.count(":") == 1 for place in BENCHES.values())


def test_the_command_prints_and_writes_what_was_found(fake_parts, tmp_path):
    result = CliRunner().invoke(main, ["bench", "--part", "one", "--rounds", "7", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "one: 7 steps/s against 2" in result.output
    assert json.loads((tmp_path / "bench.json").read_text())["one"]["value"] == 7
    result = CliRunner().invoke(main, ["bench", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "hbt: no figure came of failing; see above" in result.output
    for arguments, told in (
        (["--part", "nothing"], "there is no part 'nothing'; there are one, "),
        (["--part", "one", "--assume", "speed=3"], "there is no assumption 'speed'; write --assume with one of "),
        (["--part", "one", "--assume", "width=x"], "'width=x' is no number; write KEY=NUMBER"),
    ):
        result = CliRunner().invoke(main, ["bench", *arguments])
        assert (result.exit_code, told in result.output) == (2, True), result.output


# Stores and sets of any size


def test_a_synthetic_store_is_a_store(tmp_path):
    tokens = TextTokens(4, 8)
    folder = write_synthetic_store(tmp_path / "store", 20_000, tokens, vocabulary=5_000)
    store = TokenStore.open(folder)
    store.verify()
    source = store.manifest.sources["synthetic"]
    assert (source.items(), [shard.items for shard in store.shards]) == (20_000, [16_384, 3_616])
    assert source.languages == ("de", "en")
    rows = np.arange(0, 20_000, 7)
    assert store.item_ids("synthetic", rows) == [f"{row:09d}" for row in rows]
    for side, mean in (("question", 4), ("passage", 8)):
        ids, lengths = store.take("synthetic", side, "en", rows)
        assert (lengths.min(), lengths.max()) == (mean // 2, mean + mean // 2)
        assert 1000 <= ids.min() < ids.max() < 5_000
    on_disk = sum(path.stat().st_size for path in folder.rglob("*.arrow"))
    assert on_disk == pytest.approx(20_000 * bytes_per_item(tokens, 2), rel=0.02)
    assert write_synthetic_store(folder, 20_000, tokens) == folder  # found again


def test_a_store_for_which_there_is_no_room_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"takes 85000\.0 GB, and .* GB free; name a folder with more room by --out"):
        write_synthetic_store(tmp_path / "store", 10**12, TextTokens(4, 8))
    assert not list(tmp_path.rglob("*.arrow"))


def test_a_parallel_benchmark_is_of_the_size_asked_for():
    benchmark = parallel_benchmark(11, 1_190, 13_014)
    assert (len(benchmark.queries), len(benchmark.passages)) == (11 * 1_190, 13_014)
    ids = {passage.passage_id for passage in benchmark.passages}
    assert all(len(judged) == 11 and judged.keys() <= ids for judged in benchmark.judgements.values())
    assert sorted(ids) == [passage.passage_id for passage in benchmark.passages]


# The parts in small


def test_the_feed_from_a_larger_store_is_compared_with_that_from_a_small_one(tmp_path):
    figure = feed_40m(BenchSettings(tmp_path, rounds=1, quick=True))
    assert figure.unit == "batches/s"
    assert min(figure.value, figure.peer, figure.ratio) > 0
    assert (figure.details["items"], figure.details["peer_is"]) == (200_000, "a store of 1,000 items")
    assert not list(tmp_path.rglob("*.arrow"))


def test_training_and_the_collator_take_the_batches_that_the_feed_makes(tmp_path):
    store = write_synthetic_store(tmp_path / "store", 500, TextTokens(4, 8))
    encoder = encoder_to_measure(None, tmp_path, quick=True)
    assert encoder_to_measure("some/model", tmp_path) == "some/model"
    assert feeding(store, 16)() == 16
    assert training(store, encoder, 2)() == 2
    assert collating(store, encoder, 3)() == 3


def test_the_feed_needs_no_torch():
    """Its process holds what it needs alone."""
    code = "import sys, hbt_ray.bench.data_feed; sys.exit(any(name in sys.modules for name in ('torch', 'ray')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Scaling


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TokenStore:
    return TokenStore.open(write_synthetic_store(tmp_path_factory.mktemp("scale"), 8_000, TextTokens(4, 8)))


def test_the_pairs_of_64_ranks_join_to_the_batch(store, monkeypatch):
    check_ranks(store, 64, steps=3)
    monkeypatch.setattr("hbt_ray.bench.scaling_model.rank_slice", lambda pairs, ranks, rank: slice(0, 32))
    with pytest.raises(UserError, match="the pairs of 64 ranks do not join to the batch of step 0"):
        check_ranks(store, 64, steps=1)


def test_scale_runs_the_feed_of_64_ranks_and_predicts_from_it(tmp_path):
    figure = scale(BenchSettings(tmp_path, rounds=1, quick=True, assume={"pairs_per_gpu": 64}))
    assert figure.details["batches_per_s_by_ranks"].keys() == {"1", "8", "64"}
    assumed = figure.details["assumed"]
    assert assumed["pairs_per_gpu"]["value"] == 64
    assert assumed["feed_batches_s"]["value"] == pytest.approx(figure.value * 32 / 64)
    assert all(one["unit"] and one["source"] for one in assumed.values())
    assert [one["gpus"] for one in figure.details["predicted"]] == [1, 2, 4, 8, 16, 32, 64]
    json.dumps(figure.details)


# Numbers that can be worked out on paper: 1,200 parameters in the layers, 1,300 in all.
PAPER = Assumptions(
    pairs_per_gpu=10,
    tokens_per_pair=4,
    layers=1,
    width=10,
    vocabulary=10,
    compute_s=0.5,
    memory_bytes_s=1300 * 28 * 4,
    gpus_per_node=2,
    within_node_bytes_s=1300 * 4 * 10,
    between_nodes_gbit_s=1300 * 4 * 2 * 8e-9,
    hop_s=0,
)


def test_one_gpu_computes_and_waits_for_nobody():
    alone = predict(PAPER, 1)
    assert (alone.compute_s, alone.optimizer_s, alone.gradients_s, alone.negatives_s) == (0.5, 0.25, 0, 0)
    assert alone.pairs_per_s == pytest.approx(10 / 0.75)
    assert alone.efficiency == 1


def test_exchanges_take_the_slowest_link_of_the_ring():
    # Within a node 5,200 bytes take 0.1 s, between nodes 0.5 s; a rank's vectors are 10 * (12 * 10 + 16) = 1,360 bytes.
    two, four = predict(PAPER, 2), predict(PAPER, 4)
    assert two.gradients_s == pytest.approx(0.1)  # 2 * 1/2
    assert two.negatives_s == pytest.approx(1360 / 52_000)
    assert two.pairs_per_s == pytest.approx(20 / (0.85 + 1360 / 52_000))
    assert four.gradients_s == pytest.approx(0.75)  # 2 * 3/4 of 0.5 s
    assert four.negatives_s == pytest.approx(3 * 1360 / 10_400)
    assert four.efficiency == pytest.approx(0.75 / (1.5 + 3 * 1360 / 10_400))


def test_messages_and_what_hides_behind_the_backward_pass_count():
    given = replace(PAPER, hop_s=0.01, hidden_share=0.5)
    four = predict(given, 4)
    assert four.gradients_s == pytest.approx((0.75 + 6 * 0.01) / 2)
    assert four.negatives_s == pytest.approx(3 * 1360 / 10_400 + 15 * 0.01)


def test_a_feed_that_is_slower_than_the_step_sets_the_pace():
    assert predict(replace(PAPER, feed_batches_s=0.1), 4).pairs_per_s == pytest.approx(40 / 10)
    assert predict(replace(PAPER, feed_batches_s=2), 4) == replace(predict(PAPER, 4), feed_s=0.5)


def test_compute_is_worked_out_from_the_model_where_it_was_not_measured():
    given = replace(PAPER, compute_s=0, gpu_flops=1e6, utilisation=0.5, hard_negatives=0)
    # 40 tokens: 6 * 1,200 and 12 * 10 * 2 of attention each; and 6 * 10 for each of 10 * 10 pairs of texts.
    assert predict(given, 1).compute_s == pytest.approx((40 * (7200 + 240) + 6000) / 5e5)
    assert predict(given, 2).compute_s == pytest.approx((40 * (7200 + 240) + 12000) / 5e5)


def test_an_assumption_that_there_is_not_is_refused():
    assert assumptions({"width": 1024}).width == 1024
    with pytest.raises(ConfigError, match="there is no assumption 'speed'; write --assume with one of pairs_per_gpu,"):
        assumptions({"speed": 1})
