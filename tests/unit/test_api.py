from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import hbt_ray
from hbt_ray import api
from hbt_ray.cli import main
from hbt_ray.models.encoder import load_pretrained
from tests.helpers import tiny_corpus


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with an encoder and a benchmark of 12 pairs in two languages."""
    folder = tmp_path_factory.mktemp("api")
    tiny_corpus.make_encoder(folder / "encoder")
    (folder / "pairs").mkdir()
    for language in ("de", "en"):
        pairs = [
            {"id": str(n), "question": tiny_corpus.question(language, n), "context": tiny_corpus.passage(language, n)}
            for n in range(12)
        ]
        (folder / f"pairs/{language}.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return folder


@pytest.fixture(scope="module")
def reports(folder):
    """Return the reports of the encoder by its folder, and of the same encoder in memory."""
    encoder = load_pretrained(str(folder / "encoder"), device="cpu").train()
    shown = []
    pairs = {"pairs": str(folder / "pairs")}
    by_folder = hbt_ray.evaluate(folder / "encoder", pairs, folder / "one", on_report=shown.append)
    in_memory = hbt_ray.evaluate(encoder, pairs, folder / "other")
    assert encoder.training
    assert shown == by_folder
    return by_folder[0], in_memory[0]


def test_every_public_name_exists_and_is_documented():
    for name in set(hbt_ray.__all__) - {"__version__"}:
        assert getattr(hbt_ray, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'evaluates'"):
        hbt_ray.evaluates  # noqa: B018


def test_a_model_in_memory_is_evaluated_as_its_folder_is(reports, folder):
    by_folder, in_memory = reports
    assert by_folder.metrics == in_memory.metrics
    assert json.loads((folder / "other/report.json").read_text())["model"]["path"] == str(folder / "encoder")


def test_a_model_in_memory_is_refused_in_shards(folder):
    settings = hbt_ray.EvaluateConfig(benchmarks={"pairs": str(folder / "pairs")}, shards=2)
    with pytest.raises(hbt_ray.UserError, match="in memory cannot be evaluated in shards"):
        hbt_ray.evaluate(tiny_corpus.make_encoder(folder / "encoder"), settings, folder / "sharded")


def test_comparison_has_tables_and_a_page(reports, folder):
    comparison = hbt_ray.compare([folder / "one", folder / "other"])
    assert [group.label for group in comparison.groups] == ["one", "other"]
    assert len(comparison.tables()) == 2
    assert comparison.write(folder / "comparison") == folder / "comparison/report.html"
    assert hbt_ray.compare(comparison.groups).differences == comparison.differences


@pytest.mark.parametrize(
    ("command", "function"),
    [
        (["prepare", "corpora=[{format: embedded}]"], "prepare"),
        (["train", "corpora=[{format: embedded}]"], "train"),
        (["evaluate", "--model", "m", "--benchmark", "embedded", "--out", "o"], "evaluate"),
        (["compare", "one", "other"], "compare"),
    ],
)
def test_command_calls_the_function_of_its_name(command, function, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise hbt_ray.UserError(f"called {function}")

    monkeypatch.setattr(api, function, stop)
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert f"called {function}" in done.output
