"""Which tokens of a block are masked, and by what: a function of a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hbt_ray.errors import ConfigError
from hbt_ray.utils.counter_rng import Salt, random_bits, random_uniforms, stable_hash64

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MASKED, RANDOM = 0.8, 0.1  # of the tokens to be told; the others are left as they are
IGNORE_INDEX = -1


@dataclass(frozen=True, slots=True)
class MaskRules:
    """Those of BERT (Devlin et al. 2019, arXiv 1810.04805), as transformers' collator applies them."""

    mask_id: int
    special_ids: tuple[int, ...]  # never masked
    num_tokens: int  # from which random ones are drawn
    share: float  # of the tokens, to be told

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerFast, share: float, model: str) -> MaskRules:
        """Raises ConfigError when the tokenizer has no mask token."""
        if tokenizer.mask_token_id is None:
            raise ConfigError(
                f"the tokenizer of {model!r} has no mask token; write pretrain.objective=contrastive, or the "
                "model.path of an encoder that was trained with masks"
            )
        return MaskRules(tokenizer.mask_token_id, tuple(tokenizer.all_special_ids), len(tokenizer), share)


def mask(ids: np.ndarray, rules: MaskRules, key: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks some tokens.

    Args:
        ids: (T,).

    Returns:
        (T,) int32 what the encoder sees, and (T,) int32 what it is to tell: the token that stood there, or UNTOLD.
    """
    places = np.arange(len(ids))
    told = (random_uniforms(stable_hash64(key, Salt.MASKED_POSITIONS), places) < rules.share) & ~np.isin(
        ids, rules.special_ids
    )
    kind = random_uniforms(stable_hash64(key, Salt.KIND), places)
    others = (random_bits(stable_hash64(key, Salt.RANDOM_TOKEN), places) % np.uint64(rules.num_tokens)).astype(np.int64)
    seen = np.where(kind < MASKED, rules.mask_id, np.where(kind < MASKED + RANDOM, others, ids))
    return np.where(told, seen, ids).astype(np.int32), np.where(told, ids, IGNORE_INDEX).astype(np.int32)
