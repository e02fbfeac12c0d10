"""How sentence-transformers uses a saved model: its modules, prompts, similarity and dimensions."""

from __future__ import annotations

import logging
from typing import Literal

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    Transformer,
)

from hbt_ray.errors import ConfigError

logger = logging.getLogger(__name__)

Similarity = Literal["cosine", "dot"]
# Names of prompts in the order of `encode_document` and `encode_query`.
_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
_OF_VECTORS = (Pooling, Dense, Normalize, LayerNorm, Dropout)


def takes_token_ids(encoder: SentenceTransformer) -> bool:
    """Return True if an encoder is a transformers model and modules that need nothing but its vectors."""
    return type(encoder[0]) is Transformer and all(type(module) in _OF_VECTORS for module in list(encoder)[1:])


def excludes_prompt(encoder: SentenceTransformer) -> bool:
    """Return True if a pooling of an encoder leaves out the tokens of the prompt."""
    return any(isinstance(module, Pooling) and not module.include_prompt for module in encoder.modules())


def set_prompts(encoder: SentenceTransformer, query_prefix: str | None, passage_prefix: str | None) -> None:
    """Make prefixes the prompts that are saved with an encoder; None: the encoder's own."""
    if query_prefix is None and passage_prefix is None:
        return
    query = saved_prompt(encoder, "query") if query_prefix is None else query_prefix
    passage = saved_prompt(encoder, "document") if passage_prefix is None else passage_prefix
    encoder.prompts = {**encoder.prompts, "query": query, "document": passage}


def saved_prompt(encoder: SentenceTransformer, task: Literal["query", "document"]) -> str:
    """Return the prompt that `encode_query` or `encode_document` prepends."""
    named = [name for name in _PROMPTS[task] if name in encoder.prompts]
    ignored = [name for name in named[1:] if encoder.prompts[name] and not encoder.prompts[named[0]]]
    if ignored:
        logger.warning(
            "the model's prompt %r is not used: sentence-transformers takes %r, which is empty; "
            "write a prefix to prepend it",
            ignored[0],
            named[0],
        )
    name = named[0] if named else encoder.default_prompt_name
    return encoder.prompts.get(name) or "" if name is not None else ""


def similarity_of(encoder: SentenceTransformer, dimensions: int | None = None) -> Similarity:
    """Return the score that ranks passages as the model's `similarity` does.

    Of vectors of unit length the dot product, cosine and Euclidean distance rank equally.

    Args:
        encoder: the loaded model.
        dimensions: to which its vectors are truncated.

    Raises:
        ConfigError: the model ranks by another distance.
    """
    similarity = encoder.similarity_fn_name
    unit_length = isinstance(encoder[-1], Normalize) and dimensions is None
    if similarity == "cosine" or (similarity in ("dot", "euclidean") and unit_length):
        return "cosine"
    if similarity == "dot":
        return "dot"
    raise ConfigError(
        f"the model compares vectors by {similarity} distance, and passages are ranked by cosine or dot product; "
        'write "similarity_fn_name": "cosine" in its config_sentence_transformers.json if that is meant'
    )


def use_as_trained(encoder: SentenceTransformer) -> None:
    """Set an encoder's use to what training optimises: cosine of whole vectors, prompts as part of the text.

    Training compares vectors of unit length, so they are normalized if they are not yet.
    """
    if not isinstance(encoder[-1], Normalize):
        encoder.append(Normalize())
    encoder.similarity_fn_name = "cosine"
    encoder.truncate_dim = None
    encoder.default_prompt_name = None
