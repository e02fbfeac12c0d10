"""The probability of monolingual batches at a step."""

from __future__ import annotations

import numpy as np
import pytest

from hbt_ray.config import MixConfig
from hbt_ray.sampling import monolingual_probability


@pytest.mark.parametrize(
    ("mix", "shares"),
    [
        ({"strategy": "x-x-mono", "alpha": 0.3}, [1, 1, 1, 1, 1]),
        ({"strategy": "x-y", "alpha": 0.3}, [0, 0, 0, 0, 0]),
        ({"strategy": "x-x", "alpha": 0.3}, [0, 0, 0, 0, 0]),
        ({"alpha": 0.3}, [0.3] * 5),
        ({"alpha_schedule": {"points": [[10, 0.8], [20, 0.4]], "between": "linear"}}, [0.8, 0.8, 0.7, 0.6, 0.4]),
        ({"alpha_schedule": {"points": [[10, 0.8], [20, 0.4]], "between": "hold"}}, [0.8, 0.8, 0.8, 0.8, 0.4]),
        (
            {"alpha_schedule": {"points": [[10, 0.8], [20, 0.4]], "between": "cosine"}},
            [0.8, 0.8, 0.6 + 0.2 * np.cos(np.pi / 4), 0.6, 0.4],
        ),
    ],
    ids=str,
)
def test_monolingual_probability_follows_strategy_and_schedule(mix, shares):
    found = monolingual_probability(MixConfig.model_validate(mix), np.array([0, 10, 12.5, 15, 30]))
    assert found == pytest.approx(shares)
