"""Whether texts were trained on: places in the store, and the steps that drew them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hbt_ray.data.manifest import StoreManifest
from hbt_ray.data.text_search import TextPlace, find_texts
from hbt_ray.data.token_store import TokenStore
from hbt_ray.data.tokenizer import PairTokenizer
from hbt_ray.sampling.hybrid_sampler import BatchSpec
from hbt_ray.training.training_record import TrainingRecord
from hbt_ray.utils.progress import track


@dataclass(frozen=True, slots=True)
class Use:
    """A place of a text in the store, and how often a training drew it."""

    place: TextPlace
    item: str  # id in the corpus
    times: int = 0
    first_step: int | None = None  # counted from 0


@dataclass(frozen=True, slots=True)
class TextUse:
    """A text, and where it is in the store."""

    text: str
    uses: tuple[Use, ...]  # those that were drawn first

    @property
    def verdict(self) -> str:
        """Whether it was trained on."""
        if any(use.times for use in self.uses):
            return "trained on" if any(use.times and use.place.whole for use in self.uses) else "trained on, as a part"
        if not self.uses:
            return "not found"
        held_out = all(use.place.split == "validation" for use in self.uses)
        return "held out" if held_out else "in the store, not drawn"


def verify_texts(
    record: TrainingRecord, store: TokenStore, tokenizer: PairTokenizer, texts: Sequence[str]
) -> list[TextUse]:
    """Find out which texts a model was trained on.

    1. Find each text in the store (`find_texts`).
    2. Draw every batch of the training again, and count those with a place of a text.

    Args:
        record: of the model.
        store: that the model was trained on.
        tokenizer: of the store.
        texts: whole texts, or parts of passages of at least 8 tokens.

    Returns:
        For each text its places.
    """
    places = find_texts(store, tokenizer, texts)
    uses = {place: Use(place, store.item_ids(place.source, np.array([place.row]), place.split)[0]) for place in places}
    for place, batch in _draws(record, store.manifest, places):
        step = batch // record.batches_per_step
        use = uses[place]
        uses[place] = replace(use, times=use.times + 1, first_step=step if use.first_step is None else use.first_step)
    of_text: dict[int, list[Use]] = defaultdict(list)
    for use in sorted(uses.values(), key=lambda use: (-use.times, not use.place.whole)):
        of_text[use.place.text].append(use)
    return [TextUse(text, tuple(of_text[number])) for number, text in enumerate(texts)]


def _draws(
    record: TrainingRecord, manifest: StoreManifest, places: Sequence[TextPlace]
) -> Iterable[tuple[TextPlace, int]]:
    """Yield each place with the number of each batch that has it."""
    by_row: dict[tuple[str, int], list[TextPlace]] = defaultdict(list)
    for place in places:
        if place.split == "train":
            by_row[place.source, place.row].append(place)
    rows = {source: np.array([row for name, row in by_row if name == source]) for source, _ in by_row}
    if not rows:
        return
    sampler = record.sampler(manifest)
    for number in track(range(record.batches), "drawing the batches again", "batches"):
        spec = sampler.batch(number)
        if spec.source in rows:
            for pair in np.flatnonzero(np.isin(spec.rows, rows[spec.source])).tolist():
                for place in by_row[spec.source, int(spec.rows[pair])]:
                    if _has(spec, pair, place):
                        yield place, number


def _has(spec: BatchSpec, pair: int, place: TextPlace) -> bool:
    """Return whether a pair of a batch has a text of its item."""
    passages = spec.passage_languages[pair * spec.positives : (pair + 1) * spec.positives]
    if place.side == "question":
        return place.language in (spec.query_languages[pair], spec.second_languages[pair])
    if place.side == "passage":
        return bool((passages == place.language).any())
    language = passages[0] if spec.positives == 1 else spec.query_languages[pair]
    return place.negative < spec.hard_negatives and bool(language == place.language)
