"""No file, artifact, log or output of a study and of a search has a secret of their settings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from ray._private.worker import global_worker

from hbt_ray.cli import main
from hbt_ray.config import ConfigSection
from tests.helpers import tiny_corpus
from tests.integration.conftest import tiny_search, write_corpus
from tests.integration.mlflow_pages import served
from tests.integration.test_study import tiny_study

CANARY = "canary-5d2e91"
VARIABLE = "HBT_TEST_SECRET"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Return a folder whose path has the secret; settings name it by a variable."""
    folder = tmp_path_factory.mktemp("inputs") / CANARY
    folder.mkdir()
    write_corpus(folder)
    write_corpus(folder, "others", range(1000, 1020))
    tiny_corpus.make_encoder(folder / "model")
    return folder


@pytest.fixture(scope="module")
def tracking(tmp_path_factory, mlflow_tables: Path) -> Iterator[tuple[Path, str]]:
    """Serve an MLflow store; yield its folder, which has the artifacts as well, and its URI with a password."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copyfile(mlflow_tables, folder / "mlflow.db")
    with served(folder / "mlflow.db", folder) as url:
        yield folder, url.replace("://", f"://ada:{CANARY}@")


def check_no_secret(config: ConfigSection, inputs: Path, tracking: tuple[Path, str], out: Path, monkeypatch) -> None:
    """Run a study or search by its command, and search all that it leaves for the secret."""
    store, uri = tracking
    settings = config.model_dump(mode="json", exclude_none=True)
    settings["run"]["model"] = {"path": str(inputs / "model")}
    text = yaml.safe_dump(settings).replace(str(inputs), f"${{{VARIABLE}}}")
    out.with_suffix(".settings").write_text(text)
    monkeypatch.setenv(VARIABLE, str(inputs))
    arguments = [out.name, "--config", str(out.with_suffix(".settings")), f"run.tracking.uri={uri}", "--out", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert CANARY not in result.output
    folders = (out.parent, store, Path(global_worker.node.get_logs_dir_path()))
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert {"report.html", f"{out.name}.yaml", "mlflow.db", "raylet.out"} <= {file.name for file in files}
    assert [str(file) for file in files if CANARY in str(file) or CANARY.encode() in file.read_bytes()] == []


def test_no_output_of_a_study_has_a_secret(cluster, inputs, tracking, tmp_path, monkeypatch):
    methods = {"untrained": {"trained": False}, "hybrid": {}}
    config = tiny_study(inputs, seeds=[0], pretraining={}, chapters=[], methods=methods)
    check_no_secret(config, inputs, tracking, tmp_path / "study", monkeypatch)
    assert f"${{{VARIABLE}}}/numbers" in (tmp_path / "study/study.yaml").read_text()


def test_no_output_of_a_search_has_a_secret(cluster, inputs, tracking, tmp_path, monkeypatch):
    config = tiny_search(inputs / "numbers", experiment="secrets", seeds=[0], space={"mix.alpha": [0.0, 1.0]})
    check_no_secret(config, inputs, tracking, tmp_path / "search", monkeypatch)
    assert f"${{{VARIABLE}}}/numbers" in (tmp_path / "search/best.yaml").read_text()
