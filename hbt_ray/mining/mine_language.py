"""The negatives of one language."""

from __future__ import annotations

import functools
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hbt_ray.data.decontamination import is_near_duplicate
from hbt_ray.data.text_normalization import normalize_for_matching
from hbt_ray.evaluation.evaluator import Embedder
from hbt_ray.mining.corpus_rows import LanguageRows, known_texts
from hbt_ray.mining.negative_selection import KnownPositives, hard_negatives, pool_of, text_keys
from hbt_ray.mining.output_dir import MiningRun, told
from hbt_ray.retrieval.exact_scores import check_vectors, exact_scores
from hbt_ray.retrieval.passage_windows import window_passages
from hbt_ray.utils.storage import StoragePath

_CACHED_TEXTS = 1 << 14  # normalised: what comes first for one question does so for others


def mine_language(mining: MiningRun, language: str, embed: Embedder) -> None:
    """Leaves the files of a language, and then says that it is finished.

    Raises:
        StorageError: they cannot be written.
        UserError: the vectors hold NaN.
    """
    started = time.perf_counter()
    rows = LanguageRows.read(mining.partial, language)
    pool_rows, columns = pool_of(text_keys("passage", rows.passages), rows.trained_on)
    known = KnownPositives(*known_texts(mining.partial), rows.items, columns)
    normal = functools.lru_cache(_CACHED_TEXTS)(lambda row: normalize_for_matching(rows.passages[row]))

    def is_near(row: int, column: int) -> bool:
        return is_near_duplicate(normal(row), normal(int(pool_rows[column])), mining.near_duplicate_threshold)

    question_vectors, question_places = _embedded(embed.queries, rows.questions)
    passage_vectors, passage_places = _embedded(embed.passages, rows.passages)
    check_vectors(question_vectors, passage_vectors)
    queries, pool = question_vectors[question_places], passage_vectors[passage_places[pool_rows]]
    own_scores = exact_scores(queries, passage_vectors, np.arange(len(queries)), passage_places)
    found, scores = hard_negatives(queries, own_scores, pool, mining.settings, known.of, is_near)
    negatives = [[rows.passages[row] for row in pool_rows[line[line >= 0]]] for line in found]
    with told(mining.out):
        for source, own in itertools.groupby(range(len(negatives)), key=rows.sources.__getitem__):
            _write_records(mining.file_of(source, language), _records(rows, negatives, language, own))
    summary = {
        "items": len(negatives),
        "items_held_out": int(np.count_nonzero(~rows.trained_on)),
        "items_with_fewer": int(np.count_nonzero((found < 0).any(axis=1))),
        "passages": len(pool),
        "negatives": int(np.count_nonzero(found >= 0)),
        "mean_gold_score": _mean(own_scores),
        "mean_negative_score": _mean(scores[found >= 0]),
        "seconds": time.perf_counter() - started,
    }
    StoragePath.of(mining.summary_of(language)).write_text(json.dumps(summary))


def _embedded(embed: Callable[[Sequence[str]], np.ndarray], texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the texts that differ, and of each text its place among them, so that equal texts tie."""
    pieces = window_passages(texts, None)
    vectors = [np.asarray(embed(chunk), np.float32) for chunk in pieces.chunks() or [[]]]
    return np.concatenate(vectors), pieces.rows


def _mean(scores: np.ndarray) -> float | None:
    return float(scores.mean(dtype=np.float64)) if len(scores) else None


def _records(
    rows: LanguageRows, negatives: Sequence[Sequence[str]], language: str, own: Iterable[int]
) -> Iterator[dict[str, Any]]:
    for row in own:
        record: dict[str, Any] = {
            "id": rows.item_ids[row],
            "language": language,
            "question": rows.questions[row],
            "context": rows.passages[row],
            "negatives": negatives[row],
        }
        if rows.answers[row] is not None:
            record |= {"answer_text": rows.answers[row], "answer_start": rows.answer_starts[row]}
        yield record


def _write_records(file: Path, records: Iterable[dict[str, Any]]) -> None:
    """JSON Lines that are there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as lines:
            lines.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
