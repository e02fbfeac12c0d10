"""Commands that train: train, pretrain, quickstart; and mine, which finds negatives for a training."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from hbt_ray.cli.options import (
    OUT_DEFAULT,
    check_corpora,
    config_option,
    examples,
    fresh_option,
    out_folder,
    out_option,
    overrides_argument,
)
from hbt_ray.config import PretrainRunConfig, load, load_config
from hbt_ray.data.model_files import check_model_exists
from hbt_ray.utils.progress import print_line, stage


@click.command(
    epilog=examples(
        "hbt train --config smoke",
        "hbt train --config faq.yaml alpha=0.6 train.steps=2000 --out ~/hbt_runs/faq",
        "hbt train --config faq.yaml model.path=intfloat/multilingual-e5-small",
    )
)
@config_option
@overrides_argument
@out_option("The run's folder", "NAME")
@fresh_option
def train(config_file: str | None, overrides: tuple[str, ...], out: str | None, fresh: bool) -> None:
    """Prepare, train, evaluate and track one run.

    KEY=VALUE changes a setting; `hbt config explain KEY` says what it means. The same command resumes a run that was
    interrupted.
    """
    config = load_config(config_file, overrides)
    check_corpora(config)
    folder = out_folder(out, config.name)
    if not fresh:
        from hbt_ray.training.completed_run import check_not_completed

        check_not_completed(config, folder)
    from hbt_ray import api

    finished = api.train(config, folder, fresh=fresh)
    from hbt_ray.evaluation.report import print_report

    for report in finished.reports.values():
        print_report(report)
    click.echo(f"model    {finished.folder.model}\nruns     {finished.ui_command}")
    if config_file is not None and not config.evaluate.benchmarks and Path(config_file).is_file():
        model, report_folder = str(finished.folder.model), f"{finished.folder.path}-report"
        words = ["hbt", "evaluate", "--model", model, "--benchmark", f"pairs={config_file}", "--out", report_folder]
        click.echo(f"next     {shlex.join(words)}\n         (on the pairs of the training; pairs=FOLDER takes others)")


@click.command(
    epilog=examples(
        "hbt pretrain --config pretrain --out ~/hbt_runs/pretrained",
        "hbt pretrain --config pretrain objective=contrastive dropout=0.1",
        "hbt train --config faq.yaml model.path=~/hbt_runs/pretrained/model",
    )
)
@config_option
@overrides_argument
@out_option("The run's folder", "NAME")
@fresh_option
def pretrain(config_file: str | None, overrides: tuple[str, ...], out: str | None, fresh: bool) -> None:
    """Pretrain an encoder on the texts of corpora.

    `hbt train model.path=OUT/model` starts from it.
    """
    config = load(PretrainRunConfig, config_file, overrides)
    check_corpora(config)
    folder = out_folder(out, config.name)
    if not fresh:
        from hbt_ray.training.completed_run import check_not_completed

        check_not_completed(config, folder)
    from hbt_ray.cluster.preflight import check_before_start

    check_before_start(config)
    from hbt_ray.cluster.pipelines.pretrain import held_out_table
    from hbt_ray.cluster.pipelines.pretrain import pretrain as pretrain_on_cluster
    from hbt_ray.utils.terminal_table import print_tables

    finished = pretrain_on_cluster(config, folder, fresh=fresh)
    print_tables([held_out_table(finished.held_out)])
    click.echo(f"model    {finished.folder.model}\nruns     {finished.ui_command}")


@click.command(
    epilog=examples(
        "hbt mine --config faq.yaml --model ~/hbt_runs/faq/model",
        "hbt mine --config faq.yaml --model intfloat/multilingual-e5-small depth=50",
    )
)
@click.option("--model", required=True, help="Folder or hub name of the model that searches.")
@config_option
@overrides_argument
@out_option("Folder of the mined corpora", "NAME-mined")
def mine(model: str, config_file: str | None, overrides: tuple[str, ...], out: str | None) -> None:
    """Mine hard negatives for a training.

    These are passages that a model ranks high and that do not answer. Texts have the prefixes of the settings; without
    query_prefix and passage_prefix in them, those that the model brings.
    """
    config = load_config(config_file, overrides)
    check_corpora(config)
    check_model_exists(model, "--model")
    from hbt_ray.cluster.preflight import check_cluster_address

    check_cluster_address()
    from hbt_ray.cluster.mining import mine_on_cluster
    from hbt_ray.mining import describe_mined, mined_table
    from hbt_ray.utils.terminal_table import print_tables

    given = {name: getattr(config.text, name) for name in config.text.model_fields_set if name.endswith("_prefix")}
    mined = mine_on_cluster(config, model, out_folder(out, f"{config.name}-mined"), **given)
    print_tables([mined_table(mined)])
    click.echo(describe_mined(mined))


@click.command(epilog=examples("hbt quickstart", "hbt quickstart --steps 50 --out ~/hbt_runs/short"))
@click.option("--out", default=f"{OUT_DEFAULT}/quickstart", help="Folder of the runs and of report.html.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of batches and initial weights.")
@click.option("--steps", type=click.IntRange(1), help="Of each training. Default: 150.")
def quickstart(out: str, seed: int, steps: int | None) -> None:
    """Train and compare three strategies, in minutes.

    The corpus comes with the package; nothing is downloaded.
    """
    folder = Path(out).expanduser().resolve()
    print_line(f"quickstart in {folder}; loading torch and other libraries, which takes longest the first time")
    with stage("loading libraries"):
        from hbt_ray.cluster.pipelines.quickstart import run_quickstart
        from hbt_ray.evaluation.compare import RunGroup, comparison_table, differences, write_comparison_page
        from hbt_ray.presets import STEPS
        from hbt_ray.utils.process import seconds_since_start
        from hbt_ray.utils.terminal_table import print_tables

    finished = run_quickstart(folder, seed=seed, steps=steps or STEPS)
    groups = [RunGroup.of_run(name, of_run) for name, of_run in finished.folders.items()]
    tested = differences(groups)
    page = write_comparison_page(groups, folder, title="Quickstart", tested=tested)
    print_tables([comparison_table(groups, tested)])
    taken = ", ".join(f"{name} {seconds:.0f}" for name, seconds in finished.seconds.items())
    click.echo(f"seconds  {seconds_since_start():.0f}: {taken}")
    click.echo(f"page     {page}\nsummary  {finished.summary}\nruns     {finished.ui_command}")
