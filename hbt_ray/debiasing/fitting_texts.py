"""The texts that a removal of language is fitted on: equally many training items of each language of some corpora.

Legend: N texts of a side, L languages.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.config import CorpusConfig, PrepareConfig
from hbt_ray.data.components import find_components, item_keys, link_items, list_text_keys
from hbt_ray.data.corpora import CorpusShard, list_shards
from hbt_ray.data.prepare import count_items
from hbt_ray.data.row_tables import (
    ROWS,
    check_languages,
    check_rejects,
    count_rejects,
    count_rows,
    count_rows_read,
    find_duplicate_items,
    location_order,
    read_rows,
    rejects_of,
)
from hbt_ray.data.store_inputs import contents_of, index_evaluation_sets
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError
from hbt_ray.utils.counter_rng import Salt, stable_hash64
from hbt_ray.utils.progress import stage

logger = logging.getLogger(__name__)

FEW_ITEMS = 100  # of a language: with fewer, its mean vector is that of a few subjects

Item = tuple[str, str]  # source, item id
Texts = tuple[str, str]  # question, passage
ItemTexts = Mapping[str, Mapping[Item, Texts]]  # by language


@dataclass(frozen=True, slots=True)
class FittingTexts:
    """Question and passage of N / L items of each of L languages."""

    languages: tuple[str, ...]  # sorted
    labels: np.ndarray  # (N,) int64, the index in `languages`, ascending
    questions: list[str]
    passages: list[str]
    parallel_items: int  # of the chosen items, those in every language
    items_excluded: int  # because they occur in evaluation sets
    corpora: Mapping[str, str]  # name -> fingerprint of the files

    @property
    def items(self) -> int:
        """Return the number of items of each language."""
        return len(self.labels) // len(self.languages)


def read_fitting_texts(
    corpora: Sequence[CorpusConfig], items: int, seed: int = 0, evaluation_sets: Sequence[Benchmark] = ()
) -> FittingTexts:
    """Read corpora and choose the texts to fit on, as many of each language.

    1. Read, clean and decontaminate the rows as `hbt prepare` does.
    2. Leave out rejected rows, repeated items, items that occur in evaluation sets, and those that `hbt prepare` holds
       out of these corpora with its default settings.
    3. Choose items of each language (`choose_items`).

    A row of plain text is question and passage. All rows are in memory.

    Args:
        corpora: at least one; rows with equal source and id are translations.
        items: the maximum number of each language.
        seed: of the choice among equally parallel items.
        evaluation_sets: whose texts are left out.

    Raises:
        CorpusError: a corpus cannot be read or has one language only, or no item is left.
    """
    shards = [shard for corpus in corpora for shard in list_shards(corpus)]
    fingerprints = _fingerprints(shards)
    contents = [*(corpus.model_dump_json() for corpus in corpora), *fingerprints.values()]
    contents += [one.fingerprint() for one in evaluation_sets]
    by_language, items_excluded = _read_texts(_Inputs("\n".join(contents), corpora, shards, evaluation_sets))
    if not by_language:
        raise CorpusError("no item of the corpora is left to fit on; name more corpora, or exclude fewer texts")
    check_several_languages(by_language)
    # 3.
    chosen = choose_items(by_language, items, seed)
    languages = tuple(chosen)
    texts = [by_language[language][item] for language in languages for item in chosen[language]]
    number = len(chosen[languages[0]])
    fewest = min(languages, key=lambda language: len(by_language[language]))
    if number < min(items, FEW_ITEMS):
        logger.warning(
            "%s has only %s items, so %s of each language are used; leave it out with --languages, or add corpora",
            *(fewest, number, number),
        )
    return FittingTexts(
        languages,
        np.repeat(np.arange(len(languages)), number),
        [question for question, _ in texts],
        [passage for _, passage in texts],
        len(set.intersection(*map(set, chosen.values()))),
        items_excluded,
        fingerprints,
    )


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What texts are read from. Inputs of equal content are equal."""

    contents: str  # settings and fingerprints
    corpora: Sequence[CorpusConfig] = field(compare=False)
    shards: Sequence[CorpusShard] = field(compare=False)
    evaluation_sets: Sequence[Benchmark] = field(compare=False)


@functools.lru_cache(maxsize=1)  # a study removes the language from many encoders, with texts of the same corpora
def _read_texts(inputs: _Inputs) -> tuple[ItemTexts, int]:
    """Do steps 1 and 2 of `read_fitting_texts`; return the texts, and the number of items that were excluded."""
    corpora, shards = inputs.corpora, inputs.shards
    prepare = PrepareConfig()
    with stage("reading corpora"):
        # 1.
        evaluation = index_evaluation_sets(inputs.evaluation_sets, prepare.near_duplicate_threshold)
        rows = pa.concat_tables([ROWS.empty_table(), *read_rows(shards, evaluation)])
        counts, rejects = count_rows(rows), rejects_of(rows)
        check_rejects(count_rows_read(counts), rejects, 1.0, Path())  # only of unreadable files
        check_languages(corpora, counts)
        for source, number in count_rejects(rejects).items():
            logger.warning("%s: %s rows cannot be used; `hbt prepare` lists them", source, f"{number.total():,}")
        # 2.
        rows = rows.filter(pc.is_null(rows.column("rejected"))).combine_chunks()
        names = list(zip(rows.column("source").to_pylist(), rows.column("item_id").to_pylist(), strict=True))
        excluded = set(itertools.compress(names, rows.column("occurs_in_evaluation").is_valid().to_pylist()))
        repeated = find_duplicate_items(rows.select(["pair_key", "source", "item_id"])).to_pylist()
        left_out = excluded | {(one["source"], one["item_id"]) for one in repeated}
        is_kept = [name not in left_out for name in names]
        kept = rows.filter(pa.array(is_kept, pa.bool_()))
        components = find_components([link_items(list_text_keys(kept))])
        is_held_out = components.held_out(item_keys(kept), prepare.validation_share, count_items(count_rows(kept)))
        left_out |= set(itertools.compress(itertools.compress(names, is_kept), is_held_out.tolist()))
        return _texts_by_language(rows, names, left_out), len(excluded)


def check_several_languages(languages: Collection[str | None]) -> None:
    """Raise CorpusError if corpora have one language only; None: rows name theirs, which are not known yet."""
    if len(languages) == 1 and None not in languages:
        raise CorpusError(
            f"the corpora have one language only, {next(iter(languages))}, and a language is removed by comparing it "
            "with others; name corpora of two languages or more"
        )


def choose_items(by_language: ItemTexts, items: int, seed: int) -> dict[str, list[Item]]:
    """Choose the items of each language: those in most languages first, so that languages have the same content.

    Every language gets as many as the language with the fewest has, `items` at most. Among items in equally many
    languages the choice is random, and the same in each language.
    """
    languages_of = Counter(item for texts in by_language.values() for item in texts)

    def order(item: Item) -> tuple[int, int, Item]:
        return -languages_of[item], stable_hash64(seed, Salt.FITTING_ITEM, *item), item

    number = min(items, *map(len, by_language.values()))
    return {language: sorted(by_language[language], key=order)[:number] for language in sorted(by_language)}


def _texts_by_language(rows: pa.Table, names: Sequence[Item], left_out: set[Item]) -> ItemTexts:
    """Return the texts of each language's items; of several rows of an item the first, as in `prepare.make_shard`."""
    columns = (rows.column(name).to_pylist() for name in ("language", "question", "passage", "place"))
    found: dict[str, dict[Item, tuple[tuple[str, int], Texts]]] = defaultdict(dict)
    for item, language, question, passage, place in zip(names, *columns, strict=True):
        if item not in left_out:
            row = (location_order(place), (question or passage, passage))
            found[language][item] = min(row, found[language].get(item, row))
    return {language: {item: texts for item, (_, texts) in of.items()} for language, of in found.items()}


def _fingerprints(shards: Sequence[CorpusShard]) -> dict[str, str]:
    """Return 16 hex digits of the content of each source's files, by its name; paths do not matter."""
    contents: dict[str, list[str]] = defaultdict(list)
    for shard, files in zip(shards, contents_of(shards), strict=True):
        contents[shard.source] += [checksum for _, checksum in files]
    return {
        source: hashlib.sha256(json.dumps(checksums).encode()).hexdigest()[:16]
        for source, checksums in contents.items()
    }
