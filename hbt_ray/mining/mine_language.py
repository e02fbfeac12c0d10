"""Mining of one language."""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from hbt_ray.data.decontamination import is_near_duplicate
from hbt_ray.data.text_normalization import normalize_for_matching
from hbt_ray.evaluation.constant_vectors import constant_vector_warning
from hbt_ray.evaluation.evaluator import Embedder
from hbt_ray.mining.corpus_rows import LanguageRows
from hbt_ray.mining.negative_selection import candidate_pool, hard_negatives, text_keys
from hbt_ray.mining.output_dir import MiningRun, storage_errors
from hbt_ray.retrieval.exact_scores import check_vectors, exact_scores
from hbt_ray.retrieval.passage_windows import window_passages
from hbt_ray.utils.atomic_write import atomic_file
from hbt_ray.utils.digests import file_checksums, with_checksum
from hbt_ray.utils.storage import StoragePath

_CACHED_TEXTS = 1 << 14  # normalised: passages that rank first for one question do so for others


def mine_language(mining: MiningRun, language: str, embed: Embedder) -> None:
    """Mine the negatives of a language and write its files.

    1. Read the rows, and collect the passages that may be negatives, each distinct text once.
    2. Embed the distinct questions and passages.
    3. Select the negatives of each question.
    4. Write the rows with their negatives, a file for each source.
    5. Write the summary; its existence means that the language is finished.

    Raises:
        StorageError: they cannot be written.
        UserError: the vectors hold NaN.
    """
    started = time.perf_counter()
    # 1. Rows and candidates
    rows = LanguageRows.read(mining.partial, language)
    pool_rows = candidate_pool(text_keys("passage", rows.passages), rows.trained_on)
    pool_components = rows.components[pool_rows]
    normalized = functools.lru_cache(_CACHED_TEXTS)(lambda row: normalize_for_matching(rows.passages[row]))

    def is_known(row: int, candidates: np.ndarray) -> np.ndarray:
        known: np.ndarray = pool_components[candidates] == rows.components[row]
        return known

    def is_near(row: int, candidate: int) -> bool:
        return is_near_duplicate(
            normalized(row), normalized(int(pool_rows[candidate])), mining.near_duplicate_threshold
        )

    # 2. Vectors
    question_vectors, question_rows = _embed_distinct(embed.queries, rows.questions)
    passage_vectors, passage_rows = _embed_distinct(embed.passages, rows.passages)
    check_vectors(question_vectors, passage_vectors)
    queries, pool = question_vectors[question_rows], passage_vectors[passage_rows[pool_rows]]
    effect = "the negatives are those that ties put first"
    constant = [
        constant_vector_warning("queries", rows.questions, queries.__getitem__, effect),
        constant_vector_warning("passages", [rows.passages[row] for row in pool_rows], pool.__getitem__, effect),
    ]
    warnings = [warning for warning in constant if warning is not None]
    # 3. Negatives
    positive_scores = exact_scores(queries, passage_vectors, np.arange(len(queries)), passage_rows)
    found, scores = hard_negatives(queries, positive_scores, pool, mining.settings, is_known, is_near)
    negatives = [[rows.passages[row] for row in pool_rows[indices[indices >= 0]]] for indices in found]
    # 4. Files
    files = []
    with storage_errors(mining.out):
        for source, source_rows in itertools.groupby(range(len(negatives)), key=rows.sources.__getitem__):
            file = mining.file_of(source, language)
            _write_records(file, _records(rows, negatives, language, source_rows))
            files.append(str(file.relative_to(mining.out)))
    # 5. Summary
    summary = {
        "items": len(negatives),
        "items_held_out": int(np.count_nonzero(~rows.trained_on)),
        "items_with_fewer": int(np.count_nonzero((found < 0).any(axis=1))),
        "passages": len(pool),
        "negatives": int(np.count_nonzero(found >= 0)),
        "mean_gold_score": _mean(positive_scores),
        "mean_negative_score": _mean(scores[found >= 0]),
        "seconds": time.perf_counter() - started,
        "warnings": warnings,
        "files": file_checksums(mining.out, files),
    }
    StoragePath.of(mining.summary_of(language)).write_text(with_checksum(summary))


def _embed_distinct(
    embed: Callable[[Sequence[str]], np.ndarray], texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of the distinct texts, and the row of each text in them; equal texts tie exactly."""
    windows = window_passages(texts, None)
    vectors = [np.asarray(embed(chunk), np.float32) for chunk in windows.chunks() or [[]]]
    return np.concatenate(vectors), windows.rows


def _mean(scores: np.ndarray) -> float | None:
    return float(scores.mean(dtype=np.float64)) if len(scores) else None


def _records(
    rows: LanguageRows, negatives: Sequence[Sequence[str]], language: str, row_indices: Iterable[int]
) -> Iterator[dict[str, object]]:
    for row in row_indices:
        record: dict[str, object] = {
            "id": rows.item_ids[row],
            "language": language,
            "question": rows.questions[row],
            "context": rows.passages[row],
            "negatives": negatives[row],
        }
        if rows.answers[row] is not None:
            record |= {"answer_text": rows.answers[row], "answer_start": rows.answer_starts[row]}
        yield record


def _write_records(file: Path, records: Iterable[dict[str, object]]) -> None:
    """Write JSON Lines; the file exists complete or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as partial, partial.open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
