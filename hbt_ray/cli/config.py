"""The commands `config`: show, check, explain and init."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_origin

import click

from hbt_ray.cli.command_group import Commands
from hbt_ray.cli.options import check_corpora, complete_config, complete_override, examples
from hbt_ray.config import (
    ConfigSection,
    PretrainRunConfig,
    RunConfig,
    dump_config,
    flatten_settings,
    full_key,
    load,
    read_yaml,
    setting_keys,
    stored_settings,
)
from hbt_ray.config.base import Settings
from hbt_ray.config.reference import section_of
from hbt_ray.errors import ConfigError
from hbt_ray.utils.atomic_write import atomic_write_text, output_errors

_file_argument = click.argument("file", shell_complete=complete_config)
_overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=complete_override)


@click.group(
    cls=Commands,
    epilog=examples(
        "hbt config init faq.yaml",
        "hbt config check faq.yaml",
        "hbt config show smoke alpha=0.6",
        "hbt config explain alpha",
    ),
)
def config() -> None:
    """Write, check, show and explain settings."""


@config.command(epilog=examples("hbt config show smoke", "hbt config show smoke alpha=0.6 --changed"))
@_file_argument
@_overrides_argument
@click.option("--changed", is_flag=True, help="Only what differs from its default.")
def show(file: str, overrides: tuple[str, ...], changed: bool) -> None:
    """Print all settings that a file and overrides give, as YAML.

    FILE is a run's, pretraining's, search's or study's, or the name of one of the package. Environment variables stay
    as they are written, and secrets are masked.
    """
    settings = load_any(file, overrides)
    if not changed:
        click.echo(dump_config(settings), nl=False)
        return
    for key, value in _changed(settings).items():
        click.echo(f"{key}: {value}")


@config.command(epilog=examples("hbt config check faq.yaml", "hbt config check faq.yaml train.workers=4"))
@_file_argument
@_overrides_argument
def check(file: str, overrides: tuple[str, ...]) -> None:
    """Check settings, corpora, models and workers; start nothing.

    These are the checks that a command does before it starts anything, with those of the addresses of Ray and MLflow.
    """
    settings = load_any(file, overrides)
    run = getattr(settings, "run", settings)
    if isinstance(run, RunConfig | PretrainRunConfig):
        check_corpora(run)
        from hbt_ray.cluster.preflight import check_before_start

        check_before_start(run)
    click.echo(f"{file} is valid; {len(_changed(settings))} settings differ from their defaults")


@config.command(epilog=examples("hbt config explain alpha", "hbt config explain train", "hbt config explain"))
@click.argument("keys", nargs=-1, metavar="[KEY]...", shell_complete=complete_override)
def explain(keys: Sequence[str]) -> None:
    """Say what settings mean: their values and defaults.

    KEY may be shortened, and may be a section, such as train. Without a KEY, all sections are listed.
    """
    from hbt_ray.config.template import explain_setting

    if keys:
        click.echo("\n\n".join(explain_setting(full, config_type) for config_type, full in map(_resolve, keys)))
        return
    for name in RunConfig.model_fields:
        click.echo(explain_setting((name,)).partition("\n  -")[0])


@config.command(epilog=examples("hbt config init faq.yaml", "hbt config init --pretrain"))
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@click.option("--pretrain", is_flag=True, help="The settings of `hbt pretrain` instead of those of `hbt train`.")
def init(file: str | None, pretrain: bool) -> None:
    """Write a file of all settings, each with its meaning and default.

    Without FILE, it is printed.
    """
    from hbt_ray.config.template import commented_settings

    if file is not None and Path(file).exists():
        raise ConfigError(f"{file} exists; name a new file, or delete it")
    config_type: type[ConfigSection] = PretrainRunConfig if pretrain else RunConfig
    text = commented_settings(config_type, f"Settings of `hbt {'pretrain' if pretrain else 'train'}`.")
    if file is None:
        click.echo(text, nl=False)
        return
    with output_errors(Path(file)):
        atomic_write_text(Path(file), text)
    click.echo(f"settings  {file}\nnext      hbt config check {file}")


def load_any(file: str, overrides: Sequence[str]) -> ConfigSection:
    """Load the settings of a run, pretraining, search or study, whichever a file holds.

    Raises:
        ConfigError: the file cannot be read, or a setting is wrong.
    """
    from hbt_ray.search.config import load_search
    from hbt_ray.study.config import load_study, study_file

    if "=" in file:
        raise ConfigError(f"{file!r} is an override; name the file first, such as hbt config show smoke {file}")
    path: str | Path = file
    if not Path(file).expanduser().exists() and "/" not in file:
        try:
            path = study_file(file)
        except ConfigError:
            path = file
    data = read_yaml(path)
    if "methods" in data:
        return load_study(path, overrides)
    if "space" in data:
        return load_search(path, overrides)
    return load(PretrainRunConfig if "pretrain" in data else RunConfig, path, overrides)


def _changed(settings: ConfigSection) -> Settings:
    """Return the settings that differ from their defaults, by their keys."""
    return flatten_settings(_without_defaults(stored_settings(settings), type(settings)))


def _without_defaults(given: Settings, section: type[ConfigSection], default: Settings | None = None) -> Settings:
    """Return plain settings of a section without those that have their default.

    A section in a list or mapping, or one whose default is null, is compared with the defaults of its kind.

    Args:
        given: the settings.
        section: their kind.
        default: what the section has by default; None: the defaults of its kind.
    """
    if default is None:
        default = section.model_construct().model_dump(mode="json")
    changed: Settings = {}
    for name, value in given.items():
        if name in default and default[name] == value:
            continue
        annotation = section.model_fields[name].annotation
        inner = section_of(annotation)
        if inner is None or value is None:
            changed[name] = value
        elif isinstance(value, list):
            changed[name] = [_without_defaults(entry, inner) for entry in value]
        elif get_origin(annotation) is dict:
            changed[name] = {key: _without_defaults(entry, inner) for key, entry in value.items()}
        else:
            changed[name] = _without_defaults(value, inner, default.get(name))
    return changed


def _resolve(key: str) -> tuple[type[ConfigSection], tuple[str, ...]]:
    """Return the settings that have a key, which may be shortened, and the full key; those of a run come first."""
    parts = tuple(key.split("."))
    for config_type in (RunConfig, PretrainRunConfig):
        if parts in setting_keys(config_type, of_entries=True):
            return config_type, parts
    try:
        return RunConfig, full_key(key)
    except ConfigError as error:
        try:
            return PretrainRunConfig, full_key(key, PretrainRunConfig)
        except ConfigError:
            raise error from None
