"""Evaluation of a model on the cluster: in one task, on a GPU where there is one, or in shards."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar, Unpack

from hbt_ray.cluster.evaluation.passage_tasks import PassageTasks, passage_tasks
from hbt_ray.cluster.evaluation.sharded_search import embed_passages, sharded_index
from hbt_ray.cluster.resources import has_gpus
from hbt_ray.cluster.runtime import configure_task, node_resources
from hbt_ray.cluster.task_pool import run_in_order
from hbt_ray.config import EvaluateConfig
from hbt_ray.data.benchmarks import benchmark_slug
from hbt_ray.data.types import Benchmark
from hbt_ray.debiasing.language_means import mean_rows_of_windows
from hbt_ray.evaluation.evaluator import EvalReport, evaluate_benchmark
from hbt_ray.evaluation.judgement_arrays import language_spans
from hbt_ray.evaluation.report import make_folder, write_report
from hbt_ray.evaluation.run_evaluation import (
    LoadOptions,
    description,
    evaluate_model,
    load_benchmarks,
    means_of,
    open_embedder,
    report_folder,
    variants,
    with_zero_shot_check,
)
from hbt_ray.retrieval.embedding_cache import vectors_fingerprint
from hbt_ray.retrieval.passage_windows import window_settings

Result = TypeVar("Result")


def evaluate_on_cluster(
    model: str, settings: EvaluateConfig, out: Path, **load_options: Unpack[LoadOptions]
) -> list[EvalReport]:
    """Run `evaluate_model` in one task with all CPUs of a node, or with a GPU where there is one; or in shards.

    On a cluster of one node without a GPU the driver evaluates itself, because it has loaded the libraries already.

    Args:
        model: folder or hub name.
        settings: the benchmarks and the settings of the evaluation.
        out: reports are written to `out/<benchmark>`.
        **load_options: pooling, prefixes and trust of `evaluate_model`.

    Raises:
        ClusterError: the task failed.
    """
    if settings.shards:
        return _each_benchmark(settings, out, functools.partial(evaluate_in_shards, model, **load_options))
    return run_on_one_node(functools.partial(evaluate_here, model, settings, out, **load_options))


def run_on_one_node(evaluate: Callable[[int], Result]) -> Result:
    """Call a function with its number of threads where `evaluate_on_cluster` evaluates.

    Raises:
        ClusterError: the task failed.
    """
    gpu = has_gpus(1)
    cpus = 1 if gpu else max(int(max(node_resources("CPU"), default=1)), 1)
    if not gpu and len(node_resources("CPU")) == 1:
        return evaluate(min(cpus, os.cpu_count() or 1))
    [result] = run_in_order(_call, [(evaluate, cpus)], "evaluating", cpus=cpus, gpus=int(gpu))
    return result


def _call(evaluate: Callable[[int], Result], threads: int) -> Result:
    return evaluate(threads)


def evaluate_here(
    model: str, settings: EvaluateConfig, out: Path, threads: int, **load_options: Unpack[LoadOptions]
) -> list[EvalReport]:
    """Evaluate all benchmarks in this process with `threads` torch threads."""
    configure_task(threads)
    return _each_benchmark(settings, out, functools.partial(evaluate_model, model, **load_options))


def _each_benchmark(
    settings: EvaluateConfig, out: Path, evaluate: Callable[[EvaluateConfig, Path], Iterable[EvalReport]]
) -> list[EvalReport]:
    """Evaluate benchmark by benchmark, each report in its folder."""
    reports: list[EvalReport] = []
    for name, folder in settings.benchmarks.items():
        of_one = settings.model_copy(update={"benchmarks": {name: folder}})
        reports += evaluate(of_one, out if settings.perturbations else out / benchmark_slug(name))
    return reports


def evaluate_in_shards(
    model: str, settings: EvaluateConfig, out: Path, **load_options: Unpack[LoadOptions]
) -> Iterator[EvalReport]:
    """Run `evaluate_model` with passages embedded by actors and searched in `settings.shards` other actors.

    Vectors are cached in the folder `vectors` next to `out`, and reused for the same model and passages.

    Raises:
        ClusterError: an actor failed.
    """
    cache = out.parent / "vectors"
    with passage_tasks(cache) as tasks:
        yield from _evaluate_in_shards(model, settings, out, tasks, cache, load_options)


def _evaluate_in_shards(
    model: str, settings: EvaluateConfig, out: Path, tasks: PassageTasks, cache: Path, load_options: LoadOptions
) -> Iterator[EvalReport]:
    benchmarks = load_benchmarks(settings, tasks.read)
    make_folder(out)
    means = means_of(model, settings)
    embedder = open_embedder(model, settings, **load_options, with_language=True)
    described = description(model, embedder)
    # Actors may have other devices than the driver; "auto" is resolved once for all.
    settings = settings.model_copy(update={"precision": described["precision"]})
    vector_settings = {
        key: value for key, value in described.items() if key not in {"path", "base_model", "query_prefix"}
    }
    for benchmark in benchmarks:
        of_benchmark = variants(benchmark, settings)
        # In tasks, because every text is read; all before the index is open, whose actors may hold every CPU.
        jobs = ((variant,) for variant in of_benchmark)
        fingerprints = list(run_in_order(Benchmark.fingerprint, jobs, "reading passages"))
        name = vectors_fingerprint(model, fingerprints[0], vector_settings, window_settings(settings.window_chars))
        windows = tasks.window(benchmark.columns.texts, settings.window_chars)
        open_in_actor = functools.partial(open_embedder, model, settings, **load_options, with_language=True)
        embed_passages(windows, open_in_actor, name, cache, settings.shards)
        edges = [span.start for span in language_spans(benchmark).values() if isinstance(span, slice)]
        centring = None if means is None else (means, mean_rows_of_windows(means, benchmark, windows))
        with sharded_index(cache / name, windows, settings, edges, centring) as (index, _):
            for variant, fingerprint in zip(of_benchmark, fingerprints, strict=True):
                report = evaluate_benchmark(embedder, variant, settings, index, means, fingerprint)
                report = with_zero_shot_check(report, model, benchmark)
                write_report(report, report_folder(variant, settings, out), described, settings)
                yield report
