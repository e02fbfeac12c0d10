"""The items that a token store holds out from training, as a benchmark by which a search compares configurations.

Texts are token ids, written as numbers separated by blanks, because the store has only these;
`text_embedder.TokenIdEmbedder` embeds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.manifest import TextField
from hbt_ray.data.token_store import TokenStore
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import ConfigError

NAME = "held-out"


def build_validation_benchmark(store: TokenStore, languages: Sequence[str] | None, items: int) -> Benchmark:
    """Build a benchmark of held-out items of each source; an item's passages in all languages are relevant.

    If there are more than `items`, the first of each group of languages are taken, in proportion to the groups' sizes.

    Query ids are `<language>:<source>:<item>`; so are passage ids, by the first item that has the passage.

    Args:
        store: the token store.
        languages: None: all.
        items: maximum number of each source.

    Raises:
        ConfigError: nothing is held out.
    """
    builder = BenchmarkBuilder(NAME)
    for name, source in store.manifest.sources.items():
        chosen = [language for language in source.languages if languages is None or language in languages]
        passage_of: dict[tuple[str, str], str] = {}
        for rows, row_languages in _rows_by_languages(store, name, items):
            ids = store.item_ids(name, rows, "validation")
            groups = [f"{name}:{item}" for item in ids]
            relevant: dict[str, list[tuple[str, str]]] = {group: [] for group in groups}
            for language in (one for one in chosen if one in row_languages):
                for group, text in zip(groups, _texts(store, name, "passage", language, rows), strict=True):
                    if (language, text) not in passage_of:
                        passage_of[language, text] = f"{language}:{group}"
                        builder.add_passage(f"{language}:{group}", language, text, location=group)
                    relevant[group].append((passage_of[language, text], language))
                    builder.link_question(group, language, text)
            for language in (one for one in chosen if one in row_languages):
                for group, text in zip(groups, _texts(store, name, "question", language, rows), strict=True):
                    builder.add_query(f"{language}:{group}", language, text, location=group, group=group)
                    for passage_id, passage_language in relevant[group]:
                        builder.add_judgement(
                            f"{language}:{group}", passage_id, 1, language=passage_language, location=group
                        )
    if not builder.queries:
        raise ConfigError(
            "no items are held out to choose by; write prepare.validation_share=0.05, or name a dev benchmark"
        )
    return builder.build(judged_only=False)


def _rows_by_languages(store: TokenStore, source: str, items: int) -> list[tuple[np.ndarray, tuple[str, ...]]]:
    """Return held-out rows by runs, with the languages of each; at most `items` in all, of each group its share."""
    of_source = store.manifest.sources[source]
    runs = [run for shard in of_source.shards.get("validation", ()) for run in shard.runs]
    sizes: Counter[int] = Counter()
    positions: list[np.ndarray] = []  # of the rows of each run in their group
    for group, count in runs:
        positions.append(np.arange(sizes[group], sizes[group] + count))
        sizes[group] += count
    # Of each group the same fraction, and at least one.
    fractions = [rows / sizes[group] for (group, _), rows in zip(runs, positions, strict=True)]
    chosen = np.sort(np.argsort(np.concatenate([[], *fractions]), kind="stable")[:items])
    ends = np.cumsum([count for _, count in runs])
    by_run = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    return [
        (rows, of_source.groups[group].languages) for (group, _), rows in zip(runs, by_run, strict=False) if len(rows)
    ]


def _texts(store: TokenStore, source: str, side: TextField, language: str, rows: np.ndarray) -> list[str]:
    ids, lengths = store.take(source, side, language, rows, "validation")
    return [" ".join(map(str, token_ids.tolist())) for token_ids in np.split(ids, np.cumsum(lengths)[:-1])]
