"""The search algorithms as Ray Tune gets them."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from hbt_ray.cluster.search.algorithms import TUNE_ALGORITHMS
from hbt_ray.cluster.search.algorithms.branch import BranchGenerator, BranchSearcher
from hbt_ray.config import replace_in
from hbt_ray.search.algorithms import ALGORITHMS, list_candidates
from hbt_ray.search.candidates import Candidate
from hbt_ray.search.config import SearchConfig


def search_of(algorithm: str, **settings: object) -> SearchConfig:
    defaults = {"space": {"mix.alpha": [0.0, 0.5]}, "measure_every": 20, "concurrent": 2}
    configurations = {} if algorithm == "grid" else {"configurations": 4}
    return SearchConfig.model_validate({**defaults, **configurations, "algorithm": algorithm, **settings})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_configures_tune(algorithm: str):
    search = search_of(algorithm)
    tune_algorithm = TUNE_ALGORITHMS[algorithm]
    assert isinstance(tune_algorithm.param_space(search, list_candidates(search)), dict)
    config = tune_algorithm.tune_config(search, max_concurrent=2)
    assert config.trial_dirname_creator is not None
    pickle.dumps(config.scheduler)


@pytest.mark.parametrize("algorithm", ["grid", "tpe"])
def test_trial_of_workers_that_is_stopped_ends_with_its_process(algorithm: str):
    search = search_of(algorithm, stopping="asha")
    of_workers = replace_in(search, "run.train.workers", 2)
    for one, is_reused in ((search, True), (of_workers, False), (replace_in(of_workers, "stopping", "none"), True)):
        assert TUNE_ALGORITHMS[algorithm].tune_config(one, max_concurrent=2).reuse_actors is is_reused


def test_listed_trials_are_named_by_candidate_and_seed():
    search = search_of("grid", seeds=[3, 4])
    listed = TUNE_ALGORITHMS["grid"]
    trials = listed.param_space(search, list_candidates(search))["trial"]["grid_search"]
    identities = [listed.identify(search, {"trial": trial}, "x_00000") for trial in trials]
    assert [own.name for own in identities] == [
        f"alpha={alpha},seed={seed}" for alpha in ("0.0", "0.5") for seed in (3, 4)
    ]
    assert identities[1].candidate == Candidate({"mix.alpha": 0.0})
    assert identities[1].seed == 4


def test_sampled_trials_are_rounded_and_named_apart():
    search = search_of("tpe", space={"mix.alpha": {"uniform": [0, 1]}}, seeds=[3, 4])
    trial = TUNE_ALGORITHMS["tpe"].identify(search, {"mix.alpha": 0.123456, "__trial_index__": 1}, "x_00007")
    assert (trial.name, trial.seed) == ("alpha=0.1235,seed=4,00007", 4)
    assert trial.candidate.values == {"mix.alpha": 0.1235}


def test_sampler_draws_a_simplex_as_a_quantile_of_each_name():
    search = search_of("tpe", space={"mix.language_weights": {"simplex": ["de", "en"]}})
    sampled = TUNE_ALGORITHMS["tpe"]
    keys = ["mix.language_weights.de", "mix.language_weights.en"]
    assert list(sampled.param_space(search, [])) == keys
    trial = sampled.identify(search, dict.fromkeys(keys, 0.7), "x_00007")
    assert trial.candidate.values == {"mix.language_weights": {"de": 0.5, "en": 0.5}}


def ended(searcher: BranchSearcher | BranchGenerator, trials: dict[str, float | None], until: int) -> None:
    for trial_id, score in trials.items():
        searcher.on_trial_complete(trial_id, {"step": until, "score": score}, error=score is None)


def test_searcher_continues_with_the_best_branch_and_then_ends(tmp_path: Path):
    search = search_of("branch", space={"mix.alpha": {"uniform": [0, 1]}}, configurations=3, branch_every=300)
    searcher = BranchSearcher(search, 4)
    first = {name: searcher.suggest(name)["branch"] for name in "abc"}
    assert [branch["name"] for branch in first.values()] == [f"steps=0-20,branch={n}" for n in range(3)]
    assert first["a"]["mixtures"] == [[0, {"mix.alpha": 0.5}]]
    assert searcher.suggest("x") is None
    ended(searcher, {"a": 0.2, "c": None}, 20)
    searcher.save(str(tmp_path / "state"))
    searcher = BranchSearcher(search, 4)
    searcher.restore(str(tmp_path / "state"))
    ended(searcher, {"b": 0.4}, 20)
    rest = searcher.suggest("d")["branch"]
    assert (rest["name"], rest["parent"], rest["mixtures"]) == (
        "steps=20-300,branch=0",
        "steps=0-20,branch=1",
        first["b"]["mixtures"],
    )
    ended(searcher, {"d": 0.5}, 300)
    ended(searcher, {"c": 0.9}, 20)  # which had failed, and was started again
    second = {name: searcher.suggest(name)["branch"] for name in "efg"}
    assert second["e"]["mixtures"] == rest["mixtures"]
    assert [[batch for batch, _ in branch["mixtures"]] for branch in second.values()] == [[0], [0, 300], [0, 300]]
    ended(searcher, {"e": 0.1, "f": 0.1, "g": 0.1}, 320)  # of equal ones the first
    assert searcher.suggest("h")["branch"]["parent"] == "steps=300-320,branch=0"
    ended(searcher, {"h": 0.6}, 600)
    assert searcher.suggest("i") == searcher.FINISHED


def test_searcher_is_pickled_without_the_settings_of_the_run():
    search = replace_in(search_of("branch"), "run.tracking.uri", "http://ada:canary@h")
    search = replace_in(search, "run.model.path", "/canary/model")
    assert b"canary" not in pickle.dumps(BranchSearcher(search, 4))


def test_search_ends_when_every_branch_failed():
    searcher = BranchSearcher(search_of("branch"), 4)
    trials: dict[str, float | None] = dict.fromkeys("abcd")
    assert all(searcher.suggest(name) for name in trials)
    ended(searcher, trials, 20)
    assert searcher.suggest("e") == searcher.FINISHED


def branch_generator() -> BranchGenerator:
    config = TUNE_ALGORITHMS["branch"].tune_config(search_of("branch", configurations=2), max_concurrent=2)
    assert isinstance(config.search_alg, BranchGenerator)
    config.search_alg._total_samples = 60  # as Tune sets it
    return config.search_alg


def test_search_of_which_every_branch_failed_goes_on_when_it_is_resumed(tmp_path: Path):
    generator = branch_generator()
    assert all(generator.searcher.suggest(name) for name in "ab")
    ended(generator, {"a": None, "b": None}, 20)
    assert generator.create_trial_if_possible({}) is None
    assert generator.is_finished()
    generator.save_to_dir(str(tmp_path), "session")
    resumed = branch_generator()
    resumed.restore_from_dir(str(tmp_path))
    assert not resumed.is_finished()
    assert resumed.searcher.suggest("c") is None  # Tune runs the trials a and b again
    ended(resumed, {"a": 0.5}, 20)
    assert resumed.searcher.suggest("c") is None
    ended(resumed, {"b": None}, 20)
    assert resumed.searcher.suggest("c")["branch"]["parent"] == "steps=0-20,branch=0"


def test_no_more_branches_run_at_a_time_than_may():
    searcher = BranchSearcher(search_of("branch"), 1)
    assert searcher.suggest("a")
    assert searcher.suggest("b") is None
    ended(searcher, {"a": 0.5}, 20)
    assert searcher.suggest("b")
