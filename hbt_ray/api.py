"""The public functions: prepare a store, train, evaluate and compare. The commands of the same names call them.

Each takes settings as values of `hbt_ray.config` and returns what the command prints. What takes seconds to import is
imported when a function is called; Ray only by those that need a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from hbt_ray.config import EvaluateConfig, RunConfig, build, with_absolute_paths
from hbt_ray.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table
    from sentence_transformers import SentenceTransformer

    from hbt_ray.cluster.pipelines.train import FinishedRun
    from hbt_ray.evaluation.compare import RunGroup, TestedDifference
    from hbt_ray.evaluation.evaluator import EvalReport
    from hbt_ray.evaluation.run_evaluation import LoadOptions


def prepare(config: RunConfig, stores: str | Path, *, verify: bool = True, in_process: bool = False) -> Path:
    """Turn the corpora of a run into a token store; return its folder.

    Args:
        config: of the run.
        stores: folder of stores, each named by what it is made of.
        verify: compare the checksums of a store that exists; a damaged one is made again.
        in_process: make it in this process, which is faster for corpora that fit in memory several times. By default
            Ray maps the steps over its cluster, and is started if the store does not exist yet.

    Raises:
        ConfigError: the model cannot be trained, has no tokenizer, or takes shorter texts.
        CorpusError: a corpus or evaluation set cannot be read, or too many of its rows are rejected.
        StoreError: the store cannot be written.
    """
    config = with_absolute_paths(config)
    folder = Path(stores).expanduser().resolve()
    from hbt_ray.cluster import preflight

    preflight.check_models(config)
    if in_process:
        from hbt_ray.data.store_maker import prepare_here

        return prepare_here(config.prepare_inputs, folder, verify=verify)
    preflight.check_cluster_address()
    from hbt_ray.cluster.prepare import prepare as prepare_store

    return prepare_store(config.prepare_inputs, folder, verify=verify)


def train(config: RunConfig, out: str | Path, *, fresh: bool = False, in_process: bool = False) -> FinishedRun:
    """Prepare, train, evaluate and track one run. Called again with the same folder, it resumes.

    Args:
        config: of the run.
        out: its folder.
        fresh: start over if the folder has a run already.
        in_process: prepare and train in this process instead of on Ray, with its first GPU or all its cores, unless
            `train.gpu` and `train.threads_per_worker` say otherwise.

    Raises:
        HbtError: a setting, file or resource is missing or wrong. All that can be checked before training is.
    """
    from hbt_ray.cluster import preflight

    check = preflight.check_models if in_process else preflight.check_before_start
    check(config)
    from hbt_ray.cluster.pipelines.train import run

    return run(config, Path(out).expanduser(), fresh=fresh, in_process=in_process)


def evaluate(
    model: str | Path | SentenceTransformer,
    benchmarks: EvaluateConfig | Mapping[str, str | None],
    out: str | Path,
    *,
    on_report: Callable[[EvalReport], object] = lambda report: None,
    **load_options: Unpack[LoadOptions],
) -> list[EvalReport]:
    """Evaluate any model that sentence-transformers or transformers loads, in this process; with shards, on Ray.

    Args:
        model: a folder, a hub name, or a model in memory, which keeps its device and mode.
        benchmarks: the folder of each benchmark by its name, None for "embedded" or a download; or all settings.
        out: folder of the reports.
        on_report: called with each report as soon as it is written.
        **load_options: `pooling`, `query_prefix`, `passage_prefix` and `trust_remote_code`, where the model has none.

    Raises:
        CorpusError: a benchmark cannot be read; this is checked before any evaluation.
        ConfigError: the model cannot be loaded, or is in memory and `shards` is set.
    """
    if isinstance(model, str | Path):
        from hbt_ray.data.model_files import check_model_exists

        check_model_exists(str(model), "model")
    settings = build_settings(benchmarks)
    folder = Path(out).expanduser()
    if settings.shards:
        from hbt_ray.cluster.preflight import check_cluster_address

        check_cluster_address()
        from hbt_ray.cluster.evaluation.evaluate import evaluate_in_shards
        from hbt_ray.cluster.runtime import connect

        if not isinstance(model, str | Path):
            raise ConfigError("a model in memory cannot be evaluated in shards; save it and name its folder")
        connect()
        found = evaluate_in_shards(str(model), settings, folder.resolve(), **load_options)
    else:
        from hbt_ray.evaluation.run_evaluation import evaluate_model

        found = evaluate_model(str(model) if isinstance(model, Path) else model, settings, folder, **load_options)
    in_training = None if isinstance(model, str | Path) or not model.training else model
    reports = []
    try:
        for report in found:
            on_report(report)
            reports.append(report)
    finally:
        if in_training is not None:
            in_training.train()
    return reports


def build_settings(benchmarks: EvaluateConfig | Mapping[str, str | None]) -> EvaluateConfig:
    """Return the settings of an evaluation, checked; benchmarks by name are evaluated with the defaults."""
    from hbt_ray.data.benchmarks import ReadOptions, check_options

    if isinstance(benchmarks, EvaluateConfig):
        settings = benchmarks
    else:
        settings = build(EvaluateConfig, {"benchmarks": dict(benchmarks)})
    check_options(settings.benchmarks, ReadOptions(settings.with_paragraph, settings.split))
    return settings


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Runs or reports, grouped by what is equal but for the seed, and the tests of the others against the first."""

    groups: Sequence[RunGroup]
    differences: Sequence[TestedDifference]

    def tables(self) -> list[Table]:
        """Return the metrics, and the tests if there are any, as tables for a terminal."""
        from hbt_ray.evaluation.compare import comparison_table, significance_tables

        return [comparison_table(self.groups), *significance_tables(self.groups, self.differences)]

    def write(self, folder: str | Path) -> Path:
        """Write `report.html` and `comparison.png`; return the path of the page.

        Raises:
            StorageError: the folder cannot be written.
        """
        from hbt_ray.evaluation.compare import comparison_figure, write_comparison_page
        from hbt_ray.utils.plotting import save_figure

        out = Path(folder).expanduser()
        page = write_comparison_page(self.groups, out, tested=self.differences)
        save_figure(comparison_figure(self.groups), out / "comparison.png")
        return page


def compare(runs: Sequence[str | Path] | Sequence[RunGroup]) -> RunComparison:
    """Compare runs or reports query by query; every other one is tested against the first.

    Args:
        runs: folders of runs or reports, of which those that differ only in their seed are one group; or groups.

    Raises:
        UserError: a folder has no report, or two were not evaluated on the same files.
    """
    from hbt_ray.evaluation.compare import RunGroup, differences, run_groups_in

    groups = [run for run in runs if isinstance(run, RunGroup)]
    folders = [str(run) for run in runs if not isinstance(run, RunGroup)]
    groups = [*groups, *(run_groups_in(folders) if folders else ())]
    return RunComparison(groups, differences(groups))
