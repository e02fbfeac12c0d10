"""Output and exit codes of `hbt`. Nothing here starts a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
from click.testing import CliRunner, Result

from hbt_ray import api
from hbt_ray.cli import main
from hbt_ray.cli.training import quickstart
from hbt_ray.errors import (
    CheckpointError,
    ClusterError,
    ConfigError,
    CorpusError,
    HbtError,
    StorageError,
    StoreError,
    TrackingError,
    TrainingDiverged,
    UserError,
)
from hbt_ray.utils.progress import active_stages
from tests.helpers import tiny_corpus

COMMANDS = ("inspect", "prepare", "mine", "train", "evaluate", "compare", "quickstart", "debias")


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    """Run each test in an empty folder, and restore the environment variables that commands set."""
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(os.environ, {"HOME": str(tmp_path)}):
        for name in ("MLFLOW_TRACKING_URI", "HBT_DEBUG"):
            os.environ.pop(name, None)
        yield


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def write_report(folder: str, **metrics: float) -> None:
    """Write a report.json with the mAP of each setting."""
    Path(folder).mkdir(parents=True)
    named = {f"tiny/{setting}/map": value for setting, value in metrics.items()}
    (Path(folder) / "report.json").write_text(json.dumps({"benchmark": "tiny", "metrics": named}))


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_every_command_with_its_purpose(option):
    result = run(option)
    assert result.exit_code == 0
    commands = result.stdout.partition("Commands:\n")[2].partition("\n\n")[0]
    listed = {line.split()[0]: line for line in commands.splitlines() if line.strip()}
    assert set(COMMANDS) <= set(listed)
    assert all(len(line.split()) > 3 for line in listed.values())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: main {command} [OPTIONS]")


def test_prepare_ends_with_the_training_or_what_its_batches_lack(tmp_path, monkeypatch):
    tiny_corpus.make_store(tmp_path)
    monkeypatch.setattr("hbt_ray.api.prepare", lambda config, stores: tmp_path)
    monkeypatch.setattr("hbt_ray.data.prepare.describe_store", lambda store, manifest: "")
    command = ("prepare", "--config", "smoke", "global_batch_pairs=8", "chunk_pairs=4")
    possible, impossible = run(*command), run(*command, "languages=[en]")
    assert possible.stdout == "\nnext     hbt train --config smoke global_batch_pairs=8 chunk_pairs=4\n"
    assert "next" not in impossible.stdout
    assert "not yet  no cross-lingual batch can be made" in impossible.stdout


def test_version_is_that_of_the_package():
    result = run("--version")
    assert (result.exit_code, result.stdout.split()[-1]) == (0, version("hbt_ray"))


USER_ERRORS = [
    (("train", "--config", "absent.yaml"), "cannot read the configuration 'absent.yaml': No such file"),
    (("prepare", "--config", "absent.yaml"), "cannot read the configuration 'absent.yaml': No such file"),
    (("train", "alpha=2"), "mix.alpha is 2: input should be less than or equal to 1"),
    (("prepare", "near_duplicate_threshold=0"), "near_duplicate_threshold is 0: input should be greater than 0"),
    (("train", "alhpa=0.5"), "there is no setting 'alhpa'; did you mean 'mix.alpha'?"),
    (("prepare", "alpha"), "'alpha' is not an override; write key=value"),
    (("train", "alpha=0.5"), "no corpora are configured; `hbt inspect FOLDER` prints the settings for your files"),
    (("pretrain",), "no corpora are configured"),
    (
        ("train", "--config", "smoke", "languages=[en,xx]"),
        "languages: 'xx' is no language code; there are am, ar, bn, de",
    ),
    (("prepare", "--config", "smoke", "languages=[en,pl]"), "languages: 'pl' is not in the corpora; there are am, ar"),
    (("inspect", "absent"), "there is nothing at 'absent'; correct the path"),
    (("mine", "--model", "x", "mine.depht=3"), "there is no setting 'mine.depht'; did you mean 'mine.depth'?"),
    (
        ("mine", "--model", "x", "depth=5", "skip_first=2"),
        "depth 5 cannot give 4 negatives after 2 skipped; write depth=6",
    ),
    (("mine", "--model", "x", "margin=1.5"), "mine.margin is 1.5: input should be less than or equal to 1"),
    (("train", "global_batch_pairs=10", "workers=4"), "not divisible by workers 4; write 8 or 12"),
    (("plan", "--config", "smoke", "--workers", "4"), "a worker's 16 pairs are not whole chunks of chunk_pairs 32"),
    (("plan", "--config", "smoke", "--workers", "3"), "global_batch_pairs 64 is not divisible by workers 3"),
    (("plan", "--config", "smoke", "workers=[1,2]", "--workers", "3"), "32 are not enough for 3 workers"),
    (("pretrain", "blok_tokens=64"), "there is no setting 'blok_tokens'; did you mean 'pretrain.block_tokens'?"),
    (("pretrain", "objective=contrastive", "dropout=0"), "by dropout only; write model.dropout=0.1"),
    (("evaluate", "--benchmark", "xquad-r=/nonexistent", "--model", "x", "--out", "o"), "nothing at '/nonexistent'"),
    (("evaluate", "--benchmark", "xquad-r", "--model", "x", "--out", "o"), "names no folder; write xquad-r=FOLDER"),
    (("evaluate", "--benchmark", "xquad-r=", "--model", "x", "--out", "o"), "'xquad-r' needs the folder"),
    (
        ("evaluate", "--benchmark", "xqad-r=.", "--model", "x", "--out", "o"),
        "there is no benchmark 'xqad-r'; did you mean 'xquad-r'?",
    ),
    (
        ("evaluate", "--benchmark", "embeded", "--model", "x", "--out", "o"),
        "there is no benchmark 'embeded'; did you mean 'embedded'? There are embedded, xquad-r, squad",
    ),
    (
        ("evaluate", "--benchmark", "xquad-r=.", "--model", "x", "--out", "o"),
        "finds no <language>.json or <language>.json.gz",
    ),
    (("evaluate", "--benchmark", "embedded", "--model", "x", "--index-depth", "500", "--out", "o"), "has no effect"),
    (("compare", "absent"), "there is no report in 'absent'; evaluate a model into that folder first"),
    (("compare",), "name the folders of runs to compare"),
]


@pytest.mark.parametrize(("arguments", "message"), USER_ERRORS, ids=[" ".join(a) for a, _ in USER_ERRORS])
def test_user_error_is_one_line_on_stderr_and_exit_code_2(arguments, message):
    Path("x").mkdir()
    Path("x/config.json").touch()
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("hbt: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert not Path("o").exists()


def test_inspect_writes_what_it_prints_and_names_the_next_command():
    for language in ("de", "en"):
        Path(f"faq-{language}.csv").write_text("query,answer\nWo?,Dort.\nWer?,Ich.\n")
    printed = run("inspect", ".", "name=faq")
    assert (printed.exit_code, printed.stdout.splitlines()[-1]) == (
        0, "# next: hbt inspect . name=faq --write corpus.yaml"
    )  # fmt: skip
    written = run("inspect", ".", "name=faq", "--write", "faq.yaml")
    assert Path("faq.yaml").read_text() == written.stdout
    assert written.stdout.splitlines()[-1] == "# next: hbt prepare --config faq.yaml"
    assert "faq.yaml exists" in run("inspect", ".", "--write", "faq.yaml").stderr
    assert "no/faq.yaml cannot be written (No such" in run("inspect", ".", "--write", "no/faq.yaml").stderr
    assert "`hbt inspect .` prints the settings for these files" in run("prepare", ".").stderr


def test_debug_prints_the_traceback_before_the_message(monkeypatch):
    monkeypatch.setenv("HBT_DEBUG", "1")
    Path("report.json").write_text("{")
    result = run("compare", ".")
    assert result.exit_code == 2
    *trace, line = result.stderr.splitlines()
    assert trace[0] == "Traceback (most recent call last):"
    assert any("JSONDecodeError" in line for line in trace)  # the cause, which `raise ... from None` hides
    assert line == "hbt: 'report.json' is not a report; evaluate the model again"


def test_debug_option_may_be_anywhere_on_the_command_line():
    Path("report.json").write_text("{")
    for arguments in (("--debug", "compare", "."), ("compare", ".", "--debug")):
        result = run(*arguments)
        assert (result.exit_code, result.stderr.splitlines()[0]) == (2, "Traceback (most recent call last):")


@pytest.mark.parametrize("error", [StorageError("no space"), TypeError("no\nnumber")])
def test_traceback_of_a_caused_error_is_in_the_file_that_is_named(monkeypatch, tmp_path, error):
    def fail(*_: object) -> None:
        raise error from OSError("disk full")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("hbt_ray.cli.training.load_config", fail)
    result = run("train")
    [line] = result.stderr.splitlines()
    message, _, file = line.removesuffix(")").partition(" (traceback: ")
    expected = (2, "hbt: no space") if isinstance(error, StorageError) else (1, "hbt: unexpected TypeError: no number")
    assert (result.exit_code, message) == expected
    assert "OSError: disk full" in Path(file).read_text()
    assert Path(file).stat().st_mode & 0o077 == 0


def test_debug_variable_of_zero_prints_no_traceback(monkeypatch):
    monkeypatch.setenv("HBT_DEBUG", "0")
    assert run("train", "alpha=2").stderr.count("\n") == 1


def test_help_names_the_environment_variables():
    variables = run("--help").stdout.partition("Environment variables:")[2]
    assert all(name in variables for name in ("HBT_RUNS", "HBT_DEBUG", "HBT_LOG_LEVEL"))


@pytest.mark.parametrize("error", HbtError.__subclasses__())
def test_every_error_of_the_package_is_one_line(monkeypatch, error):
    def fail(*_: object) -> None:
        raise error("it failed")

    monkeypatch.setattr("hbt_ray.cli.training.load_config", fail)
    result = run("train")
    assert (result.exit_code, result.stderr, result.stdout) == (2, "hbt: it failed\n", "")


def test_only_settings_and_corpora_are_user_errors():
    assert set(UserError.__subclasses__()) == {ConfigError, CorpusError}
    assert issubclass(UserError, ValueError)
    failures = {StoreError, StorageError, CheckpointError, TrainingDiverged, ClusterError, TrackingError}
    assert set(HbtError.__subclasses__()) == {UserError, *failures}


def test_missing_model_is_reported_in_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = run("evaluate", "--benchmark", "embedded", "--model", "./absent", "--out", "o")
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("hbt: model: there is no folder './absent'; write")


def test_quickstart_prints_a_line_before_it_loads_libraries(monkeypatch: pytest.MonkeyPatch, capsys):
    name = "hbt_ray.cluster.pipelines.quickstart"
    before = []

    class Slow(ModuleType):
        def __getattr__(self, attribute: str) -> object:
            before.append((capsys.readouterr().err, [one.name for one in active_stages()]))
            raise UserError("stop")

    monkeypatch.setitem(sys.modules, name, Slow(name))
    with pytest.raises(UserError, match="stop"):
        quickstart.main(["--out", "runs"], standalone_mode=False)
    assert before[0][0].startswith(f"quickstart in {Path('runs').resolve()}; loading torch")
    assert before[0][1] == ["loading libraries"]


@pytest.mark.parametrize("arguments", [("trian",), ("evaluate",), ("quickstart", "--steps", "0"), ("train", "--fersh")])
def test_invalid_command_line_shows_usage_and_exits_with_2(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert "Error: " in result.stderr
    assert "Traceback" not in result.output


def test_evaluate_names_the_folder_of_several_reports_beside_an_earlier_page(monkeypatch, tmp_path):
    monkeypatch.setattr(api, "evaluate", lambda *_, **__: ["of one benchmark", "of another"])
    (tmp_path / "report.html").touch()
    command = [
        "evaluate",
        "--model",
        "m",
        "--benchmark",
        "embedded",
        "--benchmark",
        "miracl/sw",
        "--out",
        str(tmp_path),
    ]
    assert CliRunner().invoke(main, command).stdout == f"report   {tmp_path}\n"


def test_compare_prints_one_row_a_report():
    write_report("one", mono=0.75, cross=0.5)
    write_report("two/evaluation/tiny", mono=0.25, multi=0.125)
    result = run("compare", "one", "two")
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert "0.75" in lines["one"]
    assert "0.50" in lines["one"]
    assert "0.25" in lines["two"]
    assert "0.12" in lines["two"]
    assert "mono mAP" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("runs     mlflow ui --backend-store-uri sqlite:///")


def test_compare_names_a_broken_report():
    write_report("one", mono=0.75)
    write_report("two", mono=0.25)
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


@pytest.mark.parametrize(("settings", "given"), [((), {}), (("query_prefix=q: ",), {"query_prefix": "q: "})])
def test_mine_takes_the_prefixes_that_the_settings_have(tmp_path, monkeypatch, settings, given):
    calls = []

    def mine(*_: object, **prefixes: object) -> None:
        calls.append(prefixes)
        raise UserError("enough")

    monkeypatch.setattr("hbt_ray.cluster.mining.mine_on_cluster", mine)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    result = run("mine", "--model", str(tmp_path / "model"), "corpora=[{format: embedded}]", *settings)
    assert (result.output, calls) == ("hbt: enough\n", [given])
