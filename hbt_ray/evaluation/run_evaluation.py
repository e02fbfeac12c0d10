"""Evaluation of any model on a list of benchmarks, in this process.

Runs check their benchmarks with this module before they start, so it loads torch only with a model.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from hbt_ray.config import EvaluateConfig, stored_text
from hbt_ray.data.benchmarks import ReadOptions, check_options, load_benchmark
from hbt_ray.data.benchmarks.passage_files import ReadPassages, read_blocks
from hbt_ray.data.model_files import base_model_of, describe_debiasing
from hbt_ray.data.types import Benchmark
from hbt_ray.data.zero_shot import was_decontaminated
from hbt_ray.debiasing.language_means import LanguageMeans, read_language_means
from hbt_ray.errors import ConfigError
from hbt_ray.evaluation.evaluator import EvalReport, check_benchmark, evaluate_benchmark, index_passages
from hbt_ray.evaluation.query_perturbation import perturbed
from hbt_ray.evaluation.report import make_folder, write_report

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from hbt_ray.models.text_embedder import TextEmbedder

logger = logging.getLogger(__name__)


class Prefixes(TypedDict, total=False):
    """What texts are given before a model reads them; None: the model's."""

    query_prefix: str | None
    passage_prefix: str | None


class LoadOptions(Prefixes, total=False):
    """How the model of an evaluation is loaded and used."""

    pooling: str
    trust_remote_code: bool


def evaluate_model(
    model: str | SentenceTransformer,
    settings: EvaluateConfig,
    out: Path,
    *,
    pooling: str = "mean",
    query_prefix: str | None = None,
    passage_prefix: str | None = None,
    trust_remote_code: bool = False,
) -> Iterator[EvalReport]:
    """Evaluate any model that sentence-transformers or transformers loads, benchmark by benchmark.

    Args:
        model: folder or hub name; or a model in memory, on its device.
        settings: the benchmarks and the settings of the evaluation.
        out: where reports are written, see `report_folder`.
        pooling: such as "mean", for a model that does not define it.
        query_prefix: None: the model's.
        passage_prefix: None: the model's.
        trust_remote_code: run code from the model's repository.

    Raises:
        CorpusError: a benchmark cannot be read; this is checked before any evaluation.
        ConfigError: the model cannot be loaded.
    """
    path = model if isinstance(model, str) else origin_of(model)
    benchmarks = load_benchmarks(settings)
    make_folder(out)
    means = means_of(model, settings)
    embedder = open_embedder(
        model, settings, pooling, query_prefix, passage_prefix, trust_remote_code=trust_remote_code, with_language=True
    )
    for benchmark in benchmarks:
        started = time.perf_counter()
        index = index_passages(embedder, benchmark, settings.window_chars, means)
        embedded_s = time.perf_counter() - started
        for variant in variants(benchmark, settings):
            report = evaluate_benchmark(embedder, variant, settings, index, means)
            report = replace(report, embed_seconds=report.embed_seconds + embedded_s)
            report = with_zero_shot_check(report, path, benchmark)
            write_report(report, report_folder(variant, settings, out), description(path, embedder), settings)
            yield report


def means_of(model: str | SentenceTransformer, settings: EvaluateConfig) -> LanguageMeans | None:
    """Return the means that an evaluation subtracts from a model's vectors; None if it needs none.

    Raises:
        ConfigError: a file of them is damaged, the model is in memory, or its vectors are truncated.
    """
    if isinstance(model, str):
        means = read_language_means(model)
    else:
        means = read_language_means(origin_of(model), local_files_only=True)
        if means is not None:
            raise ConfigError(
                f"the model in memory needs the means of languages that are in {origin_of(model)}; evaluate that folder"
            )
    if means is not None and settings.dimensions is not None:
        raise ConfigError(
            f"dimensions {settings.dimensions} would cut vectors from which whole means of languages are subtracted; "
            "leave dimensions out"
        )
    return means


def with_zero_shot_check(report: EvalReport, model: str, benchmark: Benchmark) -> EvalReport:
    """Add to a report whether the model's training data were decontaminated against the benchmark; warn if not.

    Args:
        report: of the benchmark or a perturbation of it.
        model: folder or hub name.
        benchmark: as it was read.
    """
    decontaminated = was_decontaminated(model, benchmark)
    report = replace(report, decontaminated=decontaminated)
    if decontaminated is not False:
        return report
    if describe_debiasing(model) is None:
        data, way_out = "training data", f"train with prepare.evaluation_sets.{benchmark.name}"
    else:
        data, way_out = "corpora", f"run hbt debias with --exclude {benchmark.name}=FOLDER"
    warning = (
        f"the {data} of {stored_text(model)} were not decontaminated against {benchmark.name} and may contain "
        f"its texts; {way_out} for a zero-shot result"
    )
    logger.warning(warning)
    return replace(report, warnings=(*report.warnings, warning))


def variants(benchmark: Benchmark, settings: EvaluateConfig) -> list[Benchmark]:
    """Return a benchmark, and the same benchmark with each perturbation of the settings."""
    return [benchmark, *(perturbed(benchmark, perturbation) for perturbation in settings.perturbations)]


def report_folder(benchmark: Benchmark, settings: EvaluateConfig, out: Path) -> Path:
    """Return `out/<benchmark>`, or `out` itself where there is only one report."""
    return out if len(settings.benchmarks) == 1 and not settings.perturbations else out / benchmark.name


def check_benchmarks(
    settings: EvaluateConfig, check: Callable[[Benchmark], None] = lambda benchmark: None
) -> dict[str, str]:
    """Read all benchmarks, one after another, because they may be large.

    Args:
        settings: which benchmarks, and how they are read.
        check: called with each benchmark, and with each perturbed one.

    Returns:
        The fingerprint of each benchmark's content, by its name in the settings.

    Raises:
        CorpusError: a benchmark cannot be read, or an option applies to none of them.
    """
    check_options(settings.benchmarks, ReadOptions(settings.with_paragraph, settings.split))
    fingerprints = {}
    for name, folder in settings.benchmarks.items():
        [benchmark] = load_benchmarks(settings.model_copy(update={"benchmarks": {name: folder}}))
        for variant in variants(benchmark, settings):
            check(variant)
        fingerprints[name] = benchmark.fingerprint()
    return fingerprints


def load_benchmarks(settings: EvaluateConfig, read_passages: ReadPassages = read_blocks) -> list[Benchmark]:
    """Load the benchmarks of the settings; files of passages are read by `read_passages`.

    Raises:
        CorpusError: one cannot be read.
    """
    options = ReadOptions(settings.with_paragraph, settings.split, read_passages=read_passages)
    benchmarks = [load_benchmark(name, folder or None, options) for name, folder in settings.benchmarks.items()]
    for benchmark in benchmarks:
        check_benchmark(benchmark)
    return benchmarks


def open_embedder(
    model: str | SentenceTransformer,
    settings: EvaluateConfig,
    pooling: str = "mean",
    query_prefix: str | None = None,
    passage_prefix: str | None = None,
    *,
    trust_remote_code: bool = False,
    with_language: bool = False,
) -> TextEmbedder:
    """Load a model for evaluation, on a GPU where this process has one; arguments as in `evaluate_model`.

    A model with means of languages (`means_of`) is refused, unless the caller subtracts them: `with_language`.
    """
    from hbt_ray.models.encoder import default_device, load_pretrained
    from hbt_ray.models.precision import resolve_bf16
    from hbt_ray.models.text_embedder import TextEmbedder

    if isinstance(model, str):
        encoder = load_pretrained(
            model, pooling, default_device(), trust_remote_code=trust_remote_code, with_language=with_language
        )
    else:
        encoder = model
    return TextEmbedder(
        encoder,
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
        bf16=resolve_bf16(settings.precision, encoder.device),
        dimensions=settings.dimensions,
    )


def origin_of(model: SentenceTransformer) -> str:
    """Return the folder or hub name that a model in memory was loaded from, or the name of its class."""
    names = [
        getattr(getattr(getattr(module, "auto_model", None), "config", None), "name_or_path", "") for module in model
    ]
    return next(filter(None, names), type(model).__name__)


def description(model: str, embedder: TextEmbedder) -> dict[str, object]:
    """Describe a model for its report: its path, and all settings that its vectors depend on."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    pooling = [module.pooling_mode for module in embedder.encoder if isinstance(module, Pooling)]
    return {
        "path": stored_text(model),
        "revision": next((revision_of(module) for module in embedder.encoder if revision_of(module)), None),
        **({"base_model": base} if (base := base_model_of(model)) else {}),
        **({"debiasing": removed} if (removed := describe_debiasing(model)) else {}),
        "pooling": " ".join(map(str, pooling)),
        "max_tokens": embedder.encoder.max_seq_length,
        "query_prefix": embedder.query_prefix,
        "passage_prefix": embedder.passage_prefix,
        "precision": "bf16" if embedder.bf16 else "fp32",
        **({} if embedder.dimensions is None else {"dimensions": embedder.dimensions}),
        **({} if embedder.similarity == "cosine" else {"similarity": embedder.similarity}),
    }


def revision_of(module: object) -> str | None:
    """Return the hub commit of a module's weights; None for weights of a folder."""
    return getattr(getattr(getattr(module, "auto_model", None), "config", None), "_commit_hash", None)
