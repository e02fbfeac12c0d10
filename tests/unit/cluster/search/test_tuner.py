"""The state of a search is loaded only if this user wrote it, and it is of this version."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from hbt_ray.cluster.search.tuner import TUNE, check_trusted, restore
from hbt_ray.errors import ConfigError


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / TUNE).mkdir(mode=0o755)
    (tmp_path / TUNE / "tuner.pkl").write_bytes(pickle.dumps({}))
    (tmp_path / TUNE / "tuner.pkl").chmod(0o644)
    return tmp_path / TUNE


@pytest.mark.parametrize("mode", [0o775, 0o757])
@pytest.mark.parametrize("name", ["", "tuner.pkl"])
def test_state_that_others_may_write_is_not_loaded(state: Path, name: str, mode: int):
    check_trusted(state)
    (state / name).chmod(mode)
    with pytest.raises(ConfigError, match=f"other users may write {state / name}, .*chmod go-w {state}"):
        restore(state, lambda config: None)


def test_state_of_another_user_is_not_loaded(state: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: state.stat().st_uid + 1)
    if state.stat().st_uid == 0:
        os.chown(state / "tuner.pkl", 1234, -1)
    with pytest.raises(ConfigError, match=f"another user owns {state}.*chown {state} and its files"):
        restore(state, lambda config: None)


def test_link_in_the_place_of_a_state_is_not_followed(state: Path):
    (state / "other.pkl").symlink_to("/dev/null")
    with pytest.raises(ConfigError, match="other users may write"):
        check_trusted(state)


@pytest.mark.parametrize("content", [b"", b"cno.such.module\nTuneProgressCallback\n."])
def test_state_of_another_version_is_one_sentence(state: Path, content: bytes):
    (state / "tuner.pkl").write_bytes(content)
    with pytest.raises(ConfigError, match=f"the search in {state.parent} cannot be resumed, .*; write another --out"):
        restore(state, lambda config: None)


def test_failed_trial_is_run_again_under_its_id(tmp_path: Path):
    def trainable(params: dict[str, object]) -> None:
        pass

    tune.Tuner(trainable, run_config=tune.RunConfig(name=TUNE, storage_path=str(tmp_path)))
    tuner = restore(tmp_path / TUNE, trainable)
    tune.register_trainable("trainable", trainable)
    failed = Trial("trainable", stub=True)
    failed.status = Trial.ERROR
    added: list[Trial] = []
    controller, how = SimpleNamespace(add_trial=added.append), tuner._local_tuner._resume_config
    TuneController._requeue_restored_trials(controller, [failed], how)
    assert [(trial.trial_id, trial.status) for trial in added] == [(failed.trial_id, Trial.PENDING)]
