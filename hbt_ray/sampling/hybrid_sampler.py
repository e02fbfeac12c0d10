"""The order of training: streams, their schedule, epochs and languages put together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hbt_ray.config import MixConfig
from hbt_ray.data.token_store import Split, StoreManifest
from hbt_ray.errors import ConfigError
from hbt_ray.sampling.batch_kinds import BatchKind, monolingual_probability
from hbt_ray.sampling.epoch_shuffle import EpochShuffler
from hbt_ray.sampling.language_sampler import LanguageSampler
from hbt_ray.sampling.stream_schedule import StreamSchedule
from hbt_ray.sampling.streams import SamplerInputs, build_streams


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """The pairs of one global batch, or of a part of it, before any of their text is read.

    A pair of kind "one-to-k" is a question with K passages; of any other kind K is 1.
    """

    step: int
    kind: BatchKind
    source: str
    split: Split
    epoch: int  # of the stream, at the batch's first pair
    rows: np.ndarray  # (B,) item rows of the source, each once
    query_languages: np.ndarray  # (B,) str
    second_languages: np.ndarray  # (B,) str, in which each question is asked once more; "" where it is not
    passage_languages: np.ndarray  # (B * K,) str: those of pair 0, of pair 1, ...
    positives: int  # K
    hard_negatives: int  # per pair
    first_pair: int  # place of the first of the B pairs in the global batch
    global_pairs: int  # G


class HybridBatchSampler:
    """The order of training.

    Args:
        manifest: what the store holds.
        mix: how batches are composed.
        seed: the order's seed.
        global_batch_pairs: G.
        languages: restricts the plan to these languages; None takes all.
        second_questions: each question is asked in a second language as well, where its item has one.

    Raises:
        ConfigError: a language is not in the store, or no source can serve what is asked for.
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
        second_questions: bool = False,
    ) -> None:
        unknown = sorted(set(languages or ()) - set(manifest.languages))
        if unknown:
            raise ConfigError(
                f"language {unknown[0]!r} is not in the corpora; there are {', '.join(manifest.languages)}"
            )
        self.mix = mix
        self.global_batch_pairs = global_batch_pairs
        self.languages = tuple(languages or manifest.languages)
        self.split: Split = split
        self.second_questions = second_questions
        terms = SamplerInputs(manifest, mix, seed, global_batch_pairs, self.languages, split, second_questions)
        self.streams, self._shares_of_kind = build_streams(terms)
        self._schedule = StreamSchedule(terms, self.streams, self._shares_of_kind)
        self._epochs = EpochShuffler(self.streams, global_batch_pairs)
        self._languages = LanguageSampler(terms)

    def batch(self, step: int, part: slice | None = None) -> BatchSpec:
        """The global batch of a step, for any step >= 0, in any order of calls.

        Args:
            part: the pairs that are asked for, such as a rank's by `rank_slice`; no others are worked out. None: all.
        """
        start, stop, _ = (part or slice(None)).indices(self.global_batch_pairs)
        number, ordinal = self._schedule.at(step)
        stream = self.streams[number]
        items = self._epochs.items(number, ordinal, start, stop)
        if stream.languages is None:
            query_languages, passage_languages = self._languages.pairs(stream, ordinal, start, items)
        else:
            query_languages, passage_languages = (np.full(len(items), x) for x in stream.languages)
        if stream.kind == "one-to-k":
            passage_languages = self._languages.positives(stream, ordinal, start, items).ravel()
        second_languages = np.full(len(items), "")
        if self.second_questions:
            second_languages = self._languages.seconds(stream, ordinal, start, items, query_languages)
        return BatchSpec(
            step,
            stream.kind,
            stream.source,
            self.split,
            self._epochs.begin(number, ordinal)[0],
            stream.rows_of(items),
            query_languages,
            second_languages,
            passage_languages,
            self.mix.positive_languages if stream.kind == "one-to-k" else 1,
            self.mix.hard_negatives,
            start,
            self.global_batch_pairs,
        )

    # What an order amounts to

    def batches_of_streams(self, first_step: int, last_step: int) -> np.ndarray:
        """How many of the batches of steps [first_step, last_step) each stream gives, (streams,) int64."""
        return self._schedule.batches_of_streams(first_step, last_step)

    def intended_mix(self, first_step: int, last_step: int) -> dict[str, dict[str, float]]:
        """Probabilities of a batch's kind, source and languages, a mean over steps [first_step, last_step)."""
        monolingual = float(
            monolingual_probability(self.mix, np.arange(first_step, max(last_step, first_step + 1))).mean()
        )
        shares = {"monolingual": monolingual, "cross-lingual": 1 - monolingual}  # the other kinds stand alone
        return self._mix(self._shares_of_kind * np.array([shares.get(stream.kind, 1.0) for stream in self.streams]))

    def realised_mix(self, first_step: int, last_step: int) -> dict[str, dict[str, float]]:
        """Shares of the batches of steps [first_step, last_step) by kind, source and languages."""
        return self._mix(self.batches_of_streams(first_step, last_step) / max(last_step - first_step, 1))

    def _mix(self, shares: np.ndarray) -> dict[str, dict[str, float]]:
        """Shares of the streams, (streams,), added up by what the streams have in common."""
        mix: dict[str, dict[str, float]] = {"kind": {}, "source": {}, "languages": {}}
        for stream, share in zip(self.streams, shares.tolist(), strict=True):
            languages = "-".join(stream.languages) if stream.languages else "mixed"
            for of, value in (("kind", stream.kind), ("source", stream.source), ("languages", languages)):
                mix[of][value] = mix[of].get(value, 0.0) + share
        return mix
