"""Trials in this process, with Tune's session replaced."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from ray import tune
from safetensors.torch import load_file

from hbt_ray.cluster.search.algorithms.pbt import ALPHAS, TunePBT
from hbt_ray.cluster.search.trial import FINISHED, is_finished, run_trial, trial_dir, trial_evaluations
from hbt_ray.config import RunConfig
from hbt_ray.errors import StorageError
from hbt_ray.search.config import SearchConfig
from hbt_ray.training.checkpoint import step_name
from hbt_ray.training.checkpoint_metrics import save_checkpoint_metrics
from hbt_ray.utils.digests import with_checksum
from tests.helpers import tiny_corpus
from tests.helpers.damage import EXAMPLES, Damage, check_damaged, damages, flip_bit, malformed_cases

TRAIN = {"steps": 8, "global_batch_pairs": 16, "chunk_pairs": 4, "learning_rate": 1e-3, "precision": "fp32"}


class Stopped(Exception):
    """Ends a trial as a scheduler does."""


class Session:
    """What `ray.tune` gives to a trial. It keeps the reports, and the checkpoint folder of the last one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trial_id = "trial_00000"
        self.checkpoint: tune.Checkpoint | None = None
        self.steps: list[int] = []
        self.stop_at: int | None = None

    def get_trial_id(self) -> str:
        return self.trial_id

    def report(self, result: dict[str, object], checkpoint: tune.Checkpoint | None = None) -> None:
        step = int(str(result["step"]))
        self.steps.append(step)
        if checkpoint is not None:
            kept = self.folder / f"{self.trial_id}-{step}"
            shutil.copytree(checkpoint.path, kept)
            self.checkpoint = tune.Checkpoint.from_directory(str(kept))
        if step == self.stop_at:
            raise Stopped


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    session = Session(tmp_path)
    monkeypatch.setattr(tune, "get_context", lambda: session)
    monkeypatch.setattr(tune, "get_checkpoint", lambda: session.checkpoint)
    monkeypatch.setattr(tune, "report", session.report)
    return session


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    tiny_corpus.make_held_out_store(folder / "store")
    tiny_corpus.make_encoder(folder / "encoder")
    return folder


def search_of(**settings: object) -> SearchConfig:
    run = {"text": tiny_corpus.TEXT.model_dump(), "model": tiny_corpus.MODEL.model_dump(), "train": TRAIN}
    return SearchConfig.model_validate({"run": run, "dev": {"items": 4}, "measure_every": 2, **settings})


def train(search: SearchConfig, params: dict[str, object], made: Path, out: Path) -> None:
    stores, models = {search.run.store_key: str(made / "store")}, {search.run.model_key: str(made / "encoder")}
    run_trial(params, search=search, out=str(out), stores=stores, models=models, threads=1, variables={})


def test_listed_trial_reports_each_evaluation_and_again_when_resumed(made: Path, session: Session, tmp_path: Path):
    search = search_of(space={"mix.alpha": [0.5, 1.0]})
    params: dict[str, object] = {"trial": {"values": {"mix.alpha": 0.5}, "seed": 0}}
    session.stop_at = 4
    with pytest.raises(Stopped):
        train(search, params, made, tmp_path)
    run_dir = trial_dir(tmp_path, search.run, "alpha=0.5,seed=0")
    assert not is_finished(run_dir, search.run)
    session.stop_at = None
    train(search, params, made, tmp_path)
    assert session.steps == [2, 4, 2, 4, 6, 8]
    assert is_finished(run_dir, search.run)
    assert (run_dir.path / FINISHED).exists()


def test_member_of_a_population_continues_from_another_ones_checkpoint(made: Path, session: Session, tmp_path: Path):
    search = search_of(space={"mix.alpha": {"uniform": [0, 1]}}, algorithm="pbt", configurations=2)
    good, bad = (trial_dir(tmp_path, search.run, f"member={n}") for n in (0, 1))
    session.stop_at, session.trial_id = 2, "trial_00001"
    with pytest.raises(Stopped):
        train(search, {"mix.alpha": 1.0}, made, tmp_path)
    session.stop_at, session.trial_id, session.checkpoint = 4, "trial_00000", None
    with pytest.raises(Stopped):
        train(search, {"mix.alpha": 0.25}, made, tmp_path)

    session.stop_at, session.trial_id, session.steps = None, "trial_00001", []
    train(search, {"mix.alpha": 0.75}, made, tmp_path)
    assert session.steps == [6, 8]  # those of the other member are not reported again
    assert TunePBT().alphas(good) == [(0, 0.25)]
    assert TunePBT().alphas(bad) == [(0, 0.25), (4, 0.75)]
    flip_bit(bad.path / "alphas.json", 20)
    with pytest.raises(StorageError, match=r"alphas\.json is damaged"):
        TunePBT().alphas(bad)
    assert sorted(bad.checkpoint_metrics.names()) == ["2.json", "4.json", "6.json", "8.json"]
    assert (bad.checkpoint_metrics / "4.json").read_text() == (good.checkpoint_metrics / "4.json").read_text()

    # The schedule, trained in one go, gives the same weights.
    schedule = {"points": [[0, 0.25], [4, 0.75]], "between": "hold"}
    again = search_of(space={"mix.alpha_schedule": [schedule]})
    session.checkpoint = None
    train(again, {"trial": {"values": {"mix.alpha_schedule": schedule}, "seed": 0}}, made, tmp_path / "again")
    [straight] = (tmp_path / "again" / "trials").iterdir()
    name = f"checkpoints/{step_name(8)}/weights.safetensors"
    one, other = load_file(bad.path / name), load_file(straight / name)
    assert all(torch.equal(weight, other[key]) for key, weight in one.items())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a search's folder with a finished member of a population."""
    folder = tmp_path_factory.mktemp("search")
    run_dir = trial_dir(folder, RunConfig(), "member=0")
    for step in (4, 8):
        save_checkpoint_metrics(run_dir.checkpoint_metrics, step, {"dev/mono/map": step / 10})
    (run_dir.path / ALPHAS).write_text(with_checksum({"alphas": [(0, 0.25), (4, 0.75)]}))
    (run_dir.path / FINISHED).write_text(with_checksum({"evaluated": [4, 8]}))
    return folder


@malformed_cases(3 * EXAMPLES, damage=damages)
def test_damaged_trial_is_read_equal_or_refused_by_name(finished: Path, damage: Damage):
    def read(folder: Path) -> tuple[object, object]:
        run_dir = trial_dir(folder, RunConfig(), "member=0")
        return trial_evaluations(run_dir), TunePBT().alphas(run_dir)

    check_damaged(finished, damage, read)
