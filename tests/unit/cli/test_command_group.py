"""Help that teaches: every command has examples that run, defaults are shown, and nothing is cut at 80 columns."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from hbt_ray.cli import main
from hbt_ray.config import CONFIGS, PretrainRunConfig, load, load_config


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield the path and the command of every command, those of groups included."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands())


def help_of(*path: str) -> list[str]:
    result = CliRunner().invoke(main, [*path, "--help"], terminal_width=80, prog_name="hbt")
    assert result.exit_code == 0
    return result.stdout.splitlines()


def examples_of(path: tuple[str, ...]) -> list[list[str]]:
    """Return the words of the examples in a command's help."""
    text = "\n".join(help_of(*path)).partition("Examples:\n")[2]
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("path", [(), *COMMANDS], ids=" ".join)
def test_help_fits_80_columns_and_cuts_no_summary(path):
    lines = help_of(*path)
    assert [line for line in lines if len(line) > 80 or (line.endswith("...") and "Usage: " not in line)] == []


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_example_is_a_command_that_is_understood(path):
    examples = examples_of(path)
    assert examples
    for words in examples:
        words = [word for word in words if not word.startswith("RAY_ADDRESS=")]
        assert words.pop(0) == "hbt"
        command: click.Command = main
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        context = command.make_context("example", words)
        overrides = context.params.get("overrides", ())
        if command.name in ("prepare", "plan", "train", "mine"):
            load_config(None, overrides)
        file = context.params.get("config_file")
        if file in {packaged.stem for packaged in CONFIGS.glob("*.yaml")} and command.name != "search":
            load(PretrainRunConfig, file, overrides) if command.name == "pretrain" else load_config(file, overrides)


def test_commands_are_listed_in_the_order_in_which_they_are_used():
    text = "\n".join(help_of()).partition("Commands:\n")[2]
    listed = [line.split()[0] for line in text.partition("\n\n")[0].splitlines()]
    assert listed == [path[0] for path in COMMANDS if len(path) == 1]
    assert listed.index("inspect") < listed.index("prepare") < listed.index("train") < listed.index("evaluate")


def test_defaults_are_shown():
    text = " ".join(" ".join(help_of("evaluate")).split())
    assert all(f"[default: {value}" in text for value in ("fp32", "mean", "flat", "100", "1000"))


def test_shell_completes_commands_settings_and_configurations():
    def completed(line: str, word: int) -> str:
        environment = {"_HBT_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(word)}
        code = "import sys; sys.argv = ['hbt']; from hbt_ray.cli import main; main(prog_name='hbt')"
        return subprocess.run(
            [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True
        ).stdout

    assert completed("hbt tra", 1) == "plain,train\n"
    assert "plain,mix.alpha=\n" in completed("hbt train mix.al", 2)
    assert completed("hbt config show smo", 3).startswith("plain,smoke\n")
