import math

import pytest
import torch

from hbt_ray.config import DistillationConfig, LossConfig
from hbt_ray.losses.combined import consistency_loss, cut, distillation_loss, in_batch_loss, training_loss

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


# Several positives


def test_two_positives_of_a_question_are_no_negatives_of_each_other():
    # Questions e0 and e1; passages e0 and e2 of the first, e1 and e3 of the second. Each question scores 1 with its
    # first passage and 0 with its second, which has the two passages of the other question against it, both at 0.
    found = in_batch_loss(
        EYE[:2], EYE[[0, 2, 1, 3]], torch.tensor([1, 2]), torch.tensor([3, 4, 5, 6]), temperature=1.0, positives=2
    )
    assert math.isclose(float(found), (math.log(1 + 2 * math.exp(-1)) + math.log(3)) / 2, rel_tol=1e-6)


def plain_loss(queries, passages, query_keys, passage_keys, temperature, positives):
    """Term by term, from the definition."""
    query_keys, passage_keys = query_keys.tolist(), passage_keys.tolist()
    pairs, terms = len(queries), []
    own = [range(i * positives, (i + 1) * positives) for i in range(pairs)]
    for i in range(pairs):
        right = {j for other in range(pairs) if query_keys[other] == query_keys[i] for j in own[other]}
        right |= {j for j in range(len(passages)) if passage_keys[j] in {passage_keys[k] for k in own[i]}}
        for k in own[i]:
            against = [j for j in range(len(passages)) if j == k or j not in right]
            scores = torch.stack([queries[i] @ passages[j] / temperature for j in against])
            terms.append(scores.logsumexp(0) - scores[against.index(k)])
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("positives", "negatives"), [(1, 0), (1, 2), (2, 0), (3, 0), (3, 2)])
def test_value_and_gradient_are_those_of_the_definition(positives, negatives):
    generator = torch.Generator().manual_seed(0)
    pairs, passages = 5, 5 * (positives + negatives)
    vectors = torch.randn(pairs + passages, 8, generator=generator, dtype=torch.float64)
    query_keys = torch.tensor([1, 2, 3, 2, 4])  # questions 1 and 3 are equal
    passage_keys = torch.arange(passages)
    passage_keys[positives * 4] = passage_keys[0]  # the first passages of 0 and of 4 are equal
    passage_keys[-1] = passage_keys[positives - 1]  # and the last one of all with the last one of 0
    found = []
    for of in (in_batch_loss, plain_loss):
        leaf = vectors.clone().requires_grad_()
        unit = torch.nn.functional.normalize(leaf, dim=1)
        loss = of(unit[:pairs], unit[pairs:], query_keys, passage_keys, temperature=0.2, positives=positives)
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-12)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-9, atol=1e-12)


def test_each_of_several_passages_asks_for_its_question_against_those_it_does_not_answer():
    generator = torch.Generator().manual_seed(0)
    pairs, positives = 5, 3
    vectors = torch.randn(pairs * (1 + positives), 8, generator=generator, dtype=torch.float64)
    query_keys = torch.tensor([1, 2, 3, 2, 4])  # questions 1 and 3 are equal
    passage_keys = torch.arange(10, 10 + pairs * positives)
    passage_keys[positives * 4 + 2] = passage_keys[0]  # the first passage of 0 is the last one of 4
    found = []
    for plain in (False, True):
        leaf = vectors.clone().requires_grad_()
        queries, passages = torch.nn.functional.normalize(leaf, dim=1).split([pairs, pairs * positives])
        if plain:
            own = passage_keys.view(pairs, positives).tolist()
            terms = []
            for i in range(pairs):
                for k in range(positives):
                    answered = [j for j in range(pairs) if query_keys[j] == query_keys[i] or own[i][k] in own[j]]
                    against = [i, *(j for j in range(pairs) if j not in answered)]
                    terms.append(-torch.log_softmax(queries[against] @ passages[i * positives + k] / 0.2, dim=0)[0])
            forwards = plain_loss(queries, passages, query_keys, passage_keys, 0.2, positives)
            loss = (forwards + torch.stack(terms).mean()) / 2
        else:
            settings = LossConfig(symmetric=True)
            loss = training_loss(
                settings, queries, passages, query_keys, passage_keys, temperature=0.2, positives=positives
            )
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-12)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-9, atol=1e-12)


# Consistency


def test_a_question_that_swaps_two_passages_in_its_second_language_loses_tanh_of_one_half():
    # p = (a, 1 - a) with a = e / (1 + e), r = (1 - a, a): sum (p - r) (log p - log r) / 2 = 2 a - 1.
    found = consistency_loss(EYE[:1], EYE[1:2], EYE[:2], temperature=1.0, num_pairs=1)
    assert math.isclose(float(found), math.tanh(0.5), rel_tol=1e-6)


def test_temperature_divides_the_scores_that_are_compared():
    found = consistency_loss(EYE[:1], EYE[1:2], EYE[:2], temperature=0.5, num_pairs=1)
    # p = (b, 1 - b) with b = 1 / (1 + e^-2), and log b - log(1 - b) = 2.
    assert math.isclose(float(found), 2 * math.tanh(1), rel_tol=1e-6)


def test_a_pair_without_a_second_question_counts_as_no_difference():
    found = consistency_loss(EYE[:1], EYE[1:2], EYE[:2], temperature=1.0, num_pairs=4)
    assert math.isclose(float(found), math.tanh(0.5) / 4, rel_tol=1e-6)
    assert float(consistency_loss(EYE[:0], EYE[:0], EYE[:2], temperature=1.0, num_pairs=4)) == 0.0


def test_questions_that_score_alike_in_both_languages_lose_nothing():
    assert float(consistency_loss(EYE[:2], EYE[:2], EYE, temperature=0.05, num_pairs=2)) == 0.0


def test_consistency_and_its_gradient_are_the_mean_of_torch_s_divergences_both_ways():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3 + 3 + 12, 8, generator=generator, dtype=torch.float64)
    found = []
    for plain in (False, True):
        leaf = vectors.clone().requires_grad_()
        one, other, passages = torch.nn.functional.normalize(leaf, dim=1).split([3, 3, 12])
        if plain:
            p, r = (torch.log_softmax(of @ passages.T / 0.3, dim=1) for of in (one, other))
            kl_div = torch.nn.functional.kl_div
            both = kl_div(r, p, reduction="sum", log_target=True) + kl_div(p, r, reduction="sum", log_target=True)
            loss = both / 2 / 6
        else:
            loss = consistency_loss(one, other, passages, temperature=0.3, num_pairs=6)
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-12)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-9, atol=1e-12)


def test_consistency_and_several_positives_are_trained_at_each_width_and_beside_a_teacher():
    generator = torch.Generator().manual_seed(0)
    asked, passages, told, right = (
        torch.nn.functional.normalize(torch.randn(rows, 8, generator=generator), dim=1) for rows in (4 + 2, 8, 6, 8)
    )
    keys, second_of = (torch.arange(4), torch.arange(10, 18)), torch.tensor([1, 3])
    settings = LossConfig(
        matryoshka=(3,), consistency=2.0, distillation=DistillationConfig(teacher="", weight=0.5, temperature=0.2)
    )
    found = training_loss(
        settings,
        asked,
        passages,
        *keys,
        temperature=0.1,
        teacher_vectors=(told, right),
        positives=2,
        second_of=second_of,
    )
    expected = 0.0
    for width in (3, 8):
        a, p = cut(asked, width), cut(passages, width)
        expected += in_batch_loss(a[:4], p, *keys, temperature=0.1, positives=2) / 2
        expected += 0.5 * distillation_loss(a[:4], p, (told[:4], right), temperature=0.2) / 2
        expected += 2.0 * consistency_loss(a[[1, 3]], a[4:], p, temperature=0.1, num_pairs=4) / 2
    assert math.isclose(float(found), float(expected), rel_tol=1e-6)
