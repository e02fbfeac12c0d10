import math

import pytest
import torch
from torch import Tensor

from hbt_ray.losses.info_nce import InfoNCE
from tests.helpers.loss_inputs import Ids, make_loss_inputs

EYE = torch.eye(4)


def info_nce(
    queries: Tensor,
    passages: Tensor,
    query_ids: Ids | None = None,
    passage_ids: Ids | None = None,
    temperature: float = 1.0,
    symmetric: bool = False,
    positives: int = 1,
) -> Tensor:
    inputs = make_loss_inputs(queries, passages, query_ids, passage_ids, positives=positives)
    return InfoNCE(temperature, symmetric=symmetric)(inputs)


# Values worked out on paper


def test_loss_of_two_orthogonal_pairs_is_log_of_one_plus_one_over_e():
    assert math.isclose(info_nce(EYE[:2], EYE[:2]), math.log(1 + math.exp(-1)), rel_tol=1e-6)


def test_temperature_divides_scores():
    assert math.isclose(info_nce(EYE[:2], EYE[:2], temperature=0.5), math.log(1 + math.exp(-2)), rel_tol=1e-6)


def test_hard_negatives_are_in_the_sum_of_every_query():
    # Two positives and a negative for each, all orthogonal: score 1 against three scores of 0.
    assert math.isclose(info_nce(EYE[:2], EYE), math.log(1 + 3 * math.exp(-1)), rel_tol=1e-6)


def test_passage_equal_to_the_positive_is_no_negative():
    passages = torch.stack([EYE[0], EYE[0], EYE[2]])
    masked = info_nce(EYE[:3], passages, passage_ids=[7, 7, 9])
    # Query 0: 1 against e^0; query 1 scores 0 with both that are left; query 2: 1 against two e^0.
    expected = (math.log(1 + math.exp(-1)) + math.log(2) + math.log(1 + 2 * math.exp(-1))) / 3
    assert math.isclose(masked, expected, rel_tol=1e-6)


def test_positive_of_an_equal_query_is_no_negative():
    assert float(info_nce(EYE[:2], EYE[:2], query_ids=[5, 5])) == 0.0


def test_hard_negatives_of_an_equal_query_remain_negatives():
    # Ids are equal, so the positives mask each other; the two hard negatives still count.
    assert math.isclose(info_nce(EYE[:2], EYE, query_ids=[5, 5]), math.log(1 + 2 * math.exp(-1)), rel_tol=1e-6)


def test_passages_of_items_with_a_common_text_are_no_negatives():
    # Pairs 0 and 2 have a text in common; the hard negative of pair 1 is a passage of that component.
    inputs = make_loss_inputs(EYE[:3], torch.cat([EYE[:3], EYE[[3, 3, 3]]]), components=([9, 0, 9], [9, 0, 9, 0, 9, 0]))
    # Queries 0 and 2: 1 against e^0 of pair 1 and of two hard negatives; query 1: against two and three.
    expected = (2 * math.log(1 + 3 * math.exp(-1)) + math.log(1 + 5 * math.exp(-1))) / 3
    assert math.isclose(InfoNCE(1.0)(inputs), expected, rel_tol=1e-6)
    # In the reverse direction passages 0 and 2 have one query against them, and passage 1 two.
    reverse = (2 * math.log(1 + math.exp(-1)) + math.log(1 + 2 * math.exp(-1))) / 3
    assert math.isclose(InfoNCE(1.0, symmetric=True)(inputs), (expected + reverse) / 2, rel_tol=1e-6)


def test_component_0_is_none():
    assert info_nce(EYE[:2], EYE[:2]) == InfoNCE(1.0)(make_loss_inputs(EYE[:2], EYE[:2], components=([0, 0], [0, 0])))


def test_two_positives_of_a_query_are_no_negatives_of_each_other():
    # Queries e0 and e1; passages e0 and e2 of the first, e1 and e3 of the second. Each query scores 1 with its first
    # positive and 0 with its second. Each has the two passages of the other query against it, both at 0.
    found = info_nce(EYE[:2], EYE[[0, 2, 1, 3]], [1, 2], [3, 4, 5, 6], positives=2)
    assert math.isclose(float(found), (math.log(1 + 2 * math.exp(-1)) + math.log(3)) / 2, rel_tol=1e-6)


# The reverse direction, values worked out on paper


def test_symmetric_loss_is_the_mean_of_both_directions():
    queries, passages = EYE[[0, 0]], EYE[[0, 1]]
    # Queries: 1 against e^0, and 0 against e^1. Passages: the same score with both queries.
    forward = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert float(info_nce(queries, passages)) == pytest.approx(forward, rel=1e-6)
    symmetric = float(info_nce(queries, passages, symmetric=True))
    assert symmetric == pytest.approx((forward + math.log(2)) / 2, rel=1e-6)


def test_hard_negatives_are_no_anchors_of_the_reverse_direction():
    forward = math.log(1 + 3 * math.exp(-1))  # 1 against the other passage and two negatives
    reverse = math.log(1 + math.exp(-1))  # 1 against the other query
    assert float(info_nce(EYE[:2], EYE, symmetric=True)) == pytest.approx((forward + reverse) / 2, rel=1e-6)


def test_equal_passages_and_equal_queries_are_masked_in_the_reverse_direction():
    equal_passages = info_nce(EYE[:3], EYE[[0, 0, 2]], passage_ids=[7, 7, 9], symmetric=True)
    forward = (math.log(1 + math.exp(-1)) + math.log(2) + math.log(1 + 2 * math.exp(-1))) / 3
    # Passage 0: 1 against query 2's e^0. Passage 1: 0 against query 2's e^0. Passage 2: 1 against two e^0.
    assert float(equal_passages) == pytest.approx(forward, rel=1e-6)  # as the mirror image has the same losses
    equal_queries = info_nce(EYE[:2], EYE[:2], [5, 5], [0, 1], symmetric=True)
    assert float(equal_queries) == 0.0


# Against plain implementations


def test_loss_equals_cross_entropy_of_the_score_matrix():
    generator = torch.Generator().manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(8, 16, generator=generator), dim=1)
    passages = torch.nn.functional.normalize(torch.randn(8, 16, generator=generator), dim=1)
    scores = (queries @ passages.T / 0.05).double()
    expected = (scores.logsumexp(1) - scores.diagonal()).mean()
    assert math.isclose(info_nce(queries, passages, temperature=0.05), float(expected), rel_tol=1e-5)


def plain_loss(
    queries: Tensor,
    passages: Tensor,
    query_ids: list[int],
    passage_ids: list[int],
    temperature: float,
    positives: int,
) -> Tensor:
    """Compute the loss term by term, from the definition."""
    pairs, terms = len(queries), []
    positives_of = [range(i * positives, (i + 1) * positives) for i in range(pairs)]
    for i in range(pairs):
        relevant = {j for other in range(pairs) if query_ids[other] == query_ids[i] for j in positives_of[other]}
        relevant |= {j for j in range(len(passages)) if passage_ids[j] in {passage_ids[k] for k in positives_of[i]}}
        for k in positives_of[i]:
            candidates = [j for j in range(len(passages)) if j == k or j not in relevant]
            scores = torch.stack([queries[i] @ passages[j] / temperature for j in candidates])
            terms.append(scores.logsumexp(0) - scores[candidates.index(k)])
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("positives", "negatives"), [(1, 0), (1, 2), (2, 0), (3, 0), (3, 2)])
def test_value_and_gradient_equal_those_of_the_definition(positives, negatives):
    generator = torch.Generator().manual_seed(0)
    pairs, passages = 5, 5 * (positives + negatives)
    vectors = torch.randn(pairs + passages, 8, generator=generator, dtype=torch.float64)
    query_ids = [1, 2, 3, 2, 4]  # queries 1 and 3 are equal
    passage_ids = list(range(passages))
    passage_ids[positives * 4] = passage_ids[0]  # the first passages of 0 and of 4 are equal
    passage_ids[-1] = passage_ids[positives - 1]  # and the last one of all with the last one of 0
    found = []
    for loss_of in (info_nce, plain_loss):
        leaf = vectors.clone().requires_grad_()
        unit = torch.nn.functional.normalize(leaf, dim=1)
        loss = loss_of(unit[:pairs], unit[pairs:], query_ids, passage_ids, temperature=0.2, positives=positives)
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-12)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-9, atol=1e-12)


def test_reverse_direction_of_several_positives_equals_its_definition():
    generator = torch.Generator().manual_seed(0)
    pairs, positives = 5, 3
    vectors = torch.randn(pairs * (1 + positives), 8, generator=generator, dtype=torch.float64)
    query_ids = [1, 2, 3, 2, 4]  # queries 1 and 3 are equal
    passage_ids = list(range(10, 10 + pairs * positives))
    passage_ids[positives * 4 + 2] = passage_ids[0]  # the first passage of 0 is the last one of 4
    found = []
    for plain in (False, True):
        leaf = vectors.clone().requires_grad_()
        queries, passages = torch.nn.functional.normalize(leaf, dim=1).split([pairs, pairs * positives])
        if plain:
            ids_of = [passage_ids[i * positives : (i + 1) * positives] for i in range(pairs)]
            terms = []
            for i in range(pairs):
                for k in range(positives):
                    relevant = [j for j in range(pairs) if query_ids[j] == query_ids[i] or ids_of[i][k] in ids_of[j]]
                    candidates = [i, *(j for j in range(pairs) if j not in relevant)]
                    terms.append(-torch.log_softmax(queries[candidates] @ passages[i * positives + k] / 0.2, dim=0)[0])
            forward = plain_loss(queries, passages, query_ids, passage_ids, 0.2, positives)
            loss = (forward + torch.stack(terms).mean()) / 2
        else:
            loss = info_nce(queries, passages, query_ids, passage_ids, 0.2, symmetric=True, positives=positives)
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-12)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-9, atol=1e-12)
