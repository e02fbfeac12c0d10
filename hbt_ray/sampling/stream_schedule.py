"""The schedule: which stream each step draws from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hbt_ray.sampling.batch_kinds import BatchKind, monolingual_probability
from hbt_ray.sampling.draw_counts import IndexedDraws
from hbt_ray.sampling.streams import SamplerInputs, Stream
from hbt_ray.utils.counter_rng import Salt, random_uniforms, stable_hash64


class StreamSchedule:
    """Draw the stream of each step.

    1. Draw the batch kind: monolingual with probability alpha(step), otherwise the other kind of the mix.
    2. Draw a stream of this kind with the streams' probabilities.

    Both are functions of (seed, step), so a step's stream needs no earlier step. Only its ordinal does.

    Args:
        inputs: of the sampler.
        streams: all streams; a stream's number is its position here.
        probabilities: (streams,) probability of each stream, given its batch kind.
    """

    def __init__(self, inputs: SamplerInputs, streams: Sequence[Stream], probabilities: np.ndarray) -> None:
        self._mix = inputs.mix
        self._num_streams = len(streams)
        # Batch kind -> the numbers of its streams, and their cumulative probabilities.
        self._cumulative: dict[BatchKind, tuple[np.ndarray, np.ndarray]] = {}
        for batch_kind in dict.fromkeys(stream.kind for stream in streams):
            numbers = np.array([number for number, stream in enumerate(streams) if stream.kind == batch_kind])
            cumulative = np.cumsum(probabilities[numbers])
            self._cumulative[batch_kind] = (numbers, cumulative / cumulative[-1])
        self._kind_key = stable_hash64(inputs.seed, Salt.KIND)
        self._stream_key = stable_hash64(inputs.seed, Salt.STREAM)
        self._draws = IndexedDraws(self.stream_numbers, len(streams))

    def stream_numbers(self, steps: np.ndarray) -> np.ndarray:
        """Return the number of the stream that each step draws from, (N,) -> (N,)."""
        # 1. Batch kind
        is_monolingual = random_uniforms(self._kind_key, steps) < monolingual_probability(self._mix, steps)
        # 2. Stream
        draws = random_uniforms(self._stream_key, steps)
        drawn = np.zeros(len(steps), np.int64)
        for batch_kind, (numbers, cumulative) in self._cumulative.items():
            of_kind = is_monolingual if batch_kind == "monolingual" else ~is_monolingual
            positions = np.searchsorted(cumulative, draws[of_kind], side="right")
            drawn[of_kind] = numbers[np.minimum(positions, len(numbers) - 1)]
        return drawn

    def at(self, step: int) -> tuple[int, int]:
        """Return the number of a step's stream, and how many earlier steps drew from the same stream."""
        return self._draws.at(step)

    def batches_per_stream(self, first_step: int, last_step: int) -> np.ndarray:
        """Return how many of the steps [first_step, last_step) draw from each stream, (streams,) int64."""
        return np.bincount(self.stream_numbers(np.arange(first_step, last_step)), minlength=self._num_streams)
