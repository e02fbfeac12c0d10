import math

import pytest
import torch

from hbt_ray.losses.distillation import Distillation
from tests.helpers.loss_inputs import make_loss_inputs

EYE = torch.eye(4)


def test_student_with_equal_scores_loses_the_teachers_divergence_from_uniform():
    inputs = make_loss_inputs(EYE[[2, 3]], EYE[:2], teacher=(EYE[:2], EYE[:2]))
    p = 1 / (1 + math.exp(-2))  # the teacher's, of the passage with score 1 against that with score 0
    divergence = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert float(Distillation(0.5)(inputs)) == pytest.approx(divergence, rel=1e-5)


def test_student_with_the_teachers_scores_loses_nothing():
    inputs = make_loss_inputs(EYE[:2], EYE, teacher=(EYE[:2], EYE))
    assert float(Distillation(0.2)(inputs)) == pytest.approx(0.0, abs=1e-7)


def test_known_false_negatives_are_not_masked():
    teacher = EYE[:2], EYE[:2]
    masked_by_infonce = make_loss_inputs(EYE[[2, 3]], EYE[:2], [5, 5], teacher=teacher)
    different_texts = make_loss_inputs(EYE[[2, 3]], EYE[:2], teacher=teacher)
    assert torch.equal(Distillation(0.5)(masked_by_infonce), Distillation(0.5)(different_texts))
