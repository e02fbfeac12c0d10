"""What is kept of each question's ranking: the first passages, and the ranks of the relevant ones, with their texts.

A report has them as two tables, so that its page and `hbt explain` need neither the model nor the benchmark's files.

Legend: Q queries, K passages listed for each query, R relevant passages of the query that has most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hbt_ray.data.types import Benchmark
from hbt_ray.evaluation.metrics import average_precision
from hbt_ray.evaluation.retrieval_metrics import RetrievalMetrics
from hbt_ray.utils.display_text import shorten

LISTED = 5  # first passages of a question that are kept
TEXT_CHARS = 400  # of a text that is kept


@dataclass(frozen=True, slots=True)
class QuestionResults:
    """The questions of a benchmark with their results, and the passages that these name."""

    questions: pa.Table  # a row for each question; see `question_results` for the columns
    passages: pa.Table  # passage_id, language, text


def question_results(
    benchmark: Benchmark, result: RetrievalMetrics, first_passages: np.ndarray, scores: np.ndarray
) -> QuestionResults:
    """Collect the results of each question in the pool of all languages.

    Columns of the questions: query_id, language, text, average_precision, result_ids and result_scores of the first
    passages, and of the relevant ones relevant_ids (null: the pool lacks it), relevant_languages, relevant_ranks among
    all passages and relevant_language_ranks among those of its language (null: not found).

    Args:
        benchmark: the queries and passages. Texts are cut, and their control characters replaced.
        result: the relevant passages and their ranks.
        first_passages: (Q, K) indices of passages, -1 for none.
        scores: (Q, K) of these passages.
    """
    listed, of_listed = first_passages[:, :LISTED], scores[:, :LISTED]
    relevant = result.relevant
    ids = benchmark.columns.ids
    is_listed, is_relevant = listed >= 0, relevant.grades > 0
    questions = pa.table(
        {
            "query_id": pa.array([query.query_id for query in benchmark.queries], pa.string()),
            "language": pa.array([query.language for query in benchmark.queries], pa.string()),
            "text": pa.array([shorten(query.text, TEXT_CHARS) for query in benchmark.queries], pa.string()),
            "average_precision": average_precision(result.ranks),
            "result_ids": _lists(_ids_of(ids, listed[is_listed]), is_listed),
            "result_scores": _lists(pa.array(of_listed[is_listed].astype(np.float32)), is_listed),
            "relevant_ids": _lists(_ids_of(ids, relevant.passage_indices[is_relevant]), is_relevant),
            "relevant_languages": _lists(
                pa.array(relevant.passage_languages[is_relevant].tolist(), pa.string()), is_relevant
            ),
            "relevant_ranks": _lists(_known(result.ranks[is_relevant], 1), is_relevant),
            "relevant_language_ranks": _lists(_known(result.language_ranks[is_relevant], 1), is_relevant),
        }
    )
    used = np.union1d(listed[is_listed], relevant.passage_indices[relevant.passage_indices >= 0]).tolist()
    named = [benchmark.passages[index] for index in used]
    passages = pa.table(
        {
            "passage_id": pa.array([passage.passage_id for passage in named], pa.string()),
            "language": pa.array([passage.language for passage in named], pa.string()),
            "text": pa.array([shorten(passage.text, TEXT_CHARS) for passage in named], pa.string()),
        }
    )
    return QuestionResults(questions, passages)


def _ids_of(ids: Sequence[str], rows: np.ndarray) -> pa.Array:
    """Return the ids of some passages; null for an index of -1."""
    return pa.array([None if row < 0 else ids[row] for row in rows.tolist()], pa.string())


def _known(values: np.ndarray, lowest: int) -> pa.Array:
    """Return an integer array in which values below the lowest valid one are null."""
    return pa.array(values.astype(np.int64), pa.int64(), mask=values < lowest)


def _lists(values: pa.Array, is_present: np.ndarray) -> pa.ListArray:
    """Return Q lists of the values at the marked cells of (Q, K), row by row."""
    ends = np.cumsum(is_present.sum(axis=1))
    return pa.ListArray.from_arrays(np.concatenate([[0], ends]).astype(np.int32), values)
