"""A run with more steps than it was begun with: equal to one of that length, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from hbt_ray.config import RunConfig, TrainConfig, build_config, with_settings
from hbt_ray.errors import ConfigError
from hbt_ray.evaluation.encoder_metrics import benchmark_metrics
from hbt_ray.training.checkpoint import OPTIMIZER, WEIGHTS, CheckpointManager, step_name
from hbt_ray.training.extension import extension_fault, share_of
from hbt_ray.training.local_runner import train_locally
from hbt_ray.training.lr_schedule import learning_rate
from hbt_ray.training.resume import open_run
from hbt_ray.training.task import ContrastiveTask
from tests.helpers import tiny_corpus

pytestmark = pytest.mark.usefixtures("one_thread")


def loop(**settings: object) -> TrainConfig:
    return TrainConfig.model_validate({"schedule": "constant", "warmup_share": 0.0, **settings})


@pytest.mark.parametrize(
    ("before", "now", "fault"),
    [
        ({"steps": 600}, {"steps": 900}, None),
        ({"steps": 600, "warmup_share": 0.1}, {"steps": 1200, "warmup_share": 0.05}, None),  # 60 steps of warm-up
        ({"steps": 600, "warmup_share": 0.1}, {"steps": 1200}, "took 60 steps; write train.warmup_share=0.05 for as"),
        ({"steps": 600}, {"steps": 900, "warmup_share": 0.1}, "took 0 steps; write train.warmup_share=0 for as many"),
        (
            {"steps": 600, "schedule": "linear"},
            {"steps": 900},
            "of train.schedule=linear depend on the number of steps",
        ),
        ({"steps": 600, "schedule": "cosine"}, {"steps": 900}, "of train.schedule=cosine depend"),
        (
            {"steps": 10, "validation_every": 4, "early_stopping": {"patience": 2}},
            {"steps": 20},
            "early stopping counted the validation after step 10, which a longer run does not have",
        ),
        ({"steps": 8, "validation_every": 4, "early_stopping": {"patience": 2}}, {"steps": 20}, None),
    ],
)
def test_run_is_extended_only_if_its_finished_steps_stay_the_same(before, now, fault):
    found = extension_fault(loop(**before), loop(**{**before, **now}))
    assert found is None if fault is None else found is not None and fault in found


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1))
def test_warm_up_that_the_message_names_gives_the_same_rates(steps, more, share):
    before = loop(steps=steps, warmup_share=share)
    warmup_steps = round(share * steps)
    now = loop(steps=steps + more, warmup_share=float(share_of(warmup_steps, steps + more)))
    assert extension_fault(before, now) is None
    assert [learning_rate(n, now) for n in range(steps)] == [learning_rate(n, before) for n in range(steps)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus.make_held_out_store(tmp_path_factory.mktemp("store")).folder


def run_of(steps: int, **train: object) -> RunConfig:
    settings = {"global_batch_pairs": 4, "chunk_pairs": 2, "learning_rate": 1e-3, "precision": "fp32"}
    schedule = {"schedule": "constant", "warmup_share": 0.0, "checkpoint_every": 3}
    return build_config(
        {
            "text": tiny_corpus.TEXT.model_dump(),
            "model": tiny_corpus.MODEL.model_dump(),
            "train": {**settings, **schedule, "steps": steps, **train},
        }
    )


def train(config: RunConfig, store: Path, out: Path) -> dict[str, bytes]:
    """Train the run in a folder; return the bytes of its last weights and of the optimizer's moments."""
    if not (initial := out.parent / "initial").exists():
        tiny_corpus.make_encoder(initial)
    folder = open_run(config, out)
    folder.write_config(config)
    train_locally(ContrastiveTask(config, str(initial), benchmark_metrics), store, folder)
    newest = CheckpointManager(folder.checkpoints).steps()[-1]
    checkpoint = (folder.checkpoints / step_name(newest)).local
    tensors = load_file(checkpoint / WEIGHTS) | load_file(checkpoint / OPTIMIZER)
    return {name: values.numpy().tobytes() for name, values in tensors.items()}


@pytest.mark.parametrize(
    "schedule",
    [
        {},
        {"warmup_share": {4: 0.5, 8: 0.25}},
        {"validation_every": 2, "validation_batches": 1, "early_stopping": {"patience": 9}},
    ],
    ids=["constant", "warm-up", "early stopping"],
)
def test_extended_run_ends_with_the_bytes_of_a_longer_one(store, tmp_path, schedule):
    def config(steps: int) -> RunConfig:
        chosen = {key: value[steps] if key == "warmup_share" else value for key, value in schedule.items()}
        return run_of(steps, **chosen)

    short = train(config(4), store, tmp_path / "extended")
    assert train(config(8), store, tmp_path / "extended") == train(config(8), store, tmp_path / "whole") != short


def test_refusal_names_the_ways_out_and_changes_nothing(tmp_path):
    before = run_of(4, schedule="linear")
    open_run(before, tmp_path).write_config(before)
    written = (tmp_path / "run.yaml").read_bytes()
    with pytest.raises(ConfigError) as raised:
        open_run(run_of(8, schedule="linear"), tmp_path)
    assert str(raised.value) == (
        f"the run of 4 steps in {tmp_path} cannot be extended to 8: the learning rates of train.schedule=linear depend "
        f"on the number of steps; or write model.path={tmp_path}/model and another --out to train its model further, "
        "or --fresh to start over"
    )
    assert (tmp_path / "run.yaml").read_bytes() == written


@pytest.mark.parametrize("changed", [{"train.steps": 3}, {"train.steps": 8, "train.learning_rate": 1e-4}])
def test_fewer_steps_or_another_setting_are_no_extension(tmp_path, changed):
    before = run_of(4)
    open_run(before, tmp_path).write_config(before)
    with pytest.raises(ConfigError, match=r"holds a run with train\.\w+=.*, and this one has"):
        open_run(with_settings(before, changed), tmp_path)
