"""A search that has ended is answered from its files until something has changed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hbt_ray.search.config import SearchConfig, load_search
from hbt_ray.search.finished_search import finished_search, mark_search, read_results
from hbt_ray.search.results import SearchResults, search_results, write_results
from tests.unit.search.searches import TRIALS


@pytest.fixture
def file(tmp_path) -> Path:
    """Return the configuration of a search."""
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder/config.json").write_text("{}")
    settings = {
        "space": {"mix.alpha": [0.0, 0.5, 1.0]},
        "run": {"corpora": [{"format": "embedded"}], "model": {"path": str(tmp_path / "encoder")}},
    }
    (tmp_path / "search.yaml").write_text(json.dumps(settings))  # JSON is YAML
    return tmp_path / "search.yaml"


@pytest.fixture
def config(file) -> SearchConfig:
    return load_search(str(file), ())


@pytest.fixture
def results(config, tmp_path) -> SearchResults:
    """Write the files of a search; return its results."""
    folder, results = tmp_path / "out", search_results(config, TRIALS, 100)
    (folder / "chosen").mkdir(parents=True)
    (folder / "chosen/weights").write_text("1")
    write_results(config, results, TRIALS, folder)
    (folder / "report.html").write_text("<p>")
    mark_search(config, folder)
    return results


def test_results_are_read_as_they_were_written(config, results, tmp_path):
    assert finished_search(config, tmp_path / "out") == results


def test_summary_of_before_candidates_could_be_incomplete_is_read(results, tmp_path):
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    del summary["incomplete"]
    assert read_results(summary) == replace(results, incomplete=())


def test_search_that_was_not_marked_is_not_finished(config, tmp_path):
    assert finished_search(config, tmp_path / "another") is None


@pytest.mark.parametrize("changed", ["out/best.yaml", "out/chosen/weights", "out/report.html", "encoder/config.json"])
def test_changed_file_leaves_something_to_do(config, results, tmp_path, changed):
    (tmp_path / changed).write_text("another")
    assert finished_search(config, tmp_path / "out") is None


def test_deleted_file_and_changed_setting_leave_something_to_do(config, results, tmp_path):
    assert finished_search(config.model_copy(update={"seeds": (0, 1)}), tmp_path / "out") is None
    (tmp_path / "out/trials.parquet").unlink()
    assert finished_search(config, tmp_path / "out") is None


def test_searched_encoder_that_changes_leaves_something_to_do(config, results, tmp_path):
    (tmp_path / "one").write_text("1")
    space = {"model.path": {"values": [str(tmp_path / "one"), "org/encoder"]}}
    config = SearchConfig.model_validate({"space": space, "run": config.run})
    mark_search(config, tmp_path / "out")
    assert finished_search(config, tmp_path / "out") == results
    (tmp_path / "one").write_text("22")
    assert finished_search(config, tmp_path / "out") is None


def test_the_command_answers_without_ray_torch_and_mlflow(file, results, tmp_path):
    code = f"""
import sys
from hbt_ray.cli import main
main(["search", "--config", {str(file)!r}, "--out", {str(tmp_path / "out")!r}], standalone_mode=False)
print([name for name in ("ray", "torch", "transformers", "mlflow", "datasets") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *_, last = done.stdout.splitlines()
    assert first == "this search is finished; write another --out for a second one"
    assert results.best.name in done.stdout
    assert last == "[]"
