"""Hybrid batch training of multilingual retrievers.

The names of `__all__` are the public interface. Each is imported when it is first used, so importing this package, or a
name that needs no cluster, does not import Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hbt_ray.api import RunComparison, compare, evaluate, prepare, train
    from hbt_ray.cluster.pipelines.train import FinishedRun
    from hbt_ray.config import Columns, CorpusConfig, EvaluateConfig, MixConfig, RunConfig, build_config, load_config
    from hbt_ray.data.hybrid_dataset import HybridDataset
    from hbt_ray.errors import HbtError, UserError
    from hbt_ray.evaluation.evaluator import EvalReport
    from hbt_ray.sampling.batch_sampler import HybridBatchSampler

__version__ = "0.1.0"

__all__ = [
    "Columns",
    "CorpusConfig",
    "EvalReport",
    "EvaluateConfig",
    "FinishedRun",
    "HbtError",
    "HybridBatchSampler",
    "HybridDataset",
    "MixConfig",
    "RunComparison",
    "RunConfig",
    "UserError",
    "__version__",
    "build_config",
    "compare",
    "evaluate",
    "load_config",
    "prepare",
    "train",
]
_MODULES = {
    **dict.fromkeys(("RunComparison", "compare", "evaluate", "prepare", "train"), "hbt_ray.api"),
    **dict.fromkeys(
        ("Columns", "CorpusConfig", "EvaluateConfig", "MixConfig", "RunConfig", "build_config", "load_config"),
        "hbt_ray.config",
    ),
    **dict.fromkeys(("HbtError", "UserError"), "hbt_ray.errors"),
    "EvalReport": "hbt_ray.evaluation.evaluator",
    "FinishedRun": "hbt_ray.cluster.pipelines.train",
    "HybridBatchSampler": "hbt_ray.sampling.batch_sampler",
    "HybridDataset": "hbt_ray.data.hybrid_dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hbt_ray' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
