"""BERT's masking of tokens, as a function of a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hbt_ray.errors import ConfigError
from hbt_ray.utils.counter_rng import Salt, random_bits, random_uniforms, stable_hash64

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MASK_FRACTION, RANDOM_FRACTION = 0.8, 0.1  # of the target tokens; the others are not replaced
IGNORE_INDEX = -1  # label of a token that is not to be predicted


@dataclass(frozen=True, slots=True)
class MaskRules:
    """Parameters of the masking of BERT (Devlin et al. 2019, arXiv 1810.04805)."""

    mask_id: int
    special_ids: tuple[int, ...]  # never masked
    num_tokens: int  # size of the vocabulary that random tokens are drawn from
    share: float  # fraction of the tokens to predict

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerFast, share: float, model: str) -> MaskRules:
        """Return the rules for a tokenizer.

        Raises:
            ConfigError: it has no mask token; `model` names it in the message.
        """
        if tokenizer.mask_token_id is None:
            raise ConfigError(
                f"the tokenizer of {model!r} has no mask token; write pretrain.objective=contrastive, or the "
                "model.path of an encoder that was trained with masks"
            )
        return MaskRules(tokenizer.mask_token_id, tuple(tokenizer.all_special_ids), len(tokenizer), share)


def mask_tokens(ids: np.ndarray, rules: MaskRules, key: int) -> tuple[np.ndarray, np.ndarray]:
    """Mask tokens as `transformers.DataCollatorForLanguageModeling` does, with draws addressed by position.

    1. Choose each token as a target with probability `rules.share`; special tokens never.
    2. Replace 80% of the targets by the mask token and 10% by a random token.

    Args:
        ids: (T,) token ids.
        rules: of the tokenizer.
        key: of all draws.

    Returns:
        input ids (T,) int32 with masking applied; labels (T,) int32, the original id of a target and IGNORE_INDEX
        elsewhere.
    """
    positions = np.arange(len(ids))
    # 1. Targets
    is_drawn = random_uniforms(stable_hash64(key, Salt.MASKED_POSITIONS), positions) < rules.share
    is_target = is_drawn & ~np.isin(ids, rules.special_ids)
    # 2. Replacements
    draws = random_uniforms(stable_hash64(key, Salt.KIND), positions)
    random_ids = random_bits(stable_hash64(key, Salt.RANDOM_TOKEN), positions) % np.uint64(rules.num_tokens)
    replaced = np.where(draws < MASK_FRACTION + RANDOM_FRACTION, random_ids.astype(np.int64), ids)
    replaced = np.where(draws < MASK_FRACTION, rules.mask_id, replaced)
    input_ids = np.where(is_target, replaced, ids)
    labels = np.where(is_target, ids, IGNORE_INDEX)
    return input_ids.astype(np.int32), labels.astype(np.int32)
