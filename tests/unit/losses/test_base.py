import torch

from hbt_ray.losses.base import RankLayout, truncate
from tests.helpers.loss_inputs import make_loss_inputs


def test_rows_per_rank_follow_from_the_rows_of_this_ranks_pairs():
    # Rank 1 of 2 has 3 of 8 pairs, each with 1 positive and 1 negative.
    assert RankLayout(0.75, [5, 3], 1).rows_per_rank(torch.zeros(6, 4)) == [10, 6]


def test_layout_without_a_process_group_gathers_nothing():
    layout = RankLayout.of_process_group(3, [5, 3], gather_negatives=True)
    assert layout == RankLayout.single_process(3)
    local = torch.ones(6, 4)
    assert layout.gather(local) is local


def test_truncation_to_the_whole_width_changes_nothing():
    embeddings = torch.eye(4)
    assert truncate(embeddings, 4) is embeddings
    inputs = make_loss_inputs(embeddings, embeddings)
    assert inputs.truncated(4) is inputs


def test_truncation_applies_to_all_embeddings_but_the_teachers():
    vectors = torch.nn.functional.normalize(torch.arange(1.0, 13.0).view(3, 4), dim=1)
    inputs = make_loss_inputs(vectors, vectors, translations=(vectors[:1], [2]), teacher=(vectors, vectors))
    truncated = inputs.truncated(2)
    assert truncated.query_embeddings.shape == truncated.passage_embeddings.shape == (3, 2)
    assert truncated.translation_embeddings is not None
    assert truncated.translation_embeddings.shape == (1, 2)
    assert torch.allclose(truncated.query_embeddings.norm(dim=1), torch.ones(3))
    assert truncated.teacher is inputs.teacher
