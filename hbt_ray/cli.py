"""The command line, `hbt`. Each command reads a configuration, calls one function and prints its result."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from hbt_ray.config import EvaluateConfig, PretrainRunConfig, load, load_config, with_absolute_paths
from hbt_ray.errors import ConfigError, CorpusError, UserError
from hbt_ray.utils.command_group import Commands
from hbt_ray.utils.logging import configure_libraries, configure_package_log
from hbt_ray.utils.redaction import redact_value

if TYPE_CHECKING:
    from hbt_ray.config import Perturbation, Precision
    from hbt_ray.evaluation.compare import RunGroup
    from hbt_ray.evaluation.evaluator import EvalReport

# Libraries that take seconds to import (torch, ray, mlflow) are imported by the commands that use them.

# On a cluster, HBT_RUNS must name a folder that every node sees.
OUT_DEFAULT = os.environ.get("HBT_RUNS", "~/hbt_runs")

ENVIRONMENT = """\b
Environment variables:
  HBT_RUNS       Folder of all results. Default: ~/hbt_runs.
  HBT_DEBUG      1: print the traceback of an error, as --debug does, instead of writing it to a file.
  HBT_LOG_LEVEL  debug, info, warning or error. Default: warning.
"""

CommandT = TypeVar("CommandT", bound=Callable[..., object])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=ENVIRONMENT)
@click.version_option(package_name="hbt_ray")
def main() -> None:
    """Hybrid batch training of multilingual retrievers."""
    configure_libraries()
    configure_package_log()


# Options and arguments of several commands
_config_option = click.option("--config", "config_file", type=click.Path(), help="Settings, a YAML file.")
_overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
_fresh_option = click.option("--fresh", is_flag=True, help="Start over if the folder has a run already.")


def _out_option(folder: str, default: str) -> Callable[[CommandT], CommandT]:
    """Return the option --out of a command; `default` is a folder below OUT_DEFAULT."""
    return click.option("--out", help=f"{folder}. Default: {OUT_DEFAULT}/{default}.")


def _out_folder(out: str | None, default: str) -> Path:
    """Return the folder of the option --out."""
    return Path(out or f"{OUT_DEFAULT}/{default}").expanduser()


@main.command()
@_config_option
@_overrides_argument
@_out_option("Folder of stores", "stores")
@click.option("--verify", is_flag=True, help="Make nothing; check the files of the store that there is.")
def prepare(config_file: str | None, overrides: tuple[str, ...], out: str | None, verify: bool) -> None:
    """Turn corpora into a token store. One that is damaged is made again."""
    config = with_absolute_paths(load_config(config_file, overrides))
    from hbt_ray.cluster.prepare import prepare as prepare_store
    from hbt_ray.cluster.prepare import verify_store
    from hbt_ray.cluster.runtime import connect
    from hbt_ray.data.manifest import read_manifest
    from hbt_ray.data.prepare import describe_store

    stores = _out_folder(out, "stores").resolve()
    if verify:
        store = verify_store(config.prepare_inputs, stores)
    else:
        connect()
        store = prepare_store(config.prepare_inputs, stores, verify=True)
    click.echo(describe_store(store, read_manifest(store)))


@main.command()
@_config_option
@_overrides_argument
@click.option("--workers", type=click.IntRange(1), help="Default: the configuration's.")
@click.option("--steps", help="FIRST:LAST, such as 0:100. Default: all.")
@click.option(
    "--store", help="A store, or a folder that has only its manifest.json. Default: prepared as for training."
)
@_out_option("Folder for plan.parquet and plan.png", "NAME-plan")
def plan(
    config_file: str | None,
    overrides: tuple[str, ...],
    workers: int | None,
    steps: str | None,
    store: str | None,
    out: str | None,
) -> None:
    """Show which worker gets which pair at which step, without training."""
    config = with_absolute_paths(load_config(config_file, overrides))
    from rich.console import Console

    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.sampling.factory import training_sampler
    from hbt_ray.sampling.inspect import SamplerTrace, parse_steps, trace_tables, write_trace

    first, last = parse_steps(steps, config.train.steps)
    folder = _out_folder(out, f"{config.name}-plan").resolve()
    if store is None:
        from hbt_ray.cluster.prepare import prepare as prepare_store
        from hbt_ray.cluster.runtime import connect

        connect()
        opened = TokenStore.open(prepare_store(config.prepare_inputs, folder.parent / "stores"))
    else:
        opened = TokenStore.open(Path(store).expanduser())
    sampler, ranks = training_sampler(config, opened.manifest), workers or config.train.max_workers
    batches = (config.train.chunk_pairs, config.train.gradient_accumulation)
    trace = SamplerTrace(sampler, opened, first, last, ranks, *batches)
    write_trace(trace, folder)
    for table in trace_tables(trace):
        Console().print(table)
    click.echo(f"pairs    {folder / 'plan.parquet'}\nfigure   {folder / 'plan.png'}")


@main.command()
@_config_option
@_overrides_argument
@_out_option("The run's folder", "NAME")
@_fresh_option
def train(config_file: str | None, overrides: tuple[str, ...], out: str | None, fresh: bool) -> None:
    """Prepare, train, evaluate and track one run."""
    config = load_config(config_file, overrides)
    from hbt_ray.cluster.pipelines.train import run
    from hbt_ray.evaluation.report import print_report

    finished = run(config, _out_folder(out, config.name), fresh=fresh)
    for report in finished.reports.values():
        print_report(report)
    click.echo(f"model    {finished.folder.model}\nruns     {finished.ui_command}")


@main.command()
@click.option("--model", required=True, help="Folder or hub name of the model that searches.")
@_config_option
@_overrides_argument
@_out_option("Folder of the mined corpora", "NAME-mined")
def mine(model: str, config_file: str | None, overrides: tuple[str, ...], out: str | None) -> None:
    """Mine hard negatives: passages that a model ranks high and that do not answer."""
    config = load_config(config_file, overrides)
    from hbt_ray.cluster.mining import mine_on_cluster
    from hbt_ray.mining import describe_mined

    mined = mine_on_cluster(config, model, Path(out or f"{OUT_DEFAULT}/{config.name}-mined"))
    click.echo(describe_mined(mined))


@main.command()
@_config_option
@_overrides_argument
@_out_option("The run's folder", "NAME")
@_fresh_option
def pretrain(config_file: str | None, overrides: tuple[str, ...], out: str | None, fresh: bool) -> None:
    """Pretrain an encoder on the texts of corpora. `hbt train model.path=OUT/model` starts from it."""
    config = load(PretrainRunConfig, config_file, overrides)
    from rich.console import Console

    from hbt_ray.cluster.pipelines.pretrain import held_out_table
    from hbt_ray.cluster.pipelines.pretrain import pretrain as pretrain_on_cluster

    finished = pretrain_on_cluster(config, _out_folder(out, config.name), fresh=fresh)
    Console().print(held_out_table(finished.held_out))
    click.echo(f"model    {finished.folder.model}\nruns     {finished.ui_command}")


@main.command()
@click.option("--config", "config_file", type=click.Path(), required=True, help="The search's settings, a YAML file.")
@_overrides_argument
@_out_option("The search's folder", "NAME")
def search(config_file: str, overrides: tuple[str, ...], out: str | None) -> None:
    """Search settings of a run, such as alpha. A dev set chooses the best run, which is then evaluated.

    KEY=VALUE changes a setting of the search; run.KEY=VALUE changes one that all its runs have in common.
    """
    from hbt_ray.search.config import load_search

    config = load_search(config_file, overrides)
    from rich.console import Console

    from hbt_ray.cluster.search.run_search import search as search_on_cluster
    from hbt_ray.search.tables import result_tables

    finished = search_on_cluster(config, _out_folder(out, config.run.name))
    for table in result_tables(config, finished.results):
        Console().print(table)
    click.echo(f"best     {finished.folder / 'best.yaml'}\nruns     {finished.ui_command}")


@main.command()
@click.argument("name", required=False)
@_overrides_argument
@click.option("--config", "config_file", type=click.Path(), help="Settings of another study, a YAML file.")
@_out_option("The study's folder", "NAME")
def study(name: str | None, overrides: tuple[str, ...], config_file: str | None, out: str | None) -> None:
    """Compare methods of training, each with several seeds. Differences are tested, and a report is written.

    NAME is a study of this package, such as low-resource. KEY=VALUE changes a setting of the study; run.KEY=VALUE
    changes one that all its methods have in common.
    """
    from hbt_ray.study.config import load_study, study_file

    if name is not None and "=" in name:
        overrides, name = (name, *overrides), None
    if (name is None) == (config_file is None):
        raise ConfigError("name a study, such as hbt study low-resource, or write --config FILE")
    config = load_study(config_file or study_file(str(name)), overrides)
    folder = out or f"{OUT_DEFAULT}/{config.name}"
    from rich.console import Console
    from rich.markdown import Markdown

    from hbt_ray.cluster.pipelines.study import study as study_on_cluster
    from hbt_ray.study.report_sections import results_section

    source = [name] if name else ["--config", str(config_file)]
    repeat = shlex.join(["hbt", "study", *source, *map(redact_value, overrides), "--out", folder])
    finished = study_on_cluster(config, folder, repeat)
    Console().print(Markdown("\n".join(results_section(finished.results).lines)))
    click.echo(f"report   {finished.page}\nruns     {finished.ui_command}")


@main.command()
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
@click.option("--pooling", type=click.Choice(["mean", "cls"]), default="mean", help="For a model that brings none.")
@click.option("--trust-remote-code", is_flag=True, help="Run code from the model's repository.")
@click.option("--query-prefix", help="Default: what the model brings.")
@click.option("--passage-prefix", help="Default: what the model brings.")
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
    """Evaluate a model on benchmarks, in this process. With --shards, on a Ray cluster."""
    folders = _benchmark_folders(benchmarks)
    if index != "flat" and not shards:
        raise ConfigError(f"an index {index} is built in shards; write --shards 1 or more")
    from hbt_ray.data.benchmarks import ReadOptions, check_options
    from hbt_ray.evaluation.report import print_report

    check_options(folders, ReadOptions(with_paragraph, split))
    settings = EvaluateConfig(
        benchmarks=folders,
        precision=precision,
        run_depth=run_depth,
        with_paragraph=with_paragraph,
        split=split,
        perturbations=perturbations,
        window_chars=window_chars,
        shards=shards,
        index=index,
        index_depth=index_depth,
        dimensions=dimensions,
    )
    described: dict[str, Any] = {"pooling": pooling, "query_prefix": query_prefix, "passage_prefix": passage_prefix}
    described["trust_remote_code"] = trust_remote_code
    if shards:
        from hbt_ray.cluster.evaluation.evaluate import evaluate_in_shards
        from hbt_ray.cluster.runtime import connect

        connect()
        reports: Iterable[EvalReport] = evaluate_in_shards(model, settings, Path(out).resolve(), **described)
    else:
        from hbt_ray.evaluation.run_evaluation import evaluate_model

        reports = evaluate_model(model, settings, Path(out), **described)
    for report in reports:
        print_report(report)
    click.echo(f"report   {out}")


def _benchmark_folders(options: Sequence[str]) -> dict[str, str]:
    """Parse each --benchmark: NAME=FOLDER, or the name of a benchmark that needs no folder.

    Raises:
        CorpusError: a name needs a folder, or is given twice.
    """
    from hbt_ray.data.benchmarks import can_be_downloaded

    folders: dict[str, str] = {}
    for option in options:
        name, equals, folder = option.partition("=")
        if not equals and name != "embedded" and not can_be_downloaded(name):
            raise CorpusError(f"--benchmark {option!r} names no folder; write {name}=FOLDER")
        if name in folders:
            raise CorpusError(f"--benchmark names {name} twice; write beir/one=FOLDER and beir/other=FOLDER")
        folders[name] = folder
    return folders


@main.command()
@click.argument("runs", nargs=-1)
@click.option("--experiment", help="Compare runs of this MLflow experiment, all or those named, instead of folders.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Only runs of the experiment with this tag.")
@click.option("--uri", help="The MLflow store. Default: MLFLOW_TRACKING_URI, or the SQLite file beside the runs.")
@click.option("--out", help="Folder for comparison.png.")
def compare(runs: Sequence[str], experiment: str | None, tags: Sequence[str], uri: str | None, out: str | None) -> None:
    """Print runs in one table, and the significance of their differences.

    RUNS are folders of runs or reports; with --experiment, names or ids of tracked runs. Runs that differ only in
    their seed are one row; every other row is tested against the first.
    """
    if not runs and not experiment:
        raise UserError("name the folders of runs to compare, or --experiment NAME for tracked ones")
    if tags and not experiment:
        raise UserError("--tag selects tracked runs; write --experiment NAME as well")
    from rich.console import Console

    from hbt_ray.config import TrackingConfig
    from hbt_ray.evaluation.compare import comparison_figure, comparison_table, run_groups_in, significance_table
    from hbt_ray.tracking import resolve_uri, ui_command

    with tempfile.TemporaryDirectory() as scratch:
        if experiment:
            store = resolve_uri(TrackingConfig(uri=uri), Path(OUT_DEFAULT).expanduser() / "run")
            groups = _tracked_groups(store, experiment, runs, tags, Path(scratch))
        else:
            store = resolve_uri(TrackingConfig(uri=uri), Path(runs[0]).resolve())
            groups = run_groups_in(runs)
        Console().print(comparison_table(groups))
        if significance := significance_table(groups):
            Console().print(significance)
    if out:
        from hbt_ray.evaluation.report import make_folder
        from hbt_ray.utils.plotting import save_figure

        make_folder(Path(out))
        save_figure(comparison_figure(groups), Path(out) / "comparison.png")
        click.echo(f"figure   {Path(out) / 'comparison.png'}")
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


@main.command()
@click.option("--out", default=f"{OUT_DEFAULT}/quickstart", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--steps", type=click.IntRange(1), help="Of each training. Default: 150.")
def quickstart(out: str, seed: int, steps: int | None) -> None:
    """Train three strategies on the embedded corpus and compare them. Downloads nothing."""
    from rich.console import Console

    from hbt_ray.cluster.pipelines.quickstart import run_quickstart
    from hbt_ray.evaluation.compare import RunGroup, comparison_table, significance_table
    from hbt_ray.presets import STEPS

    finished = run_quickstart(Path(out).expanduser().resolve(), seed=seed, steps=steps or STEPS)
    groups = [RunGroup.of_run(name, folder) for name, folder in finished.folders.items()]
    Console().print(comparison_table(groups))
    Console().print(significance_table(groups))
    click.echo(f"summary  {finished.summary}\nruns     {finished.ui_command}")


@main.command()
@click.option("--part", "parts", multiple=True, metavar="NAME", help="Repeatable. Default: all.")
@_out_option("Folder for bench.json", "bench")
@click.option("--model", help="Folder or hub name of the encoder. Default: a random one of MiniLM's size.")
@click.option(
    "--xquad", type=click.Path(), help="Folder of XQuAD-R. Default: random texts or vectors of the same number."
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Of each contestant, alternating.")
@click.option(
    "--quick", is_flag=True, help="Small sizes, so that every part ends in seconds: a check, not a measurement."
)
@click.option(
    "--assume", multiple=True, metavar="KEY=NUMBER", help="In the part scale, such as between_nodes_gbit_s=100."
)
def bench(
    parts: Sequence[str],
    out: str | None,
    model: str | None,
    xquad: str | None,
    rounds: int,
    quick: bool,
    assume: Sequence[str],
) -> None:
    """Measure speed and memory, each against a baseline.

    Writes bench.json: value, unit, peer (the baseline), ratio, spread and details of every part. Results of other
    parts from earlier runs are kept.
    """
    from hbt_ray.bench.registry import BenchSettings, check_parts, run_parts
    from hbt_ray.bench.scaling_model import format_predictions, override_assumptions

    check_parts(parts)
    folder = _out_folder(out, "bench").resolve()
    assumed = dict(_parse_assumption(option) for option in assume)
    override_assumptions(assumed)
    settings = BenchSettings(folder, model, xquad, rounds, quick, assumed)
    outcome = run_parts(parts, settings, click.echo)
    if "scale" in outcome.results:
        from rich.console import Console

        Console().print(format_predictions(outcome.results["scale"]))
    click.echo(f"results  {folder / 'bench.json'}")
    if outcome.failed:
        raise UserError(f"no result of {', '.join(outcome.failed)}; see above")


def _parse_assumption(option: str) -> tuple[str, float]:
    """Parse an --assume, KEY=NUMBER; raise ConfigError if the value is not a number."""
    key, _, value = option.partition("=")
    try:
        return key, float(value)
    except ValueError:
        raise ConfigError(f"--assume {option!r} is no number; write KEY=NUMBER, such as pairs_per_gpu=64") from None


if __name__ == "__main__":
    main()
