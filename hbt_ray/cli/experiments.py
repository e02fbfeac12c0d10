"""Commands of many runs: search, study."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hbt_ray.cli.options import (
    check_corpora,
    complete_config,
    echo_sentences,
    examples,
    out_folder,
    out_option,
    overrides_argument,
)
from hbt_ray.data.model_files import check_model_exists
from hbt_ray.errors import ConfigError
from hbt_ray.utils.redaction import redact_value

if TYPE_CHECKING:
    from hbt_ray.study.config import StudyConfig


@click.command(
    epilog=examples(
        "hbt search --config search_alpha",
        "hbt search --config search_alpha run.train.steps=50 seeds='[0]' --out short",
    )
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(),
    shell_complete=complete_config,
    required=True,
    help="The search's settings: a YAML file, or search_alpha.",
)
@overrides_argument
@out_option("The search's folder", "NAME")
def search(config_file: str, overrides: tuple[str, ...], out: str | None) -> None:
    """Search settings of a run, such as alpha.

    A dev set chooses the best run, which is then evaluated.

    KEY=VALUE changes a setting of the search; run.KEY=VALUE changes one that all its runs have in common.
    """
    from hbt_ray.search.config import load_search

    config = load_search(config_file, overrides)
    check_corpora(config.run)
    folder = out_folder(out, config.run.name).resolve()
    from hbt_ray.search.finished_search import finished_search
    from hbt_ray.search.tables import result_tables
    from hbt_ray.tracking.server import resolve_uri, ui_command
    from hbt_ray.utils.terminal_table import print_tables

    results = finished_search(config, folder)
    if results is not None:
        echo_sentences("this search is finished; write another --out for a second one")
        runs = ui_command(resolve_uri(config.run.tracking, folder))
    else:
        from hbt_ray.cluster.preflight import check_before_start

        check_before_start(config.run)
        for model in getattr(config.space.get("model.path"), "values", None) or ():
            check_model_exists(str(model), "space.model.path")
        from hbt_ray.cluster.search.run_search import search as search_on_cluster

        finished = search_on_cluster(config, folder)
        results, runs = finished.results, finished.ui_command
    print_tables(result_tables(config, results))
    click.echo(f"best     {folder / 'best.yaml'}\npage     {folder / 'report.html'}\nruns     {runs}")


@click.command(
    epilog=examples(
        "hbt study low-resource",
        "hbt study low-resource seeds='[0]' run.train.steps=50 --out short",
        "hbt study paper --preset real-cpu --dry-run",
        "hbt study --config my-study.yaml",
    )
)
@click.argument("name", required=False)
@overrides_argument
@click.option("--config", "config_file", type=click.Path(), help="Settings of another study, a YAML file.")
@click.option("--preset", help="Alternative settings of the study, by their name in its file.")
@click.option("--dry-run", is_flag=True, help="Check the settings, data and models, and print what would be done.")
@out_option("The study's folder", "NAME")
def study(
    name: str | None,
    overrides: tuple[str, ...],
    config_file: str | None,
    preset: str | None,
    dry_run: bool,
    out: str | None,
) -> None:
    """Compare methods of training, each with several seeds.

    Differences are tested, and a report is written.

    NAME is a study of this package, such as low-resource. KEY=VALUE changes a setting of the study; run.KEY=VALUE
    changes one that all its methods have in common.
    """
    from hbt_ray.study.config import load_study, study_file

    if name is not None and "=" in name:
        overrides, name = (name, *overrides), None
    if (name is None) == (config_file is None):
        raise ConfigError("name a study, such as hbt study low-resource, or write --config FILE")
    config = load_study(config_file or study_file(str(name)), overrides, preset)
    if not all("corpora" in method.settings for method in config.methods.values()):
        check_corpora(config.run)
    if dry_run:
        from hbt_ray.study.checks import check_study, describe_study
        from hbt_ray.utils.terminal_table import print_markdown

        with tempfile.TemporaryDirectory() as folder_of_benchmarks:
            print_markdown(describe_study(check_study(config, Path(folder_of_benchmarks))))
    folder = str(out_folder(out, config.name))
    from hbt_ray.study.finished_study import finished_study
    from hbt_ray.utils.terminal_table import print_markdown

    lines = None if dry_run else finished_study(config, Path(folder))
    if lines is not None:
        echo_sentences("this study is finished; add seeds or methods, or write another --out for a second one")
        print_markdown(lines)
        from hbt_ray.tracking.server import resolve_uri, ui_command

        runs = ui_command(resolve_uri(config.run.tracking, Path(folder)))
        click.echo(f"report   {Path(folder) / 'report.html'}\nruns     {runs}")
        return
    _check_models(config)
    if dry_run:
        echo_sentences("checked  settings, corpora, benchmarks, metrics, models and this machine; nothing was written")
        return
    source = [name] if name else ["--config", str(config_file)]
    source += ["--preset", preset] if preset else []
    repeat = shlex.join(["hbt", "study", *source, *map(redact_value, overrides), "--out", folder])
    from hbt_ray.cluster.pipelines.study import study as study_on_cluster
    from hbt_ray.study.report_sections import results_section

    finished = study_on_cluster(config, folder, repeat)
    print_markdown(results_section(finished.results).lines)
    click.echo(f"report   {finished.page}\nruns     {finished.ui_command}")


def _check_models(config: StudyConfig) -> None:
    """Check that the models of a study exist, and that this machine or the named cluster can run its workers."""
    from hbt_ray.cluster.preflight import check_before_start

    check_before_start(config.run)
    by_method, by_pretraining = ([one.settings for one in of.values()] for of in (config.methods, config.pretraining))
    for settings in (*by_method, *by_pretraining):
        for key in ("model.path", "loss.distillation.teacher"):
            if isinstance(path := settings.get(key), str):
                check_model_exists(path, key)
