"""The average of two encoders' weights."""

from __future__ import annotations

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from hbt_ray.data.zero_shot import join_decontaminated
from hbt_ray.errors import ConfigError
from hbt_ray.models.encoder import load_pretrained, save_encoder
from hbt_ray.utils.atomic_write import atomic_folder


def average_encoders(
    one: str | Path, other: str | Path, folder: str | Path, *, pooling: str = "mean", trust_remote_code: bool = False
) -> None:
    """Save the encoder whose weights are the means of two encoders' weights.

    Of a fine-tuned encoder and the one that it was fine-tuned from, the average keeps more of what the first one had
    (Wortsman et al. 2022, arXiv 2109.01903).

    Args:
        one: folder or hub name; the new encoder has its modules and tokenizer.
        other: folder or hub name of an encoder of the same architecture, modules and vocabulary.
        folder: to write, complete or not at all.
        pooling: such as "mean", of an encoder that does not define it.
        trust_remote_code: run code from the encoders' repositories.

    Raises:
        ConfigError: an encoder cannot be loaded, or they have other architectures, modules or vocabularies.
        StoreError: a record of decontamination cannot be read.
    """
    encoder, second = (
        load_pretrained(str(path), pooling, "cpu", trust_remote_code=trust_remote_code) for path in (one, other)
    )
    weights, others = dict(encoder.named_parameters()), dict(second.named_parameters())
    difference = _difference(encoder, second)
    if difference is not None:
        raise ConfigError(
            f"{one} and {other} have other {difference}, so their weights have no average; write encoders that share "
            "them"
        )
    with torch.no_grad():
        for name, weight in weights.items():
            weight.add_(others[name]).mul_(0.5)
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(Path(folder)) as partial:
        save_encoder(encoder, partial)
        join_decontaminated((one, other), partial)


def _difference(one: SentenceTransformer, other: SentenceTransformer) -> str | None:
    """Return why the average of two encoders' weights is no encoder: what they do not share; None if it is one."""
    of_one, of_other = ({name: w.shape for name, w in encoder.named_parameters()} for encoder in (one, other))
    if of_one != of_other:
        return "architectures"
    if _after_transformer(one) != _after_transformer(other):
        return "poolings or modules"
    return "vocabularies" if one.tokenizer.get_vocab() != other.tokenizer.get_vocab() else None


def _after_transformer(encoder: SentenceTransformer) -> list[tuple[type[nn.Module], object]]:
    """Return the types and settings of the modules after the first."""
    return [(type(module), getattr(module, "get_config_dict", dict)()) for module in list(encoder)[1:]]
