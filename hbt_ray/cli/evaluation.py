"""Commands that measure encoders: evaluate, compare."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from hbt_ray.cli.options import OUT_DEFAULT, echo_sentences, examples, loading_options
from hbt_ray.config import EvaluateConfig, build
from hbt_ray.errors import ConfigError, CorpusError, UserError

if TYPE_CHECKING:
    from hbt_ray.config import Perturbation, Precision
    from hbt_ray.evaluation.compare import RunGroup
    from hbt_ray.evaluation.evaluator import EvalReport


@click.command(
    epilog=examples(
        "hbt evaluate --model ~/hbt_runs/smoke/model --benchmark embedded --out x",
        "hbt evaluate --model intfloat/multilingual-e5-small --benchmark miracl/sw \\",
        "    --benchmark xquad-r=data/xquad-r --out report",
        "hbt evaluate --model ~/hbt_runs/faq/model --benchmark pairs=faq.yaml --out x",
    )
)
@click.option("--model", required=True, help="Folder or hub name of any sentence-transformers or transformers model.")
@click.option(
    "--benchmark",
    "benchmarks",
    multiple=True,
    required=True,
    help="NAME=FOLDER, or embedded, or miracl/sw. Repeatable.",
)
@click.option("--out", required=True, help="Folder for the report.")
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), default="fp32", show_default=True)
@loading_options
@click.option("--with-paragraph", is_flag=True, help="Encode a sentence together with its paragraph.")
@click.option("--split", help="Where a benchmark has several. Default: the one that is usually reported.")
@click.option(
    "--shards", type=click.IntRange(0), default=0, help="Share the passages among so many actors of a cluster."
)
@click.option(
    "--perturb",
    "perturbations",
    multiple=True,
    type=click.Choice(["typos", "case", "accents", "translation"]),
    help="Measure with such queries as well. Repeatable.",
)
@click.option("--window-chars", type=click.IntRange(16), help="Cut long passages in windows; the best one counts.")
@click.option("--index", type=click.Choice(["flat", "hnsw", "ivfpq"]), default="flat", help="Of each shard.")
@click.option(
    "--index-depth",
    type=click.IntRange(100),
    default=1000,
    show_default=True,
    help="Passages per query that hnsw and ivfpq look for.",
)
@click.option(
    "--run-depth", type=click.IntRange(1), default=100, show_default=True, help="Passages per query in run.trec."
)
@click.option("--dimensions", type=click.IntRange(1), help="Cut vectors to so many values. Default: whole.")
def evaluate(
    model: str,
    benchmarks: Sequence[str],
    out: str,
    precision: Precision,
    pooling: str,
    trust_remote_code: bool,
    query_prefix: str | None,
    passage_prefix: str | None,
    with_paragraph: bool,
    split: str | None,
    perturbations: tuple[Perturbation, ...],
    window_chars: int | None,
    shards: int,
    index: Literal["flat", "hnsw", "ivfpq"],
    index_depth: int,
    run_depth: int,
    dimensions: int | None,
) -> None:
    """Evaluate any model on benchmarks.

    In this process; with --shards, on a Ray cluster.
    """
    folders = benchmark_folders(benchmarks)
    if index != "flat" and not shards:
        raise ConfigError(f"an index {index} is built in shards; write --shards 1 or more")
    from hbt_ray import api

    chosen = {
        "benchmarks": folders,
        "precision": precision,
        "run_depth": run_depth,
        "with_paragraph": with_paragraph,
        "split": split,
        "perturbations": perturbations,
        "window_chars": window_chars,
        "shards": shards,
        "index": index,
        "index_depth": index_depth,
        "dimensions": dimensions,
    }
    settings = build(EvaluateConfig, chosen)
    reports = api.evaluate(
        model,
        settings,
        out,
        on_report=_print_report,
        pooling=pooling,
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
        trust_remote_code=trust_remote_code,
    )
    # In a folder for each benchmark where there are several.
    click.echo(f"report   {Path(out) / 'report.html' if len(reports) == 1 else out}")


def _print_report(report: EvalReport) -> None:
    from hbt_ray.evaluation.report import print_report  # takes seconds to import

    print_report(report)


def benchmark_folders(options: Sequence[str]) -> dict[str, str]:
    """Parse each --benchmark: NAME=FOLDER, or the name of a benchmark that needs no folder.

    Raises:
        CorpusError: there is no benchmark of a name, or it needs a folder, or is given twice.
    """
    from hbt_ray.data.benchmarks import can_be_downloaded, check_name

    folders: dict[str, str] = {}
    for option in options:
        name, equals, folder = option.partition("=")
        check_name(name)
        if not equals and name != "embedded" and not can_be_downloaded(name):
            raise CorpusError(f"--benchmark {option!r} names no folder; write {name}=FOLDER")
        if name in folders:
            raise CorpusError(f"--benchmark names {name} twice; write beir/one=FOLDER and beir/other=FOLDER")
        folders[name] = folder
    return folders


@click.command(
    epilog=examples(
        "hbt compare ~/hbt_runs/one ~/hbt_runs/other --out comparison",
        "hbt compare --experiment quickstart \\",
        "    --uri sqlite:///$HOME/hbt_runs/quickstart/mlflow.db hybrid x-y",
    )
)
@click.argument("runs", nargs=-1)
@click.option("--experiment", help="Compare runs of this MLflow experiment, all or those named, instead of folders.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Only runs of the experiment with this tag.")
@click.option("--uri", help="The MLflow store. Default: MLFLOW_TRACKING_URI, or the SQLite file next to the runs.")
@click.option("--out", help="Folder for report.html and comparison.png.")
def compare(runs: Sequence[str], experiment: str | None, tags: Sequence[str], uri: str | None, out: str | None) -> None:
    """Compare runs in a table, and test their differences.

    RUNS are folders of runs or reports; with --experiment, names or ids of tracked runs. Runs that differ only in
    their seed are one row; every other row is tested against the first: that of the run which is named first, or the
    oldest of an experiment whose runs are not named.
    """
    if not runs and not experiment:
        raise UserError("name the folders of runs to compare, or --experiment NAME for tracked ones")
    if tags and not experiment:
        raise UserError("--tag selects tracked runs; write --experiment NAME as well")
    from hbt_ray import api
    from hbt_ray.config import TrackingConfig
    from hbt_ray.tracking import resolve_uri, ui_command
    from hbt_ray.utils.terminal_table import print_tables

    with tempfile.TemporaryDirectory() as scratch:
        if experiment:
            store = resolve_uri(TrackingConfig(uri=uri), Path(OUT_DEFAULT).expanduser() / "run")
            compared = api.compare(_tracked_groups(store, experiment, runs, tags, Path(scratch)))
        else:
            store = resolve_uri(TrackingConfig(uri=uri), Path(runs[0]).resolve())
            compared = api.compare(runs)
        print_tables(compared.tables())
        if experiment and not runs:
            echo_sentences(
                f"baseline {compared.groups[0].label}, the oldest run; for another, name runs, the baseline first"
            )
        if out:
            page = compared.write(out)
            click.echo(f"figure   {page.with_name('comparison.png')}\npage     {page}")
    click.echo(f"runs     {ui_command(store)}")


def _tracked_groups(
    store: str, experiment: str, names: Sequence[str], tags: Sequence[str], scratch: Path
) -> list[RunGroup]:
    """Find tracked runs, download their reports to `scratch`, and group them."""
    from hbt_ray.evaluation.compare import TrackedRun, run_groups_of
    from hbt_ray.tracking import download_reports, training_runs

    wanted = {}
    for tag in tags:
        key, equals, value = tag.partition("=")
        if not equals:
            raise UserError(f"--tag {tag!r} has no value; write KEY=VALUE, such as --tag search=alpha")
        wanted[key] = value
    runs = training_runs(store, experiment, names, wanted)
    if not runs:
        raise UserError(f"experiment {experiment!r} has no run with {' and '.join(tags)}")
    tracked = {}
    for run in runs:
        folder = scratch / run.run_id
        with_reports = download_reports(store, run.run_id, folder)
        tracked[f"{run.name} {run.run_id[:8]}"] = TrackedRun(run.params, run.metrics, folder if with_reports else None)
    return run_groups_of(tracked)
