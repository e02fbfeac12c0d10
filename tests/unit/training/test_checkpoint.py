"""A checkpoint is whole or it is none, wherever it lies; a run goes on from the newest whole one."""

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


def damage(place: StoragePath, file: str, content: bytes) -> None:
    filesystem, path = (place / file).arrow()
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)


def content_of(place: StoragePath, file: str) -> bytes:
    filesystem, path = (place / file).arrow()
    with filesystem.open_input_stream(path) as stream:
        return stream.read()


def test_weights_moments_progress_and_metrics_come_back(encoder, checkpoints):
    saved, other = make_trainer(encoder, shift=1.0), make_trainer(encoder)
    progress = TrainState(step=5, best_validation_loss=0.1 + 0.2, validations_without_gain=1, steps_skipped=2)
    checkpoints.save(saved, progress, {"loss": 1.5})
    assert checkpoints.load(5, make_trainer(encoder)) == progress
    assert checkpoints.load_newest(other) == (progress, [])
    assert checkpoints.state(5).metrics == {"loss": 1.5}
    assert torch.equal(weights_of(other), weights_of(saved))
    moments = saved.optimizer_state()
    assert all(torch.equal(value, moments[name]) for name, value in other.optimizer_state().items())


def test_where_nothing_was_saved_there_is_nothing_to_go_on_from(encoder, checkpoints):
    assert checkpoints.steps() == []
    assert checkpoints.load_newest(make_trainer(encoder)) == (None, [])


@pytest.mark.parametrize("file", [*FILES, COMPLETE])
def test_a_torn_checkpoint_is_passed_over_by_name_for_the_one_before(encoder, checkpoints, file):
    trainer = make_trainer(encoder)
    checkpoints.save(trainer, TrainState(5), {})
    torn = checkpoints.save(trainer, TrainState(10), {})
    content = content_of(torn, file)
    damage(torn, file, content[: len(content) // 2])
    progress, [fault] = checkpoints.load_newest(trainer)
    assert progress == TrainState(5)
    assert "step-000000010 is passed over" in fault
    assert file in fault


def test_training_has_ended_with_its_last_step_or_its_patience(encoder, checkpoints):
    train = TrainConfig(steps=10, validation_every=1, early_stopping=EarlyStoppingConfig(patience=2))
    assert not checkpoints.has_ended(train)
    checkpoints.save(make_trainer(encoder), TrainState(5, validations_without_gain=1), {})
    assert not checkpoints.has_ended(train)
    checkpoints.save(make_trainer(encoder), TrainState(6, validations_without_gain=2), {})
    assert checkpoints.has_ended(train)
    assert not checkpoints.has_ended(TrainConfig(steps=10))
    assert checkpoints.has_ended(TrainConfig(steps=6))


@pytest.mark.parametrize("file", [*FILES, COMPLETE])
def test_training_has_not_ended_where_its_last_checkpoint_is_damaged(encoder, checkpoints, file):
    place = checkpoints.save(make_trainer(encoder), TrainState(10), {})
    assert checkpoints.has_ended(TrainConfig(steps=10))
    damage(place, file, content_of(place, file)[:-9])
    assert not checkpoints.has_ended(TrainConfig(steps=10))


@pytest.mark.parametrize("file", FILES)
def test_one_changed_bit_is_found(encoder, checkpoints, file):
    trainer = make_trainer(encoder)
    place = checkpoints.save(trainer, TrainState(5), {})
    content = bytearray(content_of(place, file))
    content[-3] ^= 1
    damage(place, file, bytes(content))
    before = weights_of(trainer)
    assert checkpoints.load_newest(trainer)[0] is None
    with pytest.raises(CheckpointError, match=f"is torn or damaged: {file} is not as it was written"):
        checkpoints.load(5, trainer)
    assert torch.equal(weights_of(trainer), before)


@pytest.mark.parametrize("file", [*FILES, COMPLETE])
def test_a_checkpoint_that_lacks_a_file_is_none(encoder, checkpoints, file):
    place = checkpoints.save(make_trainer(encoder), TrainState(5), {})
    (place / file).delete()
    progress, [fault] = checkpoints.load_newest(make_trainer(encoder))
    assert progress is None
    assert f"it has no {file}" in fault


@pytest.mark.parametrize("marker", ["null", "[]", "3", '{"weights.safetensors": null}', "{}"])
def test_a_marker_of_another_shape_makes_no_checkpoint(encoder, tmp_path, marker):
    place = CheckpointManager(StoragePath.of(tmp_path)).save(make_trainer(encoder), TrainState(5), {})
    (place / COMPLETE).write_text(marker)
    assert validate_checkpoint(place.local) is not None


def test_it_is_invisible_until_its_marker_stands(encoder, checkpoints):
    place = checkpoints.save(make_trainer(encoder), TrainState(5), {})
    (place / COMPLETE).delete()
    assert checkpoints.steps() == []


def test_it_may_be_written_over_a_torn_one_of_the_same_step(encoder, checkpoints):
    torn = checkpoints.save(make_trainer(encoder), TrainState(5), {})
    damage(torn, WEIGHTS, b"")
    checkpoints.save(make_trainer(encoder), TrainState(5), {})
    assert checkpoints.load_newest(make_trainer(encoder)) == (TrainState(5), [])


def test_the_newest_are_kept_and_the_best_beside_them(encoder, checkpoints):
    trainer = make_trainer(encoder)
    losses = {5: 2.0, 10: 1.0, 15: 3.0, 20: 1.0, 25: 4.0, 30: 5.0}
    for step, loss in losses.items():
        checkpoints.save(trainer, TrainState(step), {"validation_loss": loss} if step != 25 else {})
        checkpoints.prune(2, "validation_loss")
    assert checkpoints.steps() == [10, 25, 30]  # of the equally good, the first
    assert checkpoints.best("validation_loss") == 10
    checkpoints.prune(2, None)
    assert checkpoints.steps() == [25, 30]


def test_a_storage_that_takes_no_more_keeps_what_it_has_and_says_so(encoder, tmp_path):
    checkpoints = CheckpointManager(StoragePath.of(tmp_path))
    checkpoints.save(make_trainer(encoder), TrainState(5), {})
    sentence = r"step 10 cannot be written to .*; that of step 5 is kept: make room"
    with no_file_above(4096), pytest.raises(CheckpointError, match=sentence):
        checkpoints.save(make_trainer(encoder), TrainState(10), {})
    assert checkpoints.load_newest(make_trainer(encoder)) == (TrainState(5), [])
    assert checkpoints.place.names() == ["step-000000005"]  # nothing is left to fill the disk


def test_weights_that_have_two_names_are_saved_once_and_come_back(tmp_path):
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


def test_weights_of_another_encoder_are_refused(encoder, tmp_path):
    checkpoints = CheckpointManager(StoragePath.of(tmp_path))
    place = checkpoints.save(make_trainer(encoder), TrainState(5), {})
    weights = load_file(place.local / WEIGHTS)
    name = next(iter(weights))
    save_file({n: weight for n, weight in weights.items() if n != name}, place.local / WEIGHTS)
    sums = json.loads((place / COMPLETE).read_text())
    (place / COMPLETE).write_text(json.dumps(sums | {WEIGHTS: file_sha256(place.local / WEIGHTS)}))
    with pytest.raises(RuntimeError, match=name):
        checkpoints.load_weights(5, make_trainer(encoder).encoder)


def test_all_files_are_safetensors_or_json(encoder, tmp_path):
    place = CheckpointManager(StoragePath.of(tmp_path)).save(make_trainer(encoder), TrainState(5), {})
    assert sorted(place.names()) == sorted([WEIGHTS, OPTIMIZER, STATE, COMPLETE])
    assert {Path(name).suffix for name in place.names()} == {".safetensors", ".json"}
