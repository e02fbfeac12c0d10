"""Parts of the benchmark by name, and the command `hbt bench`."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from hbt_ray.bench import BenchResult
from hbt_ray.bench.registry import BENCHES, BenchSettings, run_parts
from hbt_ray.cli import main
from hbt_ray.errors import UserError

RESULT = BenchResult(4.0, "steps/s", 2.0, 2.0, (1.5, 2.5), {"peer_is": "another"})


@pytest.fixture
def fake_parts(monkeypatch):
    """Replace the registry by two parts of this module that run, one that lacks a library, and one that fails."""
    names = {"one": "part_one", "lacking": "part_lacking", "failing": "part_failing", "two": "part_two"}
    monkeypatch.setattr(
        "hbt_ray.bench.registry.BENCHES", {name: f"{__name__}:{function}" for name, function in names.items()}
    )


def part_one(settings: BenchSettings) -> BenchResult:
    return replace(RESULT, value=float(settings.rounds))


def part_two(settings: BenchSettings) -> BenchResult:
    assert "one" in json.loads((settings.out / "bench.json").read_text())  # written before this part ran
    return RESULT


def part_lacking(settings: BenchSettings) -> BenchResult:
    raise ModuleNotFoundError("No module named 'ray'", name="ray")


def part_failing(settings: BenchSettings) -> BenchResult:
    raise UserError("no space")


def test_run_skips_parts_that_lack_a_library_or_fail(fake_parts, tmp_path):
    lines: list[str] = []
    outcome = run_parts((), BenchSettings(tmp_path, rounds=3), lines.append)
    assert list(outcome.results) == list(json.loads((tmp_path / "bench.json").read_text())) == ["one", "two"]
    assert outcome.skipped == {"lacking": "lacking needs ray; pip install 'hbt_ray[bench]'"}
    assert outcome.failed == {"failing": "no space"}
    assert [line.split(":")[0] for line in lines] == ["one", "skipped", "failed", "two"]


def test_named_part_that_cannot_run_raises_a_user_error(fake_parts, tmp_path):
    with pytest.raises(UserError, match=r"lacking needs ray; pip install 'hbt_ray\[bench\]'"):
        run_parts(["lacking"], BenchSettings(tmp_path))
    with pytest.raises(UserError, match="no space"):
        run_parts(["failing"], BenchSettings(tmp_path))
    with pytest.raises(UserError, match="there is no part 'on'; did you mean 'one'\\? There are one, lacking"):
        run_parts(["one", "on"], BenchSettings(tmp_path))
    assert not (tmp_path / "bench.json").exists()


def test_only_parts_that_need_ray_are_in_the_cluster_package():
    assert {name for name, function in BENCHES.items() if function.startswith("hbt_ray.cluster")} == {
        "train_under_ray",
        "two_workers",
        "vocabulary_step",
        "reproducible",
        "prepare",
        "prepare_scale",
        "start_up",
        "search",
    }
    assert all(function.startswith("hbt_ray.") and function.count(":") == 1 for function in BENCHES.values())


def test_command_prints_and_writes_results(fake_parts, tmp_path):
    result = CliRunner().invoke(main, ["bench", "--part", "one", "--rounds", "7", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "one: 7 steps/s against 2" in result.output
    assert json.loads((tmp_path / "bench.json").read_text())["one"]["value"] == 7
    result = CliRunner().invoke(main, ["bench", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "hbt: no result of failing; see above" in result.output
    for arguments, message in (
        (["--part", "nothing"], "there is no part 'nothing'; there are one, "),
        (["--part", "one", "--assume", "speed=3"], "there is no assumption 'speed'; write --assume with one of "),
        (["--part", "one", "--assume", "width=x"], "'width=x' is no number; write KEY=NUMBER"),
    ):
        result = CliRunner().invoke(main, ["bench", *arguments])
        assert (result.exit_code, message in result.output) == (2, True), result.output


def test_list_names_every_part():
    assert CliRunner().invoke(main, ["bench", "--list"]).output.split() == list(BENCHES)
