"""What `hbt` prints: commands, comparisons, and one line for each mistake. Nothing here starts a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner, Result

from hbt_ray.cli import main

COMMANDS = ("prepare", "mine", "train", "evaluate", "compare", "quickstart")


@pytest.fixture(autouse=True)
def own_environment(tmp_path, monkeypatch):
    """Commands set variables and write below the working folder; neither outlives a test."""
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(os.environ, {"HOME": str(tmp_path)}):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        yield


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def report(folder: str, **metrics: float) -> None:
    """Write a report with the mAP of each setting by hand."""
    Path(folder).mkdir(parents=True)
    named = {f"tiny/{setting}/map": value for setting, value in metrics.items()}
    (Path(folder) / "report.json").write_text(json.dumps({"benchmark": "tiny", "metrics": named}))


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_every_command_with_what_it_does(option):
    result = run(option)
    assert result.exit_code == 0
    listed = {line.split()[0]: line for line in result.stdout.partition("Commands:")[2].splitlines() if line.strip()}
    assert set(COMMANDS) <= set(listed)
    assert all(len(line.split()) > 3 for line in listed.values())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: main {command} [OPTIONS]")


def test_the_version_is_told():
    result = run("--version")
    assert (result.exit_code, result.stdout.split()[-1]) == (0, version("hbt_ray"))


MISTAKES = [
    (("train", "--config", "absent.yaml"), "cannot read the configuration 'absent.yaml': No such file"),
    (("prepare", "--config", "absent.yaml"), "cannot read the configuration 'absent.yaml': No such file"),
    (("train", "alpha=2"), "mix.alpha is 2: input should be less than or equal to 1"),
    (("train", "alhpa=0.5"), "there is no setting 'alhpa'; did you mean 'mix.alpha'?"),
    (("prepare", "alpha"), "'alpha' is not an override; write key=value"),
    (("mine", "--model", "x", "mine.depht=3"), "there is no setting 'mine.depht'; did you mean 'mine.depth'?"),
    (
        ("mine", "--model", "x", "depth=5", "skip_first=2"),
        "depth 5 cannot give 4 negatives after 2 skipped; write depth=6",
    ),
    (("mine", "--model", "x", "margin=1.5"), "mine.margin is 1.5: input should be less than or equal to 1"),
    (("train", "global_batch_pairs=10", "workers=4"), "not divisible by workers 4; write 8 or 12"),
    (("pretrain", "blok_tokens=64"), "there is no setting 'blok_tokens'; did you mean 'pretrain.block_tokens'?"),
    (("pretrain", "objective=contrastive", "dropout=0"), "by dropout only; write model.dropout=0.1"),
    (("evaluate", "--benchmark", "xquad-r=/nonexistent", "--model", "x", "--out", "o"), "nothing at '/nonexistent'"),
    (("evaluate", "--benchmark", "xquad-r", "--model", "x", "--out", "o"), "says no folder; write xquad-r=FOLDER"),
    (("evaluate", "--benchmark", "xquad-r=", "--model", "x", "--out", "o"), "'xquad-r' needs the folder"),
    (
        ("evaluate", "--benchmark", "xqad-r=.", "--model", "x", "--out", "o"),
        "there is no benchmark 'xqad-r'; did you mean 'xquad-r'?",
    ),
    (
        ("evaluate", "--benchmark", "xquad-r=.", "--model", "x", "--out", "o"),
        "finds no <language>.json or <language>.json.gz",
    ),
    (("compare", "absent"), "there is no report in 'absent'; evaluate a model into that folder first"),
    (("compare",), "name the folders of runs to compare"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_line_on_standard_error_and_ends_with_2(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("hbt: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert not Path("o").exists()


def test_a_model_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = run("evaluate", "--benchmark", "embedded", "--model", "./absent", "--out", "o")
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("hbt: the model './absent' cannot be loaded")


@pytest.mark.parametrize("arguments", [("trian",), ("evaluate",), ("quickstart", "--steps", "0"), ("train", "--fersh")])
def test_a_command_line_that_cannot_be_read_ends_with_2_and_points_to_help(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert "Error: " in result.stderr
    assert "Traceback" not in result.output


def test_reports_are_compared_side_by_side():
    report("one", mono=0.75, cross=0.5)
    report("two/evaluation/tiny", mono=0.25, multi=0.125)
    result = run("compare", "one", "two")
    assert result.exit_code == 0
    lines = {line.split()[1]: line for line in result.stdout.splitlines() if line.startswith("│")}
    assert "0.75" in lines["one"]
    assert "0.50" in lines["one"]
    assert "0.25" in lines["two"]
    assert "0.12" in lines["two"]
    assert "mono mAP" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("runs     mlflow ui --backend-store-uri sqlite:///")


def test_a_report_that_is_broken_is_named():
    report("one", mono=0.75)
    report("two", mono=0.25)
    Path("two/report.json").write_text("{")
    result = run("compare", "one", "two")
    assert (result.exit_code, result.stderr) == (
        2,
        "hbt: 'two/report.json' is not a report; evaluate the model again\n",
    )


def test_help_imports_nothing_that_takes_seconds():
    code = (
        "import sys; from hbt_ray.cli import main; main(['train', '--help'], standalone_mode=False); "
        "print([m for m in ('torch', 'ray', 'transformers', 'mlflow', 'datasets', 'pandas') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.getcwd())
    assert result.stdout.splitlines()[-1] == "[]"
