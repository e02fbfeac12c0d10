"""A report in the format of mteb's result files."""

from __future__ import annotations

import numpy as np

from hbt_ray.evaluation.evaluator import EvalReport
from hbt_ray.evaluation.metrics import METRICS

_FAMILIES = ("ndcg", "map", "recall", "precision", "mrr", "hit_rate")  # of scores, in the order of mteb's own files
MAIN_SCORE = "ndcg_at_10"  # of mteb's retrieval tasks


def mteb_result(report: EvalReport, model: object = None) -> dict[str, object]:
    """Build one subset for each language (`de`), ordered pair (`de-en`) and pool of all languages (`de-multi`).

    As in mteb, a subset's scores are means over its queries. `map` has no cut-off, unlike mteb's `map_at_k`.
    """
    table = report.per_query
    languages = table["language"].to_pylist()
    passage_languages = table["passage_language"].to_pylist()
    settings = table["setting"].to_pylist()
    rows: dict[tuple[str, str | None, str], list[int]] = {}
    for row, key in enumerate(zip(languages, passage_languages, settings, strict=True)):
        rows.setdefault(key, []).append(row)
    columns = _score_columns()
    values = {column: table[column].to_numpy() for column in columns.values()}
    subsets = []
    for (query_language, passage_language, setting), of_subset in rows.items():
        scores = {name: float(np.mean(values[column][of_subset])) for name, column in columns.items()}
        subset = {
            "mono": query_language,
            "cross": f"{query_language}-{passage_language}",
            "multi": f"{query_language}-multi",
        }[setting]
        searched = [passage_language] if passage_language else report.languages
        subset_languages = list(dict.fromkeys([query_language, *searched]))
        subsets.append({"hf_subset": subset, "languages": subset_languages, **scores, "main_score": scores[MAIN_SCORE]})
    return {
        "task_name": report.benchmark,
        "dataset_revision": report.fingerprint,
        "mteb_version": None,  # mteb did not compute this
        "model": model,
        "scores": {report.split or "test": subsets},
        "evaluation_time": report.embed_seconds + report.rank_seconds,
        "kg_co2_emissions": None,
    }


def _score_columns() -> dict[str, str]:
    """Return mteb's name of a score -> its column in the per-query table, in mteb's order."""
    columns = {metric.mteb: metric.column for metric in METRICS.values() if metric.mteb is not None}
    return {name: columns[name] for name in sorted(columns, key=_position_in_file)}


def _position_in_file(score: str) -> int:
    return next((n for n, family in enumerate(_FAMILIES) if score.startswith(family)), len(_FAMILIES))
