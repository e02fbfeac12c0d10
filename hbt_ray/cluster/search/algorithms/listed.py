"""Algorithms of which all candidates are known before the first trial."""

from __future__ import annotations

from collections.abc import Sequence

from ray import tune

from hbt_ray.cluster.search.algorithms.base import Params, TrialIdentity, TuneAlgorithm
from hbt_ray.search.algorithms import ALGORITHMS, ListedAlgorithm
from hbt_ray.search.candidates import Candidate
from hbt_ray.search.config import SearchConfig


class TuneList(TuneAlgorithm):
    """Trains every candidate with every seed, as a grid over one parameter, `trial`.

    Not as a parameter for each setting, because Tune would then combine the values of all candidates.
    """

    def param_space(self, search: SearchConfig, candidates: Sequence[Candidate]) -> dict[str, object]:
        trials = [{"values": dict(candidate.values), "seed": seed} for candidate in candidates for seed in search.seeds]
        return {"trial": tune.grid_search(trials)}

    def identify(self, search: SearchConfig, params: Params, trial_id: str) -> TrialIdentity:
        candidate, seed = Candidate(params["trial"]["values"]), int(params["trial"]["seed"])
        return TrialIdentity(f"{candidate.name},seed={seed}", candidate, seed)


LISTED = {name: TuneList() for name, algorithm in ALGORITHMS.items() if isinstance(algorithm, ListedAlgorithm)}
