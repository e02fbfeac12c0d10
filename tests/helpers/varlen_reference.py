"""torch's variable-length attention, which needs a GPU, written out with the same signature and meaning."""

from __future__ import annotations

import torch
from torch import Tensor


def varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    return_aux: object = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> Tensor:
    """Compute attention a sequence at a time; see `torch.nn.attention.varlen.varlen_attn`."""
    assert cu_seq_k is not None
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    lengths = (cu_seq_q.diff(), cu_seq_k.diff())
    assert [int(of.max()) for of in lengths] == [max_q, max_k]
    per_key = query.shape[1] // key.shape[1]
    assert enable_gqa or per_key == 1
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    attended = []
    for start, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        queries = query[start:end].transpose(0, 1)
        keys, values = (of[start:end].transpose(0, 1).repeat_interleave(per_key, 0) for of in (key, value))
        scores = queries @ keys.transpose(1, 2) * scale
        distance = torch.arange(end - start) - torch.arange(end - start)[:, None]  # of a key after a query
        before, after = (end - start if reach == -1 else reach for reach in window_size)
        scores = scores.masked_fill((distance > after) | (distance < -before), -torch.inf)
        attended.append((scores.softmax(-1) @ values).transpose(0, 1))
    return torch.cat(attended)
