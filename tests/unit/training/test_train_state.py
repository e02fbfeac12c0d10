import pytest

from hbt_ray.config import EarlyStoppingConfig, TrainConfig
from hbt_ray.training.train_state import (
    TrainState,
    after_validation,
    is_finished,
    should_checkpoint,
    should_validate,
    steps_to_evaluate,
)

TRAIN = TrainConfig(steps=20, validation_every=4, checkpoint_every=5, early_stopping=EarlyStoppingConfig(patience=2))


def test_should_validate_every_n_steps_and_at_the_end():
    due = [step for step in range(1, 21) if should_validate(TrainState(step), TRAIN)]
    assert due == [4, 8, 12, 16, 20]
    assert not should_validate(TrainState(20), TrainConfig(steps=20))


def test_should_checkpoint_every_n_steps_at_validations_at_the_end():
    due = [step for step in range(1, 21) if should_checkpoint(TrainState(step), TRAIN)]
    assert due == [4, 5, 8, 10, 12, 15, 16, 20]
    assert should_checkpoint(TrainState(7), TrainConfig(steps=7, checkpoint_every=100))


def test_after_validation_a_lower_loss_is_best_and_resets_patience():
    progress = after_validation(TrainState(4), 2.0, TRAIN)
    progress = after_validation(progress, 2.5, TRAIN)
    assert (progress.best_validation_loss, progress.validations_without_gain) == (2.0, 1)
    progress = after_validation(progress, 1.0, TRAIN)
    assert (progress.best_validation_loss, progress.validations_without_gain) == (1.0, 0)
    assert progress.last_validation_loss == 1.0


def test_after_validation_nan_is_no_gain():
    progress = after_validation(after_validation(TrainState(4), 2.0, TRAIN), float("nan"), TRAIN)
    assert (progress.best_validation_loss, progress.validations_without_gain) == (2.0, 1)
    progress = after_validation(after_validation(TrainState(4), float("nan"), TRAIN), 5.0, TRAIN)
    assert (progress.best_validation_loss, progress.validations_without_gain) == (5.0, 0)


def test_after_validation_a_gain_below_min_change_is_none():
    train = TRAIN.model_copy(update={"early_stopping": EarlyStoppingConfig(patience=2, min_change=0.1)})
    progress = after_validation(after_validation(TrainState(4), 2.0, train), 1.95, train)
    assert progress.validations_without_gain == 1


@pytest.mark.parametrize(
    ("step", "without_gain", "finished"), [(20, 0, True), (19, 0, False), (8, 2, True), (8, 1, False)]
)
def test_is_finished_at_the_last_step_or_without_patience(step, without_gain, finished):
    assert is_finished(TrainState(step, validations_without_gain=without_gain), TRAIN) is finished


def test_is_finished_ignores_patience_without_early_stopping():
    assert not is_finished(TrainState(8, validations_without_gain=99), TrainConfig(steps=20))


def test_steps_to_evaluate_are_due_ones_that_were_not_evaluated():
    train = TrainConfig(steps=10, evaluate_every=2)
    assert steps_to_evaluate([1, 2, 4, 6, 10], {4}, train) == {2, 6}
    assert steps_to_evaluate([2, 4], (), TrainConfig(steps=10)) == set()
