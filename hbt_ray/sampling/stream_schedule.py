"""The schedule: which stream each step draws from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hbt_ray.sampling.batch_kinds import BatchKind, monolingual_probability, phase_numbers
from hbt_ray.sampling.draw_counts import IndexedDraws
from hbt_ray.sampling.streams import SamplerInputs, Stream
from hbt_ray.utils.counter_rng import Salt, random_uniforms, stable_hash64


class StreamSchedule:
    """Draw the stream of each step.

    1. Draw the batch kind: monolingual with probability alpha(step), otherwise the other kind of the mix.
    2. Draw a stream of this kind with the streams' probabilities in the step's phase.

    Both are functions of (seed, step), so a step's stream needs no earlier step. Only its ordinal does.

    Args:
        inputs: of the sampler.
        streams: all streams; a stream's number is its position here.
        probabilities: (phases, streams) probability of each stream, given its batch kind.
    """

    def __init__(self, inputs: SamplerInputs, streams: Sequence[Stream], probabilities: np.ndarray) -> None:
        self._mix = inputs.mix
        self._num_streams = len(streams)
        # Batch kind -> the numbers of its streams, and their cumulative probabilities in each phase.
        self._cumulative: dict[BatchKind, tuple[np.ndarray, np.ndarray]] = {}
        for batch_kind in dict.fromkeys(stream.kind for stream in streams):
            numbers = np.array([number for number, stream in enumerate(streams) if stream.kind == batch_kind])
            cumulative = np.cumsum(probabilities[:, numbers], axis=1)
            self._cumulative[batch_kind] = (numbers, cumulative / cumulative[:, -1:])
        self._kind_key = stable_hash64(inputs.seed, Salt.KIND)
        self._stream_key = stable_hash64(inputs.seed, Salt.STREAM)
        self._draws = IndexedDraws(self.stream_numbers, len(streams))

    def stream_numbers(self, steps: np.ndarray) -> np.ndarray:
        """Return the number of the stream that each step draws from, (N,) -> (N,)."""
        # 1. Batch kind
        is_monolingual = random_uniforms(self._kind_key, steps) < monolingual_probability(self._mix, steps)
        # 2. Stream
        draws, phases = random_uniforms(self._stream_key, steps), phase_numbers(self._mix, steps)
        drawn = np.zeros(len(steps), np.int64)
        for batch_kind, (numbers, by_phase) in self._cumulative.items():
            is_kind = is_monolingual if batch_kind == "monolingual" else ~is_monolingual
            for phase, cumulative in enumerate(by_phase):
                chosen = is_kind & (phases == phase)
                positions = np.searchsorted(cumulative, draws[chosen], side="right")
                drawn[chosen] = numbers[np.minimum(positions, len(numbers) - 1)]
        return drawn

    def at(self, step: int) -> tuple[int, int]:
        """Return the number of a step's stream, and how many earlier steps drew from the same stream."""
        return self._draws.at(step)

    def batches_per_stream(self, first_step: int, last_step: int) -> np.ndarray:
        """Return how many of the steps [first_step, last_step) draw from each stream, (streams,) int64."""
        return np.bincount(self.stream_numbers(np.arange(first_step, last_step)), minlength=self._num_streams)
