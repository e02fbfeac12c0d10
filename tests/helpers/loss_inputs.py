"""Inputs of a loss in one process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hbt_ray.losses.base import LossInputs, RankLayout, TeacherEmbeddings

Ids = Sequence[int] | Tensor


def make_loss_inputs(
    queries: Tensor,
    passages: Tensor,
    query_ids: Ids | None = None,
    passage_ids: Ids | None = None,
    *,
    positives: int = 1,
    components: tuple[Ids, Ids] | None = None,
    translations: tuple[Tensor, Sequence[int]] | None = None,
    teacher: tuple[Tensor, Tensor] | None = None,
) -> LossInputs:
    """Return inputs of one process, by default with different texts.

    Args:
        queries: (B, D) unit vectors.
        passages: (B * (K + N), D) unit vectors.
        query_ids: (B,) equal for equal texts.
        passage_ids: (B * (K + N),) equal for equal texts.
        positives: K.
        components: (B,) of queries and (B * (K + N),) of passages.
        translations: (S, D) unit vectors, and the index of the query of each.
        teacher: embeddings of queries and passages.
    """
    return LossInputs(
        queries,
        passages,
        torch.as_tensor(range(len(queries)) if query_ids is None else query_ids),
        torch.as_tensor(range(100, 100 + len(passages)) if passage_ids is None else passage_ids),
        RankLayout.single_process(len(queries)),
        positives=positives,
        query_components=None if components is None else torch.as_tensor(components[0]),
        passage_components=None if components is None else torch.as_tensor(components[1]),
        translation_embeddings=None if translations is None else translations[0],
        translation_of=None if translations is None else torch.tensor(translations[1], dtype=torch.int64),
        teacher=None if teacher is None else TeacherEmbeddings(*teacher),
    )
