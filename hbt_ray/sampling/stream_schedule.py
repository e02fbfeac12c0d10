"""Which stream each step draws from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hbt_ray.sampling.batch_kinds import BatchKind, monolingual_probability
from hbt_ray.sampling.draw_counts import IndexedDraws
from hbt_ray.sampling.streams import SamplerInputs, Stream
from hbt_ray.utils.counter_rng import Salt, random_uniforms, stable_hash64


class StreamSchedule:
    """The stream of every step.

    Args:
        shares: (streams,) the probability that a batch of its kind draws from each.
    """

    def __init__(self, terms: SamplerInputs, streams: Sequence[Stream], shares: np.ndarray) -> None:
        self._mix = terms.mix
        self._num_streams = len(streams)
        # For each kind its streams' numbers and their cumulated shares within the kind.
        self._cumulated: dict[BatchKind, tuple[np.ndarray, np.ndarray]] = {}
        for kind in dict.fromkeys(stream.kind for stream in streams):
            numbers = np.array([n for n, stream in enumerate(streams) if stream.kind == kind])
            cumulated = np.cumsum(shares[numbers])
            self._cumulated[kind] = (numbers, cumulated / cumulated[-1])
        self._kind_key, self._stream_key = stable_hash64(terms.seed, Salt.KIND), stable_hash64(terms.seed, Salt.STREAM)
        self._draws = IndexedDraws(self.stream_numbers, len(streams))

    def stream_numbers(self, steps: np.ndarray) -> np.ndarray:
        """(N,) the number of the stream that each step draws from."""
        monolingual = random_uniforms(self._kind_key, steps) < monolingual_probability(self._mix, steps)
        places = random_uniforms(self._stream_key, steps)
        numbers = np.zeros(len(steps), np.int64)
        for kind, (of_kind, cumulated) in self._cumulated.items():
            mine = monolingual if kind == "monolingual" else ~monolingual
            choice = np.searchsorted(cumulated, places[mine], side="right")
            numbers[mine] = of_kind[np.minimum(choice, len(of_kind) - 1)]
        return numbers

    def at(self, step: int) -> tuple[int, int]:
        """The stream of a step, and how many earlier steps drew from the same one."""
        return self._draws.at(step)

    def batches_of_streams(self, first_step: int, last_step: int) -> np.ndarray:
        """How many of the batches of steps [first_step, last_step) each stream gives, (streams,) int64."""
        return np.bincount(self.stream_numbers(np.arange(first_step, last_step)), minlength=self._num_streams)
