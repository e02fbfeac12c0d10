"""The search algorithms as Ray Tune gets them."""

from __future__ import annotations

import pickle

import pytest

from hbt_ray.cluster.search.algorithms import TUNE_ALGORITHMS
from hbt_ray.search.algorithms import ALGORITHMS, list_candidates
from hbt_ray.search.candidates import Candidate
from hbt_ray.search.config import SearchConfig


def search_of(algorithm: str, **settings: object) -> SearchConfig:
    defaults = {"space": {"mix.alpha": [0.0, 0.5]}, "measure_every": 20, "configurations": 4, "concurrent": 2}
    return SearchConfig.model_validate({**defaults, "algorithm": algorithm, **settings})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_configures_tune(algorithm: str):
    search = search_of(algorithm)
    tune_algorithm = TUNE_ALGORITHMS[algorithm]
    assert tune_algorithm.param_space(search, list_candidates(search))
    config = tune_algorithm.tune_config(search, max_concurrent=2)
    assert config.trial_dirname_creator is not None
    pickle.dumps(config.scheduler)


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


def test_members_of_a_population_keep_their_name_when_alpha_changes():
    search = search_of("pbt", space={"mix.alpha": {"uniform": [0, 1]}})
    names = {TUNE_ALGORITHMS["pbt"].identify(search, {"mix.alpha": alpha}, "x_00003").name for alpha in (0.1, 0.9)}
    assert names == {"member=3"}
