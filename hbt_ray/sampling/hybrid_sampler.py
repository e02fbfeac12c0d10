"""The hybrid batch sampler: schedule, epochs and languages put together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hbt_ray.config import MixConfig
from hbt_ray.data.manifest import Split, StoreManifest
from hbt_ray.sampling.base import StepSampler
from hbt_ray.sampling.batch_kinds import BatchKind, monolingual_probability, phase_numbers
from hbt_ray.sampling.epoch_shuffle import EpochShuffler
from hbt_ray.sampling.language_sampler import LanguageSampler
from hbt_ray.sampling.stream_schedule import StreamSchedule
from hbt_ray.sampling.streams import SamplerInputs, build_streams


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """The pairs of a global batch, or of a part of it, before any text is read.

    A pair of kind "one-to-k" is a query with K passages; K is 1 for the other kinds.
    """

    step: int
    kind: BatchKind
    source: str
    split: Split
    epoch: int  # of the stream, at the batch's first pair
    rows: np.ndarray  # (B,) item rows of the source, all distinct
    query_languages: np.ndarray  # (B,) str
    second_languages: np.ndarray  # (B,) str, of each query's translation; "" if there is none
    passage_languages: np.ndarray  # (B * K,) str, ordered by pair
    positives: int  # K
    hard_negatives: int  # per pair
    first_pair: int  # position of the first of the B pairs in the global batch
    global_pairs: int  # G


class HybridStepSampler(StepSampler[BatchSpec]):
    """Draw batches of question-passage pairs: monolingual with probability alpha, otherwise cross-lingual.

    Step s is computed as follows:

    1. Draw the stream of step s, and count how many earlier steps drew from it: the batch's ordinal in the stream.
    2. Take the ordinal's part of the stream's shuffled epochs: the items.
    3. Draw the languages that the stream does not fix: of pairs, of several positives, of query translations.
    4. Convert item numbers to rows of the source.

    Args:
        manifest: contents of the token store.
        mix: composition of the batches.
        seed: of all draws.
        global_batch_pairs: G.
        languages: languages to draw from; None: all languages of the store.
        split: of the store.
        with_query_translations: also draw a second language for each query, if its item has one.

    Raises:
        ConfigError: a language is not in the store, or no source has the items for a batch kind of the mix.
    """

    def __init__(
        self,
        manifest: StoreManifest,
        mix: MixConfig,
        *,
        seed: int,
        global_batch_pairs: int,
        languages: tuple[str, ...] | None = None,
        split: Split = "train",
        with_query_translations: bool = False,
    ) -> None:
        super().__init__(manifest, languages, global_batch_pairs)
        self.mix = mix
        self.split: Split = split
        self.with_query_translations = with_query_translations
        inputs = SamplerInputs(manifest, mix, seed, global_batch_pairs, self.languages, split, with_query_translations)
        self.streams, self._probabilities = build_streams(inputs)
        self._schedule = StreamSchedule(inputs, self.streams, self._probabilities)
        self._epochs = EpochShuffler(self.streams, global_batch_pairs)
        mixes = [constant for _, constant in mix.constant_mixes]
        self._languages = [LanguageSampler(replace(inputs, mix=constant)) for constant in mixes]  # by phase

    def _draw(self, step: int, start: int, stop: int) -> BatchSpec:
        # 1. Stream
        number, ordinal = self._schedule.at(step)
        stream = self.streams[number]
        # 2. Items
        items = self._epochs.items(number, ordinal, start, stop)
        # 3. Languages
        languages = self._languages[int(phase_numbers(self.mix, np.array([step]))[0])]
        if stream.languages is None:
            query_languages, passage_languages = languages.language_pairs(stream, ordinal, start, items)
        else:
            query_languages, passage_languages = (np.full(len(items), x) for x in stream.languages)
        if stream.kind == "one-to-k":
            passage_languages = languages.positive_languages(stream, ordinal, start, items).ravel()
        second_languages = np.full(len(items), "")
        if self.with_query_translations:
            second_languages = languages.translation_languages(stream, ordinal, start, items, query_languages)
        return BatchSpec(
            step=step,
            kind=stream.kind,
            source=stream.source,
            split=self.split,
            epoch=self._epochs.epoch_and_offset(number, ordinal)[0],
            rows=stream.rows_of(items),  # 4.
            query_languages=query_languages,
            second_languages=second_languages,
            passage_languages=passage_languages,
            positives=self.mix.positive_languages if stream.kind == "one-to-k" else 1,
            hard_negatives=self.mix.hard_negatives,
            first_pair=start,
            global_pairs=self.global_batch_size,
        )

    # Statistics of a range of steps

    def batches_per_stream(self, first_step: int, last_step: int) -> np.ndarray:
        """Return how many of the steps [first_step, last_step) draw from each stream, (streams,) int64."""
        return self._schedule.batches_per_stream(first_step, last_step)

    def intended_mix(self, first_step: int, last_step: int) -> dict[str, dict[str, float]]:
        """Return the probability of each batch kind, source and language pair, a mean over [first_step, last_step)."""
        steps = np.arange(first_step, max(last_step, first_step + 1))
        monolingual = monolingual_probability(self.mix, steps)
        probabilities = np.zeros(len(self.streams))
        for phase, of_phase in enumerate(self._probabilities):
            in_phase = phase_numbers(self.mix, steps) == phase
            of_kind = {
                "monolingual": (monolingual * in_phase).mean(),
                "cross-lingual": ((1 - monolingual) * in_phase).mean(),
            }  # others are never mixed
            probabilities += of_phase * [of_kind.get(stream.kind, in_phase.mean()) for stream in self.streams]
        return self._marginals(probabilities)

    def realised_mix(self, first_step: int, last_step: int) -> dict[str, dict[str, float]]:
        """Return the fraction of the steps [first_step, last_step) of each batch kind, source and language pair."""
        return self._marginals(self.batches_per_stream(first_step, last_step) / max(last_step - first_step, 1))

    def _marginals(self, fractions: np.ndarray) -> dict[str, dict[str, float]]:
        """Sum the fractions of streams, (streams,), by batch kind, by source and by languages."""
        mix: dict[str, dict[str, float]] = {"kind": {}, "source": {}, "languages": {}}
        for stream, fraction in zip(self.streams, fractions.tolist(), strict=True):
            languages = "-".join(stream.languages) if stream.languages else "mixed"
            for attribute, value in (("kind", stream.kind), ("source", stream.source), ("languages", languages)):
                mix[attribute][value] = mix[attribute].get(value, 0.0) + fraction
        return mix
