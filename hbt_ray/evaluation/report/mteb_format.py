"""A report in the format of mteb's result files: the scores of a task, and the metadata of the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

import langcodes
import numpy as np

from hbt_ray.evaluation.evaluator import EvalReport
from hbt_ray.evaluation.metrics import METRICS

_FAMILIES = ("ndcg", "map", "recall", "precision", "mrr", "hit_rate")  # of scores, in the order of mteb's own files
MAIN_SCORE = "ndcg_at_10"  # of mteb's retrieval tasks
MTEB_VERSION = "2.26.24"  # whose format is written
_NO_REVISION = "no_revision_available"  # mteb's word for it


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
        subset_languages = [mteb_language(code) for code in dict.fromkeys([query_language, *searched])]
        subsets.append({"hf_subset": subset, "languages": subset_languages, **scores, "main_score": scores[MAIN_SCORE]})
    return {
        "task_name": report.benchmark,
        "dataset_revision": report.fingerprint,
        "mteb_version": MTEB_VERSION,
        "model": model,
        "scores": {report.split or "test": subsets},
        "evaluation_time": report.embed_seconds + report.rank_seconds,
        "kg_co2_emissions": None,
    }


def mteb_model_meta(report: EvalReport, model: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of mteb's `ModelMeta`, which next to results is `model_meta.json`.

    Args:
        report: of the model.
        model: its description in the report.
    """
    path = str(model["path"])
    parts = [part for part in PurePosixPath(path).parts if part not in {"/", "~", "."}]
    is_hub_name = path.count("/") == 1 and len(parts) == 2 and not path.startswith("$")
    base = model.get("base_model")
    return {
        "loader": None,
        "name": path if is_hub_name else f"local/{parts[-1]}",
        "revision": model.get("revision") or _NO_REVISION,
        "release_date": report.date or None,
        "languages": [mteb_language(code) for code in report.languages],
        "n_parameters": None,
        "memory_usage_mb": None,
        "max_tokens": model.get("max_tokens"),
        "embed_dim": model.get("dimensions"),
        "license": None,
        "open_weights": None,
        "public_training_code": None,
        "public_training_data": None,
        "framework": ["Sentence Transformers", "PyTorch"],
        "reference": f"https://huggingface.co/{path}" if is_hub_name else None,
        "similarity_fn_name": model.get("similarity", "cosine"),
        "use_instructions": bool(model.get("query_prefix") or model.get("passage_prefix")),
        "training_datasets": None,
        "adapted_from": base if isinstance(base, str) and base.count("/") == 1 else None,
    }


def mteb_language(code: str) -> str:
    """Return a language as mteb names it, ISO 639-3 and script.

    >>> mteb_language("de"), mteb_language("zh-TW")
    ('deu-Latn', 'zho-Hant')
    """
    try:
        language = langcodes.Language.get(code).maximize()
        return f"{language.to_alpha3()}-{language.script}"
    except (LookupError, ValueError):
        return code


def _score_columns() -> dict[str, str]:
    """Return mteb's name of a score -> its column in the per-query table, in mteb's order."""
    columns = {metric.mteb: metric.column for metric in METRICS.values() if metric.mteb is not None}
    return {name: columns[name] for name in sorted(columns, key=_position_in_file)}


def _position_in_file(score: str) -> int:
    return next((n for n, family in enumerate(_FAMILIES) if score.startswith(family)), len(_FAMILIES))
