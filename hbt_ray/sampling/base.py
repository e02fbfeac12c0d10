"""The base of the samplers: a batch is a function of the sampler's inputs and the step, and of nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from hbt_ray.data.manifest import StoreManifest
from hbt_ray.errors import ConfigError
from hbt_ray.sampling.rank_sharding import rank_slice

SpecT = TypeVar("SpecT")


class StepSampler(ABC, Generic[SpecT]):
    """Return the global batch of any step, without state from earlier steps.

    A subclass implements `_draw`. A batch is returned as a spec: indices of examples and streams, before any text is
    read from the store. `SpecT` is the type of the spec.

    Args:
        manifest: contents of the token store.
        languages: languages to draw from; None: all languages of the store.
        global_batch_size: examples (pairs or blocks) in a global batch.

    Raises:
        ConfigError: a language is not in the store.
    """

    def __init__(self, manifest: StoreManifest, languages: tuple[str, ...] | None, global_batch_size: int) -> None:
        unknown = sorted(set(languages or ()) - set(manifest.languages))
        if unknown:
            raise ConfigError(
                f"language {unknown[0]!r} is not in the corpora; there are {', '.join(manifest.languages)}"
            )
        self.languages = tuple(languages or manifest.languages)
        self.global_batch_size = global_batch_size

    def batch(self, step: int, part: slice | None = None) -> SpecT:
        """Return the global batch of a step, or a part of it. Steps may be passed in any order.

        Args:
            step: index of the batch, at least 0.
            part: positions in the global batch, such as those of a rank by `rank_slice`. Only these are computed.
                None: all.
        """
        start, stop, _ = (part or slice(None)).indices(self.global_batch_size)
        return self._draw(step, start, stop)

    def rank_batches(self, steps: Iterable[int], rank: int, num_ranks: int, chunk_size: int) -> Iterator[SpecT]:
        """Yield a rank's part of the global batch of each step; see `rank_slice` for the arguments."""
        part = rank_slice(self.global_batch_size, num_ranks, rank, chunk_size)
        return (self.batch(step, part) for step in steps)

    @abstractmethod
    def _draw(self, step: int, start: int, stop: int) -> SpecT:
        """Return the examples at positions [start, stop) of the global batch of a step."""
