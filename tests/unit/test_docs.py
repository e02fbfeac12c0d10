"""The README names files, commands and settings; all of them must exist."""

import re
import shlex
from pathlib import Path

import click

from hbt_ray.cli import main
from hbt_ray.config import CONFIGS, PretrainRunConfig, RunConfig, flatten
from hbt_ray.config.reference import reference
from tests.helpers.paths import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BASH = [
    line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.replace("\\\n", "").split("\n")
]


def commands(program: str) -> list[list[str]]:
    """Every call of a program in the README's shell blocks, as words."""
    calls = [part.strip() for line in BASH for part in line.split("&&")]
    return [shlex.split(call) for call in calls if call.split(" ", 1)[0] == program]


def test_every_file_in_the_tree_exists_and_every_module_is_in_the_tree():
    tree = README.split("## Files")[1].split("```")[1]
    inside = re.findall(r"^  (\S+)", tree, re.M)
    assert all((REPOSITORY / "hbt_ray" / name).exists() for name in inside)
    there = {f"{path.name}/" if path.is_dir() else path.name for path in (REPOSITORY / "hbt_ray").glob("[!_]*")}
    assert there == set(inside)
    assert all((REPOSITORY / name).exists() for name in re.findall(r"^([\w./]+)", tree, re.M))


def test_every_path_named_in_the_text_exists():
    for path in re.findall(r"(?:jobs|hbt_ray|tests)/[\w./]+\.(?:py|yaml)", README):
        assert (REPOSITORY / path).exists(), path


def test_every_hbt_command_parses_with_the_options_it_is_given():
    calls = commands("hbt")
    assert {call[1] for call in calls} >= {"prepare", "train", "evaluate", "compare", "quickstart"}
    for call in calls:
        command = main.commands[call[1]]
        command.make_context(call[1], list(call[2:]))  # raises click.UsageError where it does not parse


def test_every_command_in_prose_exists():
    for name in set(re.findall(r"`hbt (\w+)", README)):
        assert isinstance(main.commands.get(name), click.Command), name


def test_settings_reference_is_printed_from_the_schema():
    written = (REPOSITORY / "hbt_ray/config/README.md").read_text(encoding="utf-8")
    assert written.partition("<!-- settings -->\n\n")[2] == reference(), "python -m hbt_ray.config.reference prints it"


def test_settings_reference_names_every_setting():
    tables = reference()
    for run in (RunConfig, PretrainRunConfig):
        for key in flatten(run()):
            assert f"| `{key.rpartition('.')[2]}` |" in tables, key


def test_every_packaged_configuration_is_valid(monkeypatch):
    monkeypatch.setenv("HBT_DATA", "data")
    monkeypatch.setenv("HBT_MODELS", "models")
    from hbt_ray.config import load, load_config
    from hbt_ray.search.config import load_search

    def read(file: Path) -> object:
        if file.name.startswith("search"):
            return load_search(file)
        return load(PretrainRunConfig, file) if file.name.startswith("pretrain") else load_config(file)

    files = sorted(CONFIGS.glob("*.yaml"))
    assert files
    for file in files:
        read(file)
