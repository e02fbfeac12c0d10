"""Options and arguments of several commands, and the folder of all results."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
from click.shell_completion import CompletionItem

from hbt_ray.config import CONFIGS, PretrainRunConfig, RunConfig, setting_keys
from hbt_ray.errors import ConfigError
from hbt_ray.utils.display_text import wrap_for
from hbt_ray.utils.process import is_submitted_job

# On a cluster, HBT_RUNS must name a folder that every node sees.
OUT_DEFAULT = os.environ.get("HBT_RUNS", "~/hbt_runs")


logger = logging.getLogger(__name__)
CommandT = TypeVar("CommandT", bound=Callable[..., object])


def examples(*commands: str) -> str:
    """Return the epilog of a command's help with lines to copy."""
    return "\n".join(["\b", "Examples:", *(f"  {command}" for command in commands)])


def echo_sentences(text: str) -> None:
    """Print lines on stdout; on a terminal, long ones are broken between words."""
    click.echo(wrap_for(sys.stdout, text))


def complete_override(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the keys of settings that begin with a text, for the shell."""
    by_length = sorted(setting_keys(RunConfig), key=len)
    shortest = {key[-1]: ".".join(key) for key in reversed(by_length)}
    keys = {*shortest, *map(".".join, by_length)}
    return [CompletionItem(f"{key}=") for key in sorted(keys) if key.startswith(incomplete)]


def complete_config(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the package's configurations and the files that begin with a text, for the shell."""
    packaged = [file.stem for file in sorted(CONFIGS.glob("*.yaml")) if file.stem.startswith(incomplete)]
    return [*map(CompletionItem, packaged), CompletionItem(incomplete, type="file")]


config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(),
    shell_complete=complete_config,
    help="Settings: a YAML file, or the name of one of the package, such as smoke.",
)
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=complete_override)
trust_option = click.option("--trust-remote-code", is_flag=True, help="Run code from the model's repository.")
fresh_option = click.option("--fresh", is_flag=True, help="Start over if the folder has a run already.")


def out_option(folder: str, default: str) -> Callable[[CommandT], CommandT]:
    """Return the option --out of a command.

    Args:
        folder: what it names, for the help.
        default: the default folder, below OUT_DEFAULT.
    """
    return click.option("--out", help=f"{folder}. Default: {OUT_DEFAULT}/{default}.")


def loading_options(command: CommandT) -> CommandT:
    """Add the options of how any model is loaded and used."""
    options = (
        click.option(
            "--pooling",
            type=click.Choice(["mean", "cls", "lasttoken", "weightedmean"]),
            default="mean",
            help="For a model that brings none.",
        ),
        trust_option,
        click.option("--query-prefix", help="Default: what the model brings."),
        click.option("--passage-prefix", help="Default: what the model brings."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def check_corpora(config: RunConfig | PretrainRunConfig) -> None:
    """Check, before anything is started, that corpora are configured and have the configured languages.

    Raises:
        ConfigError: the settings name no corpora, or a language that the corpora do not have.
        CorpusError: there is nothing to read.
    """
    if "corpora" not in config.model_fields_set:
        raise ConfigError(
            "no corpora are configured; `hbt inspect FOLDER` prints the settings for your files, and "
            "corpora='[{format: embedded}]' takes the small corpus that comes with the package"
        )
    if config.languages is not None:
        from hbt_ray.data.corpora import check_languages_of_run

        check_languages_of_run(config.languages, config.corpora)


def out_folder(out: str | None, default: str) -> Path:
    """Return the folder of the option --out, or the default one below OUT_DEFAULT.

    A warning names a folder in the working directory of a Ray job: that directory is deleted after the job.
    """
    folder = Path(out or f"{OUT_DEFAULT}/{default}").expanduser()
    if is_submitted_job() and folder.resolve().is_relative_to(Path.cwd()):
        logger.warning(
            "--out %s is in the working directory of this job, which Ray deletes; write a folder outside of it, such "
            "as %s/%s",
            folder,
            OUT_DEFAULT,
            default,
        )
    return folder
