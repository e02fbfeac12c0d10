import math

import torch

from hbt_ray.loss import in_batch_loss

EYE = torch.eye(4)


def loss(queries, passages, query_keys=None, passage_keys=None, temperature=1.0):
    return float(
        in_batch_loss(
            queries,
            passages,
            torch.arange(len(queries)) if query_keys is None else torch.tensor(query_keys),
            torch.arange(len(passages)) + 100 if passage_keys is None else torch.tensor(passage_keys),
            temperature=temperature,
        )
    )


def test_two_orthogonal_pairs_lose_log_of_one_plus_e_to_the_minus_one():
    assert math.isclose(loss(EYE[:2], EYE[:2]), math.log(1 + math.exp(-1)), rel_tol=1e-6)


def test_temperature_divides_scores():
    assert math.isclose(loss(EYE[:2], EYE[:2], temperature=0.5), math.log(1 + math.exp(-2)), rel_tol=1e-6)


def test_hard_negatives_stand_in_every_question_s_sum():
    # Two positives and one negative for each, all orthogonal: 1 against three times e^0.
    assert math.isclose(loss(EYE[:2], EYE), math.log(1 + 3 * math.exp(-1)), rel_tol=1e-6)


def test_a_passage_equal_to_the_right_one_is_no_negative():
    passages = torch.stack([EYE[0], EYE[0], EYE[2]])
    masked = loss(EYE[:3], passages, passage_keys=[7, 7, 9])
    # Question 0: 1 against e^0; question 1 scores 0 with both that are left; question 2: 1 against two e^0.
    expected = (math.log(1 + math.exp(-1)) + math.log(2) + math.log(1 + 2 * math.exp(-1))) / 3
    assert math.isclose(masked, expected, rel_tol=1e-6)


def test_the_passage_of_an_equal_question_is_no_negative():
    masked = loss(EYE[:2], EYE[:2], query_keys=[5, 5])
    assert masked == 0.0


def test_an_equal_question_does_not_excuse_its_hard_negatives():
    # Keys are equal, so the positives mask each other; the two hard negatives still count.
    assert math.isclose(loss(EYE[:2], EYE, query_keys=[5, 5]), math.log(1 + 2 * math.exp(-1)), rel_tol=1e-6)


def test_loss_equals_cross_entropy_of_the_score_matrix_on_random_vectors():
    generator = torch.Generator().manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(8, 16, generator=generator), dim=1)
    passages = torch.nn.functional.normalize(torch.randn(8, 16, generator=generator), dim=1)
    scores = (queries @ passages.T / 0.05).double()
    expected = (scores.logsumexp(1) - scores.diagonal()).mean()
    assert math.isclose(loss(queries, passages, temperature=0.05), float(expected), rel_tol=1e-5)
