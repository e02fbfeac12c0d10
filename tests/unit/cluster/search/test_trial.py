"""Trials in this process, with Tune's session replaced."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune

from hbt_ray.cluster.search import progress_callback
from hbt_ray.cluster.search.algorithms import TUNE_ALGORITHMS
from hbt_ray.cluster.search.algorithms.branch import KEY, _parameters
from hbt_ray.cluster.search.trial import FINISHED, is_finished, run_trial, trial_dir, trial_evaluations
from hbt_ray.cluster.search.tuner import _trial_of
from hbt_ray.config import RunConfig
from hbt_ray.search.branching import segments
from hbt_ray.search.config import SearchConfig
from hbt_ray.training.checkpoint import step_name
from hbt_ray.training.checkpoint_metrics import save_checkpoint_metrics
from hbt_ray.utils.digests import with_checksum
from tests.helpers import tiny_corpus
from tests.helpers.damage import EXAMPLES, Damage, check_damaged, damages, malformed_cases

TRAIN = {"steps": 8, "global_batch_pairs": 16, "chunk_pairs": 4, "learning_rate": 1e-3, "precision": "fp32"}


class Stopped(Exception):
    """Ends a trial as a scheduler does."""


class Session:
    """What `ray.tune` gives to a trial. It keeps the steps of the reports."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.stop_at: int | None = None

    def get_trial_id(self) -> str:
        return "trial_00000"

    def report(self, result: dict[str, object]) -> None:
        step = int(str(result["step"]))
        self.steps.append(step)
        if step == self.stop_at:
            raise Stopped


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    session = Session()
    monkeypatch.setattr(tune, "get_context", lambda: session)
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


def test_trial_of_another_length_is_evaluated_at_its_own_end(made: Path, session: Session, tmp_path: Path):
    search = search_of(space={"train.steps": [6, 10]}, measure_every=0)
    train(search, {"trial": {"values": {"train.steps": 10}, "seed": 0}}, made, tmp_path)
    assert session.steps == [10]


@pytest.mark.parametrize(("steps", "state"), [(6, "finished"), (8, "finished"), (10, "stopped")])
def test_trial_is_finished_at_its_own_last_step(tmp_path: Path, steps: int, state: str, monkeypatch):
    search = search_of(space={"train.steps": [6, 8, 10]})
    params = {"trial": {"values": {"train.steps": steps}, "seed": 0}}
    run_dir = trial_dir(tmp_path, search.run, f"steps={steps},seed=0")
    for step in range(2, min(steps, 8) + 1, 2):
        save_checkpoint_metrics(run_dir.checkpoint_metrics, step, {"held-out/mono/map": 0.5})
    assert _trial_of(search, tmp_path, params, "", None).state == state
    shown: list[str] = []
    monkeypatch.setattr(progress_callback, "print_line", shown.append)
    callback = progress_callback.TuneProgressCallback(search, tmp_path, "", "parent")
    monkeypatch.setattr(callback, "_tracker", lambda trial: None)
    last = {"step": min(steps, 8), "metrics": {}}
    callback.on_trial_complete(0, [], SimpleNamespace(config=params, trial_id="x_00000", last_result=last))
    assert f"step {min(steps, 8)}/{steps} " in shown[0]
    assert shown[0].endswith(state)


SPACE = {"mix.alpha": {"uniform": [0, 1]}, "mix.language_weights": {"simplex": ["de", "en", "fr"]}}


def branch_params(search: SearchConfig, number: int, branch: int, parent: Any = None) -> dict[str, Any]:
    return {KEY: _parameters(search, number, segments(search)[number], branch, parent)}


def weights_at(folder: Path, step: int) -> bytes:
    return (folder / "checkpoints" / step_name(step) / "weights.safetensors").read_bytes()


def test_branch_continues_its_parent_to_the_bytes_of_a_run_in_one_go(made: Path, session: Session, tmp_path: Path):
    search = search_of(space=SPACE, algorithm="branch", configurations=2, branch_every=4)
    first = [branch_params(search, 0, branch) for branch in (0, 1)]
    for params in first:
        train(search, params, made, tmp_path)
    rest = branch_params(search, 1, 0, first[1][KEY])
    kept, changed = (branch_params(search, 2, branch, rest[KEY]) for branch in (0, 1))
    for params in (rest, changed, kept):
        train(search, params, made, tmp_path)
    assert session.steps == [2, 2, 4, 6, 6]
    trials = tmp_path / "trials"
    assert {folder.name: (folder / FINISHED).exists() for folder in trials.iterdir()} == dict.fromkeys(
        ["steps=0-2,branch=0", "steps=0-2,branch=1", "steps=2-4,branch=0", "steps=4-6,branch=0", "steps=4-6,branch=1"],
        False,
    )
    assert not (trials / "steps=0-2,branch=1" / "checkpoints").exists()  # no branch will continue from it
    assert len(kept[KEY]["mixtures"]) == 1
    assert [batch for batch, _ in changed[KEY]["mixtures"]] == [0, 4]
    for params in (kept, changed):
        run = TUNE_ALGORITHMS["branch"].identify(search, params, "").config(search.run)
        straight = SearchConfig.model_validate(
            {
                **search.model_dump(),
                "run": run,
                "space": {"train.weight_decay": [0]},
                "algorithm": "random",
                "branch_every": None,
            }
        )
        out = tmp_path / f"straight {params[KEY]['name']}"
        train(straight, {"trial": {"values": {}, "seed": 0}}, made, out)
        assert weights_at(trials / params[KEY]["name"], 6) == weights_at(next((out / "trials").iterdir()), 6)


def test_branch_that_is_run_again_leaves_the_checkpoints_of_later_segments(tmp_path: Path):
    search = search_of(space=SPACE, algorithm="branch", configurations=2)
    first = [branch_params(search, 0, branch) for branch in (0, 1)]
    failed, parent = (branch_params(search, 1, branch, first[1][KEY]) for branch in (0, 1))
    later = branch_params(search, 2, 1, parent[KEY])
    for params in (*first, parent, later):
        (tmp_path / "trials" / params[KEY]["name"] / "checkpoints").mkdir(parents=True)
    TUNE_ALGORITHMS["branch"].start_trial(trial_dir(tmp_path, search.run, failed[KEY]["name"]), failed)
    left = {folder.parent.name for folder in tmp_path.glob("trials/*/checkpoints")}
    assert left == {params[KEY]["name"] for params in (first[1], parent, later)}


def test_branch_without_its_parents_checkpoint_has_the_same_weights(made: Path, session: Session, tmp_path: Path):
    search = search_of(space=SPACE, algorithm="branch", configurations=2)
    parent = branch_params(search, 0, 0)
    child = branch_params(search, 1, 1, parent[KEY])
    for params in (parent, child):
        train(search, params, made, tmp_path)
    train(search, child, made, tmp_path / "again")
    one, other = (folder / "trials" / child[KEY]["name"] for folder in (tmp_path, tmp_path / "again"))
    assert weights_at(one, 4) == weights_at(other, 4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a search's folder with a finished trial."""
    folder = tmp_path_factory.mktemp("search")
    run_dir = trial_dir(folder, RunConfig(), "alpha=0.5,seed=0")
    for step in (4, 8):
        save_checkpoint_metrics(run_dir.checkpoint_metrics, step, {"dev/mono/map": step / 10})
    (run_dir.path / FINISHED).write_text(with_checksum({"evaluated": [4, 8]}))
    return folder


@malformed_cases(3 * EXAMPLES, damage=damages)
def test_damaged_trial_is_read_equal_or_refused_by_name(finished: Path, damage: Damage):
    def read(folder: Path) -> object:
        return trial_evaluations(trial_dir(folder, RunConfig(), "alpha=0.5,seed=0"))

    check_damaged(finished, damage, read)
