"""A search's points, what is wanted of them, a trial in this process, and what comes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from safetensors.torch import load_file

from hbt_ray.config import RunConfig, build_config, load_config
from hbt_ray.data.manifest import write_manifest
from hbt_ray.data.token_store import TokenStore, write_shard
from hbt_ray.errors import ConfigError, UserError
from hbt_ray.evaluation.validation_benchmark import build_validation_benchmark
from hbt_ray.search.candidates import Candidate, points_of
from hbt_ray.search.config import SearchConfig, load_search
from hbt_ray.search.dev_set import dev_metrics, dev_set
from hbt_ray.search.figures import half_widths, write_figures
from hbt_ray.search.objectives import knee, pareto_front, score
from hbt_ray.search.results import SearchResults, Trial, best_config, outcome_of, trials_table, write_outcome
from hbt_ray.training.checkpoint import CheckpointManager, step_name
from hbt_ray.training.checkpoint_metrics import load_checkpoint_metrics
from hbt_ray.training.local_runner import train_locally
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.training.task import ContrastiveTask
from tests.helpers import tiny_corpus


def search_of(**settings: Any) -> SearchConfig:
    return SearchConfig.model_validate({"space": {"mix.alpha": [0.0, 0.5, 1.0]}, **settings})


# What is tried


def test_a_grid_has_every_combination_and_no_point_twice():
    search = search_of(space={"mix.alpha": [0.0, 0.5, 0.5], "train.learning_rate": [1e-3, 1e-4]})
    assert [point.name for point in points_of(search)] == [
        "alpha=0.0,learning_rate=0.001",
        "alpha=0.0,learning_rate=0.0001",
        "alpha=0.5,learning_rate=0.001",
        "alpha=0.5,learning_rate=0.0001",
    ]


def test_random_points_are_a_function_of_the_seed_and_their_number():
    space = {"mix.alpha": {"uniform": [0.2, 0.8]}, "train.steps": {"integers": [5, 7]}}
    space |= {"train.learning_rate": {"loguniform": [1e-5, 1e-3]}, "mix.strategy": ["hybrid", "x-y"]}
    few, many = (points_of(search_of(space=space, algorithm="random", configurations=n)) for n in (10, 200))
    assert [point.name for point in few] == [point.name for point in many[:10]]
    values = [point.values for point in many]
    assert all(0.2 <= own["mix.alpha"] <= 0.8 and own["train.steps"] in (5, 6, 7) for own in values)
    assert {own["train.steps"] for own in values} == {5, 6, 7}
    below = np.mean([own["train.learning_rate"] < 1e-4 for own in values])
    assert abs(below - 0.5) < 5 * 0.5 / 200**0.5  # the middle of the powers of ten


def test_a_point_sets_what_it_names_and_leaves_the_rest():
    base = build_config({"mix": {"cross_pairs": "mixed"}, "train": {"steps": 7}})
    config = Candidate({"mix.alpha": 0.25, "mix.alpha_schedule": {"points": [[0, 0.9]]}}).config(base, seed=3)
    assert (config.seed, config.train.steps, config.mix.cross_pairs) == (3, 7, "mixed")
    assert config.mix.alpha_schedule is not None
    assert config.mix.alpha_schedule.points == ((0, 0.9),)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"space": {}}, "space"),
        ({"space": {"mix.alpha": {"uniform": [0, 1]}}}, "a grid needs values for mix.alpha"),
        ({"space": {"mix.alpha": {"uniform": [1, 0]}}, "algorithm": "random"}, r"\[1.0, 0.0\] must be \[least, most\]"),
        ({"space": {"mix.alpha": {}}}, "write a list of values, or one of"),
        ({"space": {"mix.alpha": [0.1, 2]}}, "alpha is 2"),
        ({"seeds": [1, 1]}, "names one twice"),
        (
            {"dev": {"benchmarks": {"pairs": "faq"}}, "run": {"evaluate": {"benchmarks": {"pairs": "faq"}}}},
            "pairs is a test benchmark, and must not be chosen by",
        ),
        ({"objectives": {"multi/map": 0}}, "one above 0"),
        ({"stopping": "asha"}, "asha decides while trials run; write measure_every below the 600 steps"),
        ({"algorithm": "pbt"}, "pbt decides while trials run"),
        (
            {"algorithm": "pbt", "space": {"train.steps": [5, 6]}, "measure_every": 10},
            "pbt finds a schedule of mix.alpha",
        ),
        ({"algorithm": "pbt", "seeds": [0, 1], "measure_every": 10}, "write one seed"),
        ({"algorithm": "nsga2", "seeds": [0, 1]}, "write one seed"),
        ({"algorithm": "tpe", "space": {"text.max_query_tokens": [32, 64]}}, "needs a store or encoder of its own"),
    ],
)
def test_a_search_that_cannot_be_is_told_before_it_begins(tmp_path: Path, settings: dict[str, Any], said: str):
    file = tmp_path / "search.yaml"
    file.write_text(json.dumps({"space": {"alpha": [0.0, 1.0]}} | settings))
    with pytest.raises(ConfigError, match=said):
        points_of(load_search(file))


def test_keys_of_the_space_may_be_short_and_overrides_reach_the_run(tmp_path: Path):
    file = tmp_path / "search.yaml"
    file.write_text("space: {alpha: [0, 1]}\nrun: {train: {steps: 9}}\n")
    search = load_search(file, ["seeds=[4, 5]", "run.global_batch_pairs=32", "dev.items=7"])
    assert list(search.space) == ["mix.alpha"]
    assert (search.seeds, search.dev.items) == ((4, 5), 7)
    assert (search.run.train.steps, search.run.train.global_batch_pairs) == (9, 32)
    with pytest.raises(ConfigError, match="there is no setting 'alhpa'"):
        load_search(file, ["run.alhpa=1"])
    with pytest.raises(ConfigError, match="there is no setting 'seedz'; did you mean 'seed'"):
        load_search(file, ["seedz=[1]"])


# What is wanted


@given(arrays(float, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.integers(0, 3).map(float)))
def test_the_front_is_what_nothing_beats_and_the_knee_is_on_it(values: np.ndarray):
    front = pareto_front(values)
    for row, own in enumerate(values):
        beaten = any((other >= own).all() and (other > own).any() for other in values)
        assert front[row] == (not beaten)
    assert front[knee(values)]


def test_the_score_is_the_weighted_mean_of_shares_on_paper():
    metrics = {"mono/map": 0.8, "multi/rank_distance": 30.0}
    assert score(metrics, {"mono/map": 3.0, "multi/rank_distance": 1.0}, passages=101) == pytest.approx(
        (3 * 0.8 + (1 - 30 / 100)) / 4
    )
    assert score({"mono/map": 0.8}, {"mono/map": 1.0, "cross/map": 1.0}, passages=101) == pytest.approx(0.4)


def test_confidence_bands_pool_the_deviation_of_all_values():
    widths = half_widths([[1.0, 3.0], [5.0, 5.0]])
    # Pooled variance (2 + 0) / 2 = 1, two degrees of freedom, two values each.
    assert widths == pytest.approx([4.30265273 / 2**0.5] * 2)
    assert half_widths([[1.0], [2.0]]).tolist() == [0, 0]


# What came of it


def trial(alpha: float, seed: int, mono: float, cross: float, state: Any = "finished", steps: int = 10) -> Trial:
    metrics = {
        "held-out/mono/map": mono,
        "held-out/cross/map": cross,
        "held-out/multi/map": 0.5,
        "held-out/multi/rank_distance": 100.0 * (1 - cross),
        "held-out/multi/rank_distance/de": 100.0 * (1 - cross),
    }
    point = Candidate({"mix.alpha": alpha})
    return Trial(f"{point.name},seed={seed}", point, seed, state, [(steps, metrics)], reason="it broke")


TRIALS = (
    trial(0.0, 0, 0.5, 0.9),
    trial(0.0, 1, 0.6, 0.8),
    trial(0.5, 0, 0.8, 0.8),
    trial(0.5, 1, 0.8, 0.7),
    trial(1.0, 0, 0.9, 0.2),
    trial(1.0, 1, 0.0, 0.0, "stopped", 5),
)


def test_configurations_are_means_over_their_finished_seeds_and_the_best_comes_first():
    outcome = outcome_of(search_of(seeds=(0, 1)), TRIALS, passages=101)
    assert [result.name for result in outcome.results] == ["alpha=0.5", "alpha=0.0", "alpha=1.0"]
    best = outcome.best
    assert best.mean["mono/map"] == pytest.approx(0.8)
    assert best.deviation["cross/map"] == pytest.approx(0.05 * 2**0.5)
    assert best.score == pytest.approx((0.8 + 0.75 + 0.5 + 0.75) / 4)
    assert outcome.results[2].seeds == (0,)
    assert outcome.steps == 5 * 10 + 5
    assert {result.name for result in outcome.results if result.on_front} == {"alpha=0.0", "alpha=0.5", "alpha=1.0"}
    assert outcome.knee.name == "alpha=0.5"


def test_a_search_without_a_finished_trial_says_why():
    with pytest.raises(UserError, match="no trial came to its end: it broke"):
        outcome_of(search_of(), [trial(0.5, 0, 0, 0, "failed")], passages=10)


def test_the_files_say_the_same_in_whatever_order_trials_ended(tmp_path: Path):
    search = search_of(seeds=(0, 1))
    for name, trials in (("one", TRIALS), ("other", TRIALS[::-1])):
        (tmp_path / name).mkdir()
        write_outcome(search, outcome_of(search, trials, passages=101), trials, tmp_path / name)
    for file in ("best.yaml", "summary.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    table = pq.read_table(tmp_path / "one" / "trials.parquet")
    assert table.equals(pq.read_table(tmp_path / "other" / "trials.parquet"))
    assert table["mix.alpha"].to_pylist() == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    best = load_config(tmp_path / "one" / "best.yaml")
    assert (best.mix.alpha, best.seed) == (0.5, 0)


def test_the_best_member_of_a_population_becomes_a_run_with_its_schedule():
    alphas = [(0, 0.5), (40, 0.6)]
    members = [Trial("member=0", Candidate({"mix.alpha": 0.6}), 0, "finished", TRIALS[0].measured, alphas)]
    search = search_of(algorithm="pbt", measure_every=20)
    outcome = outcome_of(search, members, passages=101)
    config = best_config(search, outcome.best, members)
    assert config.mix.alpha_schedule is not None
    assert config.mix.alpha_schedule.points == ((0, 0.5), (40, 0.6))
    assert config.mix.alpha_schedule.between == "hold"
    assert trials_table(search, members)["mix.alpha"].to_pylist() == [0.5]


def test_figures_are_pictures_of_what_there_is(tmp_path: Path):
    search = search_of(seeds=(0, 1))
    written = write_figures(search, outcome_of(search, TRIALS, passages=101), TRIALS, tmp_path)
    assert [file.name for file in written] == ["objectives.png", "pareto.png", "bias.png"]
    members = [
        Trial(
            f"member={n}", Candidate({"mix.alpha": n / 3}), 0, "finished", TRIALS[n].measured, [(0, n / 3), (40, 0.9)]
        )
        for n in range(3)
    ]
    population = search_of(algorithm="pbt", measure_every=20)
    written += write_figures(population, outcome_of(population, members, passages=101), members, tmp_path)
    assert written[-1].name == "schedule.png"
    for file in written:
        with Image.open(file) as picture:
            assert len(set(np.asarray(picture.convert("L").resize((60, 40))).ravel().tolist())) > 10
    one = SearchResults(
        (outcome := outcome_of(search, TRIALS[:1], passages=101)).results, outcome.best, outcome.knee, 10
    )
    assert write_figures(search, one, TRIALS[:1], tmp_path) == []


# Held-out items, and a trial


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("store")
    own = tiny_corpus.tokenization()
    made: dict[Any, list[Any]] = {"train": [tiny_corpus.token_item(own, n) for n in range(48)]}
    made["validation"] = [
        tiny_corpus.token_item(own, n, tiny_corpus.LANGUAGES[:2] if n == 50 else tiny_corpus.LANGUAGES)
        for n in range(48, 56)
    ]
    written = [write_shard(folder, "numbers", split, 0, items, own.token_type) for split, items in made.items()]
    write_manifest(folder, written, text_fingerprint=own.fingerprint(), token_type=own.token_type)
    return TokenStore.open(folder)


def test_held_out_items_are_asked_and_answered_in_every_language_they_have(store: TokenStore):
    benchmark = build_validation_benchmark(store, None, 5)
    assert benchmark.name == "held-out"
    assert len(benchmark.queries) == len(benchmark.passages) == 4 * 3 + 2
    assert benchmark.judgements["de:numbers:item-0050"] == {"de:numbers:item-0050": 1, "en:numbers:item-0050": 1}
    [row] = [n for n in range(5) if store.item_ids("numbers", np.array([n]), "validation") == ["item-0049"]]
    ids, _ = store.take("numbers", "question", "fr", np.array([row]), "validation")
    [text] = [query.text for query in benchmark.queries if query.query_id == "fr:numbers:item-0049"]
    assert text == " ".join(map(str, ids.tolist()))
    assert build_validation_benchmark(store, ("en",), 5).languages == ["en"]


def test_without_held_out_items_there_is_nothing_to_choose_by(tmp_path: Path):
    tiny_corpus.make_store(tmp_path)
    with pytest.raises(ConfigError, match=r"write prepare.validation_share=0\.05, or name a dev benchmark"):
        build_validation_benchmark(TokenStore.open(tmp_path), None, 5)


TRAIN = {"steps": 8, "global_batch_pairs": 16, "chunk_pairs": 4, "learning_rate": 1e-3, "precision": "fp32"}


class Struck(Exception):
    """The end of a process, as far as a trial is concerned."""


def trained(store: TokenStore, out: Path, struck_at: int | None = None) -> list[int]:
    """Run a trial over the tiny store and return the steps that it reported."""
    config = build_config(
        {"text": tiny_corpus.TEXT.model_dump(), "model": tiny_corpus.MODEL.model_dump(), "train": TRAIN}
    )
    initial = out.parent / "initial"
    if not initial.exists():
        tiny_corpus.make_encoder(initial)
    search = search_of(dev={"items": 4})
    dev = dev_set(search.dev, store.folder, config)
    reported: list[int] = []

    def report(step: int, metrics: dict[str, float]) -> None:
        assert {"held-out/mono/map", "held-out/cross/map/de-en", "held-out/multi/rank_distance"} <= metrics.keys()
        reported.append(step)
        if step == struck_at:
            raise Struck

    folder = run_dir_of(config, out)
    often = config.model_copy(update={"train": config.train.model_copy(update={"checkpoint_every": 2})})
    job = ContrastiveTask(often, str(initial), lambda encoder, config: dev_metrics(encoder, dev, search.dev, config))
    train_locally(job, store.folder, folder, every=2, report=report)
    return reported


def test_a_struck_trial_goes_on_and_measures_what_an_undisturbed_one_does(store: TokenStore, tmp_path: Path):
    assert trained(store, tmp_path / "undisturbed") == [2, 4, 6, 8]
    for at in (2, 6):
        with pytest.raises(Struck):
            trained(store, tmp_path / "struck", at)
    (tmp_path / "struck" / "measured" / "6.json").unlink()  # struck after the checkpoint, before it was measured
    assert trained(store, tmp_path / "struck") == [2, 4, 6, 8]
    one, other = (run_dir_of(RunConfig(), tmp_path / name) for name in ("undisturbed", "struck"))
    without_loss = [
        [
            (step, {k: v for k, v in metrics.items() if k != "train/loss"})
            for step, metrics in load_checkpoint_metrics(own.measured)
        ]
        for own in (one, other)
    ]
    assert without_loss[0] == without_loss[1]
    assert load_checkpoint_metrics(one.measured)[3] == load_checkpoint_metrics(other.measured)[3]
    weights = [load_file(Path(str(own.checkpoints)) / step_name(8) / "weights.safetensors") for own in (one, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert CheckpointManager(one.checkpoints).steps() == [6, 8]
    assert trained(store, tmp_path / "struck") == [2, 4, 6, 8]  # finished: told again, and nothing more
