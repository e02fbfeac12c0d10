"""TPE: Optuna's sampler draws each candidate after it has seen the scores of earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ray import tune
from ray.tune.search import ConcurrencyLimiter, Repeater, Searcher

from hbt_ray.cluster.search.algorithms.base import (
    SCORE,
    Params,
    TrialIdentity,
    TuneAlgorithm,
    reuses_actors,
    trial_dirname,
)
from hbt_ray.search.candidates import Candidate, round_drawn
from hbt_ray.search.config import SearchConfig, SearchDimension

if TYPE_CHECKING:
    from ray.tune.search.sample import Domain


class TuneTPE(TuneAlgorithm):
    """Runs trials whose parameters are the searched settings, as Optuna's TPESampler draws them."""

    def param_space(self, search: SearchConfig, candidates: Sequence[Candidate]) -> dict[str, object]:
        domains: dict[str, object] = {}
        for key, dimension in search.space.items():
            quantiles = dict.fromkeys(_quantile_keys(key, dimension), tune.uniform(0, 1))
            domains |= quantiles or {key: _domain(dimension)}
        return domains

    def identify(self, search: SearchConfig, params: Params, trial_id: str) -> TrialIdentity:
        values = {}
        for key, dimension in search.space.items():
            quantiles = [params[name] for name in _quantile_keys(key, dimension)]
            values[key] = dimension.value_at(*quantiles) if quantiles else round_drawn(params[key])
        candidate = Candidate(values)
        seed = search.seeds[int(params.get("__trial_index__", 0))]  # set by Repeater
        # The same values may be drawn twice; their folders must differ.
        return TrialIdentity(f"{candidate.name},seed={seed},{trial_id.rpartition('_')[2]}", candidate, seed)

    def tune_config(self, search: SearchConfig, max_concurrent: int) -> tune.TuneConfig:
        from optuna.samplers import TPESampler  # takes a second to load, and trials do not need it
        from ray.tune.search.optuna import OptunaSearch

        # The first half of the trials is drawn at random, before there is a model of them.
        sampler = TPESampler(seed=search.seed, n_startup_trials=max(search.configurations // 2, 1))
        # Repeater trains each candidate with every seed and hands the mean of their scores to the sampler.
        candidates_at_a_time = max(max_concurrent // len(search.seeds), 1)
        searcher: Searcher = ConcurrencyLimiter(
            OptunaSearch(metric=SCORE, mode="max", sampler=sampler), max_concurrent=candidates_at_a_time
        )
        if len(search.seeds) > 1:
            searcher = Repeater(searcher, repeat=len(search.seeds))
        return tune.TuneConfig(
            search_alg=searcher,
            scheduler=self.scheduler(search),
            num_samples=search.configurations * len(search.seeds),
            reuse_actors=reuses_actors(search),
            trial_dirname_creator=trial_dirname,
        )


def _quantile_keys(key: str, dimension: SearchDimension) -> list[str]:
    """Return the parameters of a simplex, a quantile of each of its names; none for other dimensions."""
    return [f"{key}.{name}" for name in dimension.simplex or ()]


def _domain(dimension: SearchDimension) -> Domain:
    if dimension.values is not None:
        return tune.choice(list(dimension.values))
    if dimension.integers:
        return tune.randint(dimension.integers[0], dimension.integers[1] + 1)
    if dimension.loguniform:
        return tune.loguniform(*dimension.loguniform)
    assert dimension.uniform
    return tune.uniform(*dimension.uniform)
