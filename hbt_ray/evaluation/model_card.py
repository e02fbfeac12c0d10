"""The model card of a trained encoder: how to use it, what it was trained on, and what it reaches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader

import hbt_ray
from hbt_ray.config import RunConfig, dump_yaml, stored_settings
from hbt_ray.data.manifest import StoreManifest
from hbt_ray.data.zero_shot import read_decontaminated
from hbt_ray.evaluation.evaluator import EvalReport
from hbt_ray.evaluation.metrics import display_name, headline_metrics
from hbt_ray.evaluation.report import format_value
from hbt_ray.training.training_record import read_training_record
from hbt_ray.utils.atomic_write import atomic_write_text

CARD = "README.md"
_SECTIONS = ("seed", "text", "model", "mix", "loss", "train")  # of the settings


def write_model_card(
    folder: Path, config: RunConfig, manifest: StoreManifest, reports: Mapping[str, EvalReport]
) -> None:
    """Write `README.md` with the metadata of a model card of the Hugging Face hub. Equal inputs give equal bytes.

    Args:
        folder: of the model.
        config: of the run that trained it.
        manifest: of its token store.
        reports: of its evaluations, by benchmark.
    """
    settings = {key: value for key, value in stored_settings(config).items() if key in _SECTIONS}
    licences = {corpus.name: corpus.licence for corpus in config.corpora}
    environment = Environment(
        loader=PackageLoader("hbt_ray.evaluation"), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = _cell
    text = environment.get_template("model_card.md.jinja").render(
        name=config.name,
        version=hbt_ray.__version__,
        strategy=config.mix.strategy,
        base=_base_of(config),
        languages=manifest.languages,
        text=config.text,
        corpora=[
            {
                "name": name,
                "training_items": source.items(),
                "languages": source.languages,
                "licence": licences.get(name),
            }
            for name, source in manifest.sources.items()
        ],
        decontaminated=sorted((read_decontaminated(folder) or {}).values()),
        left_out=sum(len(counts.get("items_dropped_for_evaluation", ())) for counts in manifest.counts.values()),
        record=read_training_record(folder),
        settings=dump_yaml({key: _without_folders(value) for key, value in settings.items()}),
        evaluations=[_describe(report) for report in reports.values()],
    )
    metadata = _metadata(config, manifest, reports).to_yaml()
    atomic_write_text(folder / CARD, f"---\n{metadata}\n---\n\n{text}")


def _base_of(config: RunConfig) -> str | None:
    """Return the hub name of the encoder that was trained, or the last part of its path; None: random weights."""
    return None if config.model.path is None else str(_without_folders(config.model.path))


def _without_folders(setting: object) -> object:
    """Shorten absolute paths in a setting or section to their last part: a card is published."""
    if isinstance(setting, dict):
        return {key: _without_folders(value) for key, value in setting.items()}
    return Path(setting).name if isinstance(setting, str) and setting.startswith(("/", "~")) else setting


def _cell(value: object) -> str:
    """Return a text that stays in one cell of a Markdown table."""
    return " ".join(str(value).replace("|", "\\|").replace("<", "&lt;").split())


def _describe(report: EvalReport) -> dict[str, object]:
    found = headline_metrics(report.metrics)[report.benchmark]
    return {
        "benchmark": report.title,
        "zero_shot": report.decontaminated is not False,
        "counts": report.counts,
        "headings": [display_name(name) for name in found],
        "cells": [format_value(f"{report.benchmark}/{name}", value) for name, value in found.items()],
    }


def _metadata(config: RunConfig, manifest: StoreManifest, reports: Mapping[str, EvalReport]) -> ModelCardData:
    results = [
        EvalResult(
            task_type="information-retrieval",
            task_name="Information Retrieval",
            dataset_type=benchmark,
            dataset_name=benchmark,
            dataset_split=report.split or None,
            dataset_revision=report.fingerprint,
            metric_type=name,
            metric_name=display_name(name),
            metric_value=value,
        )
        for benchmark, report in reports.items()
        for name, value in headline_metrics(report.metrics)[report.benchmark].items()
    ]
    licences = {corpus.licence for corpus in config.corpora}
    return ModelCardData(
        language=list(manifest.languages),
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "sentence-similarity", "feature-extraction", "multilingual", "retrieval"],
        base_model=_base_of(config),
        license=licences.pop() if len(licences) == 1 else None,
        datasets=[corpus.path for corpus in config.corpora if corpus.format == "huggingface" and corpus.path] or None,
        model_name=config.name,
        eval_results=results or None,
    )
