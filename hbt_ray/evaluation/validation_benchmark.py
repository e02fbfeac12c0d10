"""The items that a store holds out from training, as a retrieval set: what configurations are chosen by.

Texts are token ids, written as numbers with blanks between them: the store has no other, and an encoder needs no
other. `model.TokenIdEmbedder` embeds them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.token_store import TextField, TokenStore
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import ConfigError

NAME = "held-out"


def build_validation_benchmark(store: TokenStore, languages: Sequence[str] | None, items: int) -> Benchmark:
    """The first held-out items of each source: a question's passage in every language is relevant to it.

    Query ids are `<language>:<source>:<item>`; so are passage ids, by the first item that has the passage.

    Args:
        languages: None: all.
        items: of each source, at most.

    Raises:
        ConfigError: nothing is held out.
    """
    into = BenchmarkBuilder(NAME)
    for name, source in store.manifest.sources.items():
        wanted = [language for language in source.languages if languages is None or language in languages]
        passage_of: dict[tuple[str, str], str] = {}
        for rows, have in _rows_by_languages(store, name, items):
            ids = store.item_ids(name, rows, "validation")
            groups = [f"{name}:{item}" for item in ids]
            relevant: dict[str, list[tuple[str, str]]] = {group: [] for group in groups}
            for language in (own for own in wanted if own in have):
                for group, text in zip(groups, _texts(store, name, "passage", language, rows), strict=True):
                    if (language, text) not in passage_of:
                        passage_of[language, text] = f"{language}:{group}"
                        into.add_passage(f"{language}:{group}", language, text, place=group)
                    relevant[group].append((passage_of[language, text], language))
            for language in (own for own in wanted if own in have):
                for group, text in zip(groups, _texts(store, name, "question", language, rows), strict=True):
                    into.add_query(f"{language}:{group}", language, text, place=group, group=group)
                    for passage_id, answered in relevant[group]:
                        into.judge(f"{language}:{group}", passage_id, 1, language=answered, place=group)
    if not into.queries:
        raise ConfigError(
            "no items are held out to choose by; write prepare.validation_share=0.05, or name a dev benchmark"
        )
    return into.benchmark(judged_only=False)


def _rows_by_languages(store: TokenStore, source: str, items: int) -> list[tuple[np.ndarray, tuple[str, ...]]]:
    """Runs of held-out rows, and the languages that each run has; no more than so many rows together."""
    runs = []
    row = 0
    groups = store.manifest.sources[source].groups
    for shard in store.manifest.sources[source].shards.get("validation", ()):
        for group, count in shard.runs:
            taken = min(count, items - row)
            if taken > 0:
                runs.append((np.arange(row, row + taken), groups[group].languages))
            row += count
    return runs


def _texts(store: TokenStore, source: str, side: TextField, language: str, rows: np.ndarray) -> list[str]:
    ids, lengths = store.take(source, side, language, rows, "validation")
    return [" ".join(map(str, own.tolist())) for own in np.split(ids, np.cumsum(lengths)[:-1])]
