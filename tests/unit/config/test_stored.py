"""What is written of settings has `${NAME}` as it was written, and no secret."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hbt_ray.config import (
    RunConfig,
    dump_config,
    keep_written_variables,
    load_config,
    load_with_nested_run,
    stored_settings,
    stored_text,
    with_absolute_paths,
    written_variables,
)
from hbt_ray.errors import ConfigError
from hbt_ray.study.config import StudySettings
from hbt_ray.tracking import Tracker
from hbt_ray.training.resume import open_run
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.utils.storage import StoragePath

CANARY = "canary-7f3a"
pytestmark = pytest.mark.usefixtures("nothing_written")
URIS = [
    f"postgresql://ada:{CANARY}@tracking/runs",
    f"postgresql://ada:x/{CANARY} y@tracking/runs",
    f"postgresql://tracking/runs?password=a {CANARY}",
    f"mysql://tracking/runs?passwd={CANARY}",
    f"mssql://tracking/runs?driver=x;pwd={CANARY}",
    f"https://tracking/?sig={CANARY}",
    f"https://tracking/#token={CANARY}",
]


def files_with(text: str, folder: Path) -> list[str]:
    return [str(file) for file in folder.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]


@pytest.fixture
def nothing_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbt_ray.config.stored._written", {})


@pytest.fixture
def secret_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunConfig:
    """Return a run with a secret in every setting that may have one."""
    monkeypatch.setenv("HBT_TEST_SECRET", CANARY)
    (tmp_path / "settings.yaml").write_text(
        yaml.safe_dump(
            {
                "tracking": {"uri": URIS[0], "experiment": "${HBT_TEST_SECRET}"},
                "corpora": [{"format": "huggingface", "name": "c", "path": "${HBT_TEST_SECRET}/data"}],
                "evaluate": {"benchmarks": {"one": "https://ada:${HBT_TEST_SECRET}@h/x"}},
                "prepare": {"evaluation_sets": {"hf_token": CANARY}},
            }
        )
    )
    overrides = ["model.path=hf/${HBT_TEST_SECRET}", f"loss.distillation.teacher=hf?token={CANARY}"]
    return load_config(tmp_path / "settings.yaml", overrides)


def test_no_output_of_a_run_has_a_secret(secret_run: RunConfig, tmp_path: Path):
    assert CANARY in str(secret_run)
    out = tmp_path / "out"
    folder = run_dir_of(secret_run, out / "run")
    folder.write_config(secret_run)
    uri = f"sqlite:///{out}/mlflow.db"
    tracker = Tracker.start(uri, "e", "n", secret_run, StoragePath.of(out / "id"), out / "unsent.jsonl", {})
    tracker.log_text(dump_config(secret_run), "config.yaml")
    tracker.set_tags({"command": f"hbt train tracking.uri={URIS[3]}"})
    tracker.finish()
    assert files_with("${HBT_TEST_SECRET}", out)
    assert files_with(CANARY, out) == []
    # The run resumes, and a secret is no difference.
    assert open_run(secret_run, out / "run").path == folder.path


def test_paths_below_a_variable_are_stored_with_it(monkeypatch):
    monkeypatch.setenv("HBT_TEST_FOLDER", f"/data/{CANARY}")
    load_config(None, ["model.path=${HBT_TEST_FOLDER}"])
    assert stored_text(f"/data/{CANARY}/de.jsonl") == "${HBT_TEST_FOLDER}/de.jsonl"
    assert stored_text(f"/data/{CANARY}") == "${HBT_TEST_FOLDER}"
    assert stored_text(f"/data/{CANARY}-2") == f"/data/{CANARY}-2"
    assert stored_text(URIS[3]) == "mysql://tracking/runs?passwd=***"


@pytest.mark.parametrize("uri", URIS)
def test_every_form_of_a_password_is_left_out_of_a_file(uri):
    assert CANARY not in dump_config(load_config(None, [f"tracking.uri={yaml.safe_dump(uri)}"]))


def test_a_variable_with_another_value_is_a_changed_setting(monkeypatch, tmp_path):
    overrides = ["model.path=hf/${HBT_TEST_MODEL}"]
    monkeypatch.setenv("HBT_TEST_MODEL", "one")
    run_dir_of(config := load_config(None, overrides), tmp_path / "run").write_config(config)
    open_run(load_config(None, ["model.path=hf/one"]), tmp_path / "run")
    monkeypatch.setenv("HBT_TEST_MODEL", "two")
    now = load_config(None, overrides)
    monkeypatch.delenv("HBT_TEST_MODEL")
    with pytest.raises(ConfigError, match=r"holds a run with model.path=hf/\$\{HBT_TEST_MODEL\}, and this one has hf/"):
        open_run(now, tmp_path / "run")


def test_a_variable_is_kept_when_its_path_is_resolved(monkeypatch, tmp_path):
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("HBT_TEST_FOLDER", f"{tmp_path}/.")
    config = with_absolute_paths(load_config(None, ["model.path=${HBT_TEST_FOLDER}/model"]))
    assert config.model.path == str(tmp_path / "model")
    assert stored_settings(config)["model"]["path"] == "${HBT_TEST_FOLDER}/model"


def test_another_process_takes_over_what_was_written():
    config = load_config(None, ["model.path=given"])
    assert stored_settings(config)["model"]["path"] == "given"
    keep_written_variables({"given": {"model.path": "${NAME}"}})
    assert stored_settings(config)["model"]["path"] == "${NAME}"
    assert written_variables() == {"given": {"model.path": "${NAME}"}}


def test_a_variable_is_stored_for_its_setting_only(monkeypatch):
    monkeypatch.setenv("HBT_TEST_NAME", "de")
    stored = stored_settings(load_config(None, ["name=${HBT_TEST_NAME}", "languages=[de, en]"]))
    assert (stored["name"], stored["languages"]) == ("${HBT_TEST_NAME}", ["de", "en"])


def test_an_empty_variable_is_stored_as_an_empty_text(monkeypatch):
    monkeypatch.setenv("HBT_TEST_EMPTY", "")
    stored = stored_settings(load_config(None, ["name=${HBT_TEST_EMPTY}", "query_prefix="]))
    assert (stored["name"], stored["text"]["query_prefix"]) == ("", "")
    assert stored_text("/data/de.jsonl") == "/data/de.jsonl"


def test_settings_of_a_studys_runs_keep_their_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("HBT_TEST_HUB", "hub-model")
    monkeypatch.setenv("HBT_TEST_PREFIX", "find: ")
    changes = {"methods": {"a": {"settings": {"query_prefix": "${HBT_TEST_PREFIX}"}}}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**changes, "run": {"model": {"path": "${HBT_TEST_HUB}"}}}))
    load_with_nested_run(tmp_path / "study.yaml", [], StudySettings)
    stored = stored_settings(load_config(None, ["model.path=hub-model", "query_prefix=find: ", "name=hub-model"]))
    assert (stored["model"]["path"], stored["text"]["query_prefix"]) == ("${HBT_TEST_HUB}", "${HBT_TEST_PREFIX}")
    assert stored["name"] == "hub-model"


def test_a_path_that_another_setting_takes_over_keeps_its_variable(monkeypatch):
    monkeypatch.setenv("HBT_TEST_FOLDER", f"/data/{CANARY}")
    load_config(None, ["model.path=${HBT_TEST_FOLDER}"])
    taught = load_config(None, [f"loss.distillation.teacher=/data/{CANARY}"])
    assert stored_settings(taught)["loss"]["distillation"]["teacher"] == "${HBT_TEST_FOLDER}"
