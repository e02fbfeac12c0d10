"""The search algorithms as Ray Tune runs them; what they need without Ray is in `hbt_ray.search.algorithms`."""

from collections.abc import Mapping
from types import MappingProxyType

from hbt_ray.cluster.search.algorithms.base import TrialIdentity, TuneAlgorithm
from hbt_ray.cluster.search.algorithms.listed import LISTED
from hbt_ray.cluster.search.algorithms.optuna_samplers import SAMPLED
from hbt_ray.cluster.search.algorithms.pbt import TunePBT

TUNE_ALGORITHMS: Mapping[str, TuneAlgorithm] = MappingProxyType({**LISTED, **SAMPLED, "pbt": TunePBT()})

__all__ = ["TUNE_ALGORITHMS", "TrialIdentity", "TuneAlgorithm"]
