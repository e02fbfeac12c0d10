"""The search algorithms as Ray Tune runs them; what they need without Ray is in `hbt_ray.search.algorithms`."""

from collections.abc import Mapping
from types import MappingProxyType

from hbt_ray.cluster.search.algorithms.base import TrialIdentity, TuneAlgorithm
from hbt_ray.cluster.search.algorithms.branch import TuneBranch
from hbt_ray.cluster.search.algorithms.listed import LISTED
from hbt_ray.cluster.search.algorithms.tpe import TuneTPE

TUNE_ALGORITHMS: Mapping[str, TuneAlgorithm] = MappingProxyType({**LISTED, "tpe": TuneTPE(), "branch": TuneBranch()})

__all__ = ["TUNE_ALGORITHMS", "TrialIdentity", "TuneAlgorithm"]
