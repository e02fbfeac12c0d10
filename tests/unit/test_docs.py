"""Every document names files, commands, settings and symbols; all of them must exist."""

import ast
import importlib
import re
import shlex
import textwrap
from collections.abc import Sequence

import click
import pytest

from hbt_ray.cli import main
from hbt_ray.config import CONFIGS, PretrainRunConfig, RunConfig, load, load_config, setting_keys
from hbt_ray.config.reference import reference
from hbt_ray.search.config import load_search
from tests.helpers.paths import PACKAGE, REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in (REPOSITORY / "README.md", REPOSITORY / ".github/CONTRIBUTING.md", *PACKAGE.rglob("README.md"))
)
every_document = pytest.mark.parametrize("document", DOCUMENTS)


@pytest.fixture
def packaged_configurations(monkeypatch) -> list[str]:
    """Return the names of the package's configurations, whose environment variables are set."""
    monkeypatch.setenv("HBT_DATA", "data")
    monkeypatch.setenv("HBT_MODELS", "models")
    return sorted(file.stem for file in CONFIGS.glob("*.yaml"))


def text_of(document: str) -> str:
    """Read a document."""
    return (REPOSITORY / document).read_text(encoding="utf-8")


def code_blocks(document: str, language: str) -> list[str]:
    """Return the code blocks of a language."""
    blocks = re.findall(rf"^ *```{language}\n(.*?)```", text_of(document), re.S | re.M)
    return [textwrap.dedent(block) for block in blocks]


def hbt_commands(document: str) -> list[list[str]]:
    """Return every call of hbt in the shell blocks of a document, as words; those of `jobs/` as calls of hbt."""
    lines = [line for block in code_blocks(document, "bash") for line in block.replace("\\\n", "").split("\n")]
    calls = [part.strip() for line in lines for part in line.split("&&")]
    calls = [re.sub(r"^ray job submit .* -- +python jobs/(\w+)\.py", r"hbt \1", call) for call in calls]
    return [shlex.split(call, comments=True) for call in calls if call.split(" ", 1)[0] == "hbt"]


def test_slurm_gives_ray_the_cpus_of_the_allocation():
    """Since Slurm 22.05 srun does not take the number from sbatch: Ray would count CPUs that its processes lack."""
    text = (REPOSITORY / "jobs/slurm.sh").read_text(encoding="utf-8")
    [step] = re.findall(r"^srun .*$", text, re.M)
    assert '--cpus-per-task="$SLURM_CPUS_PER_TASK"' in step


def load_packaged(name: str, overrides: Sequence[str] = ()) -> object:
    """Load one of the package's configurations, of whichever kind."""
    if name.startswith("search"):
        return load_search(name, overrides)
    return load(PretrainRunConfig, name, overrides) if name.startswith("pretrain") else load_config(name, overrides)


def anchors(document: str) -> set[str]:
    """Return the anchors that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text_of(document), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_document
def test_links_of_a_document_lead_to_files_and_headings(document: str):
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)]*))?\)", text_of(document)):
        path = (REPOSITORY / document).parent / target if target else REPOSITORY / document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.resolve().relative_to(REPOSITORY).as_posix()), f"{target}#{anchor}"


@every_document
def test_files_named_in_a_document_exist(document: str):
    roots = ((REPOSITORY / document).parent, PACKAGE, REPOSITORY)
    for path in re.findall(r"(?<![\w/.<>-])((?:[\w-]+/)+[\w-]+\.(?:py|yaml))\b", text_of(document)):
        assert any((root / path).exists() for root in roots), path


@every_document
def test_hbt_commands_of_a_document_parse(document: str):
    for call in hbt_commands(document):
        main.commands[call[1]].make_context(call[1], list(call[2:]))  # raises click.UsageError
    for name in re.findall(r"`hbt ([\w-]+)", text_of(document)):
        assert isinstance(main.commands.get(name), click.Command), name


@every_document
def test_settings_in_commands_of_a_document_are_valid(document: str, packaged_configurations: list[str]):
    for call in hbt_commands(document):
        given = main.commands[call[1]].make_context(call[1], list(call[2:])).params
        if given.get("config_file") in packaged_configurations:
            load_packaged(given["config_file"], given["overrides"])  # raises ConfigError


@every_document
def test_python_examples_of_a_document_import_what_exists(document: str):
    for block in code_blocks(document, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hbt_ray"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_readme_shows_the_main_commands_and_the_two_first_by_line_30():
    commands = {call[1] for call in hbt_commands("README.md")}
    assert commands >= {"quickstart", "prepare", "train", "search", "evaluate", "compare"}
    top = "\n".join(README.split("\n")[:30])
    assert "&& hbt quickstart" in top
    assert "&& pytest" in top


def test_readme_lists_every_package():
    section = README.split("## The code, in reading order")[1].split("\n## ")[0]
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert set(re.findall(r"^\| \[(\w+)\]", section, re.M)) == packages


def test_readme_is_at_most_ten_kilobytes_and_180_lines():
    assert len(README.encode()) <= 10_000
    assert README.count("\n") <= 180


def test_settings_reference_is_printed_from_the_schema():
    written = (REPOSITORY / "hbt_ray/config/README.md").read_text(encoding="utf-8")
    assert written.partition("<!-- settings -->\n\n")[2] == reference(), "python -m hbt_ray.config.reference prints it"


def test_settings_reference_names_every_setting():
    tables = reference()
    for run in (RunConfig, PretrainRunConfig):
        for key in setting_keys(run, of_entries=True):
            assert key == ("pretrain",) or f"| `{key[-1]}` |" in tables, key  # a sentence below the run's names it


def test_settings_reference_has_the_settings_of_early_stopping():
    section = reference().partition("### early_stopping\n")[2].partition("\n#")[0]
    assert re.findall(r"^\| `(\w+)`", section, re.M) == ["patience", "min_change"]


def test_every_packaged_configuration_is_valid(packaged_configurations: list[str]):
    assert packaged_configurations
    for name in packaged_configurations:
        load_packaged(name)
