import math

import pytest

from hbt_ray.config import TrainConfig
from hbt_ray.training.lr_schedule import learning_rate


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        # 10 steps, 2 of warm-up: 1/2, 2/2, then the 8 steps of the schedule.
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]),
        ("cosine", [0.5, 1, 1, None, 0.5 + math.sqrt(0.125), None, 0.5, None, 0.5 - math.sqrt(0.125), None, 0]),
    ],
)
def test_learning_rate_warms_up_then_follows_its_schedule(schedule, rates):
    train = TrainConfig(steps=10, warmup_share=0.2, learning_rate=4.0, schedule=schedule)
    for step, rate in enumerate(rates):
        if rate is not None:
            assert learning_rate(step, train) == pytest.approx(4 * rate, abs=1e-12), step


def test_learning_rate_without_warmup_or_with_nothing_else():
    assert learning_rate(0, TrainConfig(steps=10, warmup_share=0, learning_rate=4.0)) == 4.0
    rates = [learning_rate(step, TrainConfig(steps=4, warmup_share=1, learning_rate=4.0)) for step in range(4)]
    assert rates == [1, 2, 3, 4]
