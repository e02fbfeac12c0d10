"""The quickstart: an untrained encoder and each strategy on one store, in processes of this machine without Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hbt_ray.cluster.pipelines.train import run_prepared
from hbt_ray.cluster.runtime import configure_task
from hbt_ray.cluster.tracked_run import log_report_metrics, start_tracker, tracked_run
from hbt_ray.config import RunConfig
from hbt_ray.data.manifest import read_manifest
from hbt_ray.data.store_inputs import store_tokenizer
from hbt_ray.data.store_maker import prepare_here
from hbt_ray.presets import BENCHMARK, STRATEGIES, UNTRAINED, quickstart_config
from hbt_ray.tracking import check_reachable, keep_command, resolve_uri, ui_guide
from hbt_ray.training.initial_model import prepare_initial_model
from hbt_ray.training.resume import open_run
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.utils.atomic_write import atomic_write_text
from hbt_ray.utils.folder_lock import lock_folder
from hbt_ray.utils.machine import count_cpus
from hbt_ray.utils.process_pool import run_in_processes, start_importing
from hbt_ray.utils.progress import print_line, stage


@dataclass(frozen=True, slots=True)
class Quickstart:
    """Where the quickstart's results are."""

    folders: dict[str, Path]  # with reports, by strategy, hybrid first; and of the untrained encoder
    summary: Path
    ui_command: str  # that shows the runs in MLflow, and their address
    seconds: dict[str, float]  # by stage


def run_quickstart(out: Path, *, seed: int, steps: int) -> Quickstart:
    """Evaluate the untrained encoder, and train and evaluate each strategy with the same seed."""
    from hbt_ray.evaluation.compare import read_run_metrics
    from hbt_ray.evaluation.run_evaluation import check_benchmarks

    began_s = time.monotonic()
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        seconds[name] = time.monotonic() - began_s - sum(seconds.values())

    start_importing("hbt_ray.cluster.pipelines.preload")
    configs = {name: quickstart_config(name, seed, steps) for name in STRATEGIES}
    untrained = quickstart_config(STRATEGIES[0], seed).model_copy(update={"name": UNTRAINED})
    uri = resolve_uri(untrained.tracking, out / UNTRAINED)
    with stage("checking MLflow's store and the benchmark"):
        check_reachable(uri)
        fingerprints = check_benchmarks(untrained.evaluate)
    keep_command()
    lap("start")
    store = prepare_here(untrained.prepare_inputs, run_dir_of(untrained, out / UNTRAINED).stores)
    lap("data")
    print_line(
        f"training {', '.join(STRATEGIES)} for {steps} steps each on {len(read_manifest(store).languages)} languages, "
        f"and evaluating the {UNTRAINED} encoder"
    )
    # All at a time: with fewer, a core would be idle while the last one trains.
    threads = max(1, count_cpus().usable // len(STRATEGIES))
    jobs: list[tuple[str, Callable[..., None], tuple[object, ...]]] = [
        (name, _train_strategy, (config, store, out / name, fingerprints, threads)) for name, config in configs.items()
    ]
    jobs.append((UNTRAINED, _evaluate_untrained, (untrained, store, out / UNTRAINED, threads)))
    metrics = {}
    for name, taken_s in run_in_processes(jobs, "strategies", len(jobs)):
        metrics[name] = read_run_metrics(out / name)
        print_line(f"{name}: mono mAP {metrics[name][f'{BENCHMARK}/mono/map']:.3f} after {taken_s:.0f} s")
    lap("training and evaluation")
    names = (*reversed(STRATEGIES), UNTRAINED)
    summary = out / "summary.json"
    described = {"seed": seed, "steps": steps, "metrics": {name: metrics[name] for name in names}}
    atomic_write_text(summary, json.dumps(described, indent=1) + "\n")
    return Quickstart(
        {name: out / name for name in names}, summary, ui_guide(uri, untrained.tracking.experiment), seconds
    )


def _train_strategy(config: RunConfig, store: Path, out: Path, fingerprints: Mapping[str, str], threads: int) -> None:
    """Train and evaluate a strategy in this process."""
    configure_task(threads)
    with lock_folder(run_dir_of(config, out).path):
        run_prepared(config, store, open_run(config, out, fresh=True), fingerprints, fresh=True, threads=threads)


def _evaluate_untrained(config: RunConfig, store: Path, out: Path, threads: int) -> None:
    """Evaluate the initial encoder in this process, as an MLflow run of its own."""
    from hbt_ray.cluster.evaluation.evaluate import evaluate_here

    folder = run_dir_of(config, out)
    uri = resolve_uri(config.tracking, folder.path)
    tags = {"strategy": UNTRAINED}
    tracker = start_tracker(uri, config.tracking.experiment, config.name, config, folder, tags)
    with tracked_run(tracker, "the same command evaluates again", system_metrics=False):
        model = prepare_initial_model(config, store_tokenizer(store, config.prepare_inputs), folder)
        for report in evaluate_here(model, config.evaluate, folder.evaluations, threads):
            log_report_metrics(tracker, report.metrics, 0)
            tracker.log_artifacts(folder.evaluations / report.benchmark, f"evaluation/{report.benchmark}")
