"""Hybrid batch training of multilingual retrievers.

The names of `__all__` are the public interface. Each is imported when it is first used, so importing this package, or a
name that needs no cluster, does not import Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hbt_ray.data.hybrid_dataset import HybridDataset
    from hbt_ray.sampling.batch_sampler import HybridBatchSampler

__version__ = "0.1.0"

_MODULES = {
    "HybridBatchSampler": "hbt_ray.sampling.batch_sampler",
    "HybridDataset": "hbt_ray.data.hybrid_dataset",
}
__all__ = ["HybridBatchSampler", "HybridDataset", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hbt_ray' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
