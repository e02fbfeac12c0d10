"""A checkpoint is complete or ignored, in a folder and in an object store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel

from hbt_ray.config import EarlyStoppingConfig, TrainConfig
from hbt_ray.errors import CheckpointError
from hbt_ray.models.encoder import load_pretrained
from hbt_ray.training.checkpoint import (
    COMPLETE,
    FILES,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    CheckpointManager,
    validate_checkpoint,
)
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer
from hbt_ray.training.train_state import TrainState
from hbt_ray.utils.storage import StoragePath, file_sha256
from tests.helpers import tiny_corpus
from tests.helpers.damage import EXAMPLES, Damage, check_damaged, damages, malformed_cases
from tests.helpers.full_disk import no_file_above


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("encoder") / "encoder"
    tiny_corpus.make_encoder(folder)
    return folder


def make_trainer(encoder: Path, shift: float = 0.0) -> ContrastiveTrainer:
    """Return a trainer with moments, its weights moved by `shift`."""
    trainer = ContrastiveTrainer(tiny_corpus.make_encoder(encoder), TrainConfig(precision="fp32"), seed=1)
    with torch.no_grad():
        for weight in trainer.encoder.parameters():
            weight.add_(shift)
    for weight in trainer.encoder.parameters():
        weight.grad = torch.ones_like(weight) if weight.requires_grad else None
    trainer.optimizer.step()
    return trainer


def weights_of(trainer: ContrastiveTrainer) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in trainer.encoder.parameters()])


@pytest.fixture(params=["folder", "s3"])
def checkpoints(request, tmp_path) -> CheckpointManager:
    """Return a path for checkpoints in a folder, and one in a real S3 server on this machine."""
    if request.param == "folder":
        return CheckpointManager(StoragePath.of(tmp_path / "runs"))
    return CheckpointManager(request.getfixturevalue("bucket") / tmp_path.name)


# What is in a file does not depend on where it is: one file in the object store shows that it is read from there.
IN_STORAGE = ["checkpoints"]
OF_EACH_FILE = pytest.mark.parametrize(
    ("checkpoints", "file"), [*(("folder", x) for x in (*FILES, COMPLETE)), ("s3", COMPLETE)], indirect=IN_STORAGE
)


def overwrite(path: StoragePath, file: str, content: bytes) -> None:
    filesystem, file_path = (path / file).arrow()
    with filesystem.open_output_stream(file_path) as stream:
        stream.write(content)


def content_of(path: StoragePath, file: str) -> bytes:
    filesystem, file_path = (path / file).arrow()
    with filesystem.open_input_stream(file_path) as stream:
        return stream.read()


def test_checkpoint_restores_weights_moments_progress_metrics(encoder, checkpoints):
    saved, other = make_trainer(encoder, shift=1.0), make_trainer(encoder)
    progress = TrainState(step=5, best_validation_loss=0.1 + 0.2, validations_without_gain=1, steps_skipped=2)
    checkpoints.save(saved, progress, {"loss": 1.5})
    assert checkpoints.load(5, make_trainer(encoder)) == progress
    assert checkpoints.load_newest(other) == (progress, [])
    assert checkpoints.state(5).metrics == {"loss": 1.5}
    assert torch.equal(weights_of(other), weights_of(saved))
    moments = saved.optimizer_state()
    assert all(torch.equal(value, moments[name]) for name, value in other.optimizer_state().items())


def test_load_newest_without_a_checkpoint_returns_none(encoder, checkpoints):
    assert checkpoints.steps() == []
    assert checkpoints.load_newest(make_trainer(encoder)) == (None, [])


@OF_EACH_FILE
def test_load_newest_skips_and_names_an_incomplete_checkpoint(encoder, checkpoints, file):
    trainer = make_trainer(encoder)
    checkpoints.save(trainer, TrainState(5), {})
    incomplete = checkpoints.save(trainer, TrainState(10), {})
    content = content_of(incomplete, file)
    overwrite(incomplete, file, content[: len(content) // 2])
    progress, [fault] = checkpoints.load_newest(trainer)
    assert progress == TrainState(5)
    assert "step-000000010 is skipped" in fault
    assert file in fault


def test_has_ended_at_the_last_step_or_by_early_stopping(encoder, checkpoints):
    train = TrainConfig(steps=10, validation_every=1, early_stopping=EarlyStoppingConfig(patience=2))
    assert not checkpoints.has_ended(train)
    checkpoints.save(make_trainer(encoder), TrainState(5, validations_without_gain=1), {})
    assert not checkpoints.has_ended(train)
    checkpoints.save(make_trainer(encoder), TrainState(6, validations_without_gain=2), {})
    assert checkpoints.has_ended(train)
    assert not checkpoints.has_ended(TrainConfig(steps=10))
    assert checkpoints.has_ended(TrainConfig(steps=6))


@OF_EACH_FILE
def test_has_ended_is_false_if_the_last_checkpoint_is_damaged(encoder, checkpoints, file):
    path = checkpoints.save(make_trainer(encoder), TrainState(10), {})
    assert checkpoints.has_ended(TrainConfig(steps=10))
    overwrite(path, file, content_of(path, file)[:-9])
    assert not checkpoints.has_ended(TrainConfig(steps=10))


@pytest.mark.parametrize(
    ("checkpoints", "file"), [*(("folder", x) for x in FILES), ("s3", WEIGHTS)], indirect=IN_STORAGE
)
def test_load_detects_one_changed_bit(encoder, checkpoints, file):
    trainer = make_trainer(encoder)
    path = checkpoints.save(trainer, TrainState(5), {})
    content = bytearray(content_of(path, file))
    content[-3] ^= 1
    overwrite(path, file, bytes(content))
    before = weights_of(trainer)
    assert checkpoints.load_newest(trainer)[0] is None
    with pytest.raises(CheckpointError, match=f"is incomplete or damaged: the checksum of {file} does not match"):
        checkpoints.load(5, trainer)
    assert torch.equal(weights_of(trainer), before)


@OF_EACH_FILE
def test_load_newest_skips_a_checkpoint_without_one_of_its_files(encoder, checkpoints, file):
    path = checkpoints.save(make_trainer(encoder), TrainState(5), {})
    (path / file).delete()
    progress, [fault] = checkpoints.load_newest(make_trainer(encoder))
    assert progress is None
    assert f"it has no {file}" in fault


@pytest.mark.parametrize("marker", ["null", "[]", "3", '{"weights.safetensors": null}', "{}"])
def test_validate_checkpoint_rejects_a_malformed_complete_json(encoder, tmp_path, marker):
    path = CheckpointManager(StoragePath.of(tmp_path)).save(make_trainer(encoder), TrainState(5), {})
    (path / COMPLETE).write_text(marker)
    assert validate_checkpoint(path.local) is not None


def test_steps_ignores_a_checkpoint_without_complete_json(encoder, checkpoints):
    path = checkpoints.save(make_trainer(encoder), TrainState(5), {})
    (path / COMPLETE).delete()
    assert checkpoints.steps() == []


def test_save_replaces_a_damaged_checkpoint_of_the_same_step(encoder, checkpoints):
    incomplete = checkpoints.save(make_trainer(encoder), TrainState(5), {})
    overwrite(incomplete, WEIGHTS, b"")
    checkpoints.save(make_trainer(encoder), TrainState(5), {})
    assert checkpoints.load_newest(make_trainer(encoder)) == (TrainState(5), [])


def test_prune_keeps_the_newest_and_the_best(encoder, checkpoints):
    trainer = make_trainer(encoder)
    losses = {5: 2.0, 10: 1.0, 15: 3.0, 20: 1.0, 25: 4.0, 30: 5.0}
    for step, loss in losses.items():
        checkpoints.save(trainer, TrainState(step), {"validation_loss": loss} if step != 25 else {})
        checkpoints.prune(2, "validation_loss")
    assert checkpoints.steps() == [10, 25, 30]  # of the equally good, the first
    assert checkpoints.best("validation_loss") == 10
    checkpoints.save(trainer, TrainState(4), {"validation_loss": float("nan")})
    assert checkpoints.best("validation_loss") == 10
    checkpoints.prune(2, None)
    assert checkpoints.steps() == [25, 30]


def test_save_on_a_full_disk_keeps_earlier_checkpoints(encoder, tmp_path):
    checkpoints = CheckpointManager(StoragePath.of(tmp_path))
    checkpoints.save(make_trainer(encoder), TrainState(5), {})
    sentence = r"step 10 cannot be written to .*; that of step 5 is kept: free space"
    with no_file_above(4096), pytest.raises(CheckpointError, match=sentence):
        checkpoints.save(make_trainer(encoder), TrainState(10), {})
    assert checkpoints.load_newest(make_trainer(encoder)) == (TrainState(5), [])
    assert checkpoints.path.names() == ["step-000000005"]  # nothing is left to fill the disk


def test_save_stores_weights_with_two_names_once(tmp_path):
    tokenizer = tiny_corpus.tokenizer()
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path / "t5")  # its embeddings are `shared` and `embed_tokens`
    tokenizer.save_pretrained(tmp_path / "t5")
    one, other = (ContrastiveTrainer(load_pretrained(str(tmp_path / "t5")), TrainConfig(), seed=1) for _ in range(2))
    with torch.no_grad():
        for weight in one.encoder.parameters():
            weight.add_(1)
    checkpoints = CheckpointManager(StoragePath.of(tmp_path / "checkpoints"))
    checkpoints.save(one, TrainState(0), {})
    checkpoints.load(0, other)
    assert torch.equal(weights_of(one), weights_of(other))


def test_load_weights_refuses_those_of_another_encoder(encoder, tmp_path):
    checkpoints = CheckpointManager(StoragePath.of(tmp_path))
    path = checkpoints.save(make_trainer(encoder), TrainState(5), {})
    weights = load_file(path.local / WEIGHTS)
    name = next(iter(weights))
    save_file({n: weight for n, weight in weights.items() if n != name}, path.local / WEIGHTS)
    sums = json.loads((path / COMPLETE).read_text())
    (path / COMPLETE).write_text(json.dumps(sums | {WEIGHTS: file_sha256(path.local / WEIGHTS)}))
    with pytest.raises(RuntimeError, match=name):
        checkpoints.load_weights(5, make_trainer(encoder).encoder)


def test_checkpoint_files_are_safetensors_or_json(encoder, tmp_path):
    path = CheckpointManager(StoragePath.of(tmp_path)).save(make_trainer(encoder), TrainState(5), {})
    assert sorted(path.names()) == sorted([WEIGHTS, OPTIMIZER, STATE, COMPLETE])
    assert {Path(name).suffix for name in path.names()} == {".safetensors", ".json"}


def test_names_that_are_no_step_are_passed_over_by_name(encoder, checkpoints):
    trainer = make_trainer(encoder)
    checkpoints.save(trainer, TrainState(5), {"loss": 1.0})
    strays = ["step-", "step-000000010.bak", "step-7", "step-last"]
    for name in (*strays, "notes"):
        (checkpoints.path / name / COMPLETE).write_text("{}")
    assert checkpoints.steps() == [5]
    progress, faults = checkpoints.load_newest(trainer)
    assert progress == TrainState(5)
    assert faults == [f"{checkpoints.path / name} is skipped: it has not the name of a checkpoint" for name in strays]
    checkpoints.prune(1, "loss")


@pytest.mark.parametrize(
    ("checkpoints", "content"),
    [("folder", x) for x in ("", "{", "[]", '{"progress": {}}', '{"progress": {"stepp": 1}, "metrics": {}}')]
    + [("s3", "{")],
    indirect=IN_STORAGE,
)
def test_damaged_older_checkpoint_is_passed_over_by_name(encoder, checkpoints, content, caplog):
    trainer = make_trainer(encoder)
    for step, loss in ((5, 1.0), (10, 2.0), (15, 3.0)):
        checkpoints.save(trainer, TrainState(step), {"loss": loss})
    overwrite(checkpoints.path / "step-000000005", STATE, content.encode())
    assert checkpoints.best("loss") == 10
    assert "step-000000005/state.json is damaged" in caplog.text
    checkpoints.prune(1, "loss")
    assert checkpoints.steps() == [10, 15]
    assert checkpoints.final_step(TrainConfig(steps=15)) == 15


class OneWeight:
    """The smallest trainer that has checkpoints."""

    def __init__(self, value: float = 0.0) -> None:
        self.checkpointed_module = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(self.checkpointed_module.weight, value)
        self.moments = torch.full((1,), value)

    def optimizer_state(self) -> dict[str, torch.Tensor]:
        return {"moments": self.moments}

    def load_optimizer_state(self, tensors: dict[str, torch.Tensor]) -> None:
        self.moments = tensors["moments"]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for step in (5, 10):
        CheckpointManager(StoragePath.of(folder)).save(OneWeight(step), TrainState(step), {"loss": float(step)})
    return folder


@malformed_cases(4 * EXAMPLES, damage=damages)
def test_damaged_checkpoint_is_loaded_equal_or_skipped_by_name(two_steps: Path, damage: Damage):
    def load(folder: Path) -> tuple[object, ...]:
        checkpoints, trainer = CheckpointManager(StoragePath.of(folder)), OneWeight()
        progress, faults = checkpoints.load_newest(trainer)
        is_best = checkpoints.best("loss") is not None and checkpoints.state(checkpoints.best("loss")).progress.step
        return progress, trainer.checkpointed_module.weight.item(), trainer.moments.item(), is_best, faults

    def is_older(found: tuple[object, ...]) -> bool:
        progress, weight, moments, best, faults = found
        steps = [5, 10][: 2 - len(faults)] or [None]
        value = steps[-1] or 0
        return (progress and progress.step, weight, moments) == (steps[-1], value, value) and best in (5, 10, False)

    check_damaged(two_steps, damage, load, may_be=is_older)
