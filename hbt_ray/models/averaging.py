"""The average of two encoders' weights."""

from __future__ import annotations

from pathlib import Path

import torch

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
        other: folder or hub name of an encoder of the same architecture.
        folder: to write, complete or not at all.
        pooling: "mean" or "cls", of an encoder that does not define it.
        trust_remote_code: run code from the encoders' repositories.

    Raises:
        ConfigError: an encoder cannot be loaded, or they have other architectures.
    """
    encoder, second = (
        load_pretrained(str(path), pooling, "cpu", trust_remote_code=trust_remote_code) for path in (one, other)
    )
    weights, others = dict(encoder.named_parameters()), dict(second.named_parameters())
    if {name: weight.shape for name, weight in weights.items()} != {name: w.shape for name, w in others.items()}:
        raise ConfigError(f"{one} and {other} have other architectures, so their weights have no average")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.add_(others[name]).mul_(0.5)
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(Path(folder)) as partial:
        save_encoder(encoder, partial)
