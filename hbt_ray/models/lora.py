"""Adapters of low rank: what is trained in an encoder's place. Put beside its layers, and merged into them, by peft.

To an adapted layer's W x is added (alpha / rank) B A x, with A (rank, in) and B (out, rank), B 0 at first (Hu et al.
2021, arXiv 2106.09685).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from hbt_ray.config import LoraConfig
from hbt_ray.errors import ConfigError
from hbt_ray.models.packed_attention import transformer_of
from hbt_ray.utils.counter_rng import Salt, stable_hash64


def add_adapters(encoder: SentenceTransformer, lora: LoraConfig, *, seed: int) -> None:
    """Freezes an encoder and puts adapters beside linear layers of its transformers model; A follows from the seed.

    Raises:
        ConfigError: peft is not installed, or the targets are not all layers of the model.
    """
    try:
        import peft
    except ModuleNotFoundError:
        raise ConfigError("model.lora needs peft; pip install 'hbt_ray[lora]', or write model.lora=null") from None

    transformer = transformer_of(encoder)
    if transformer is None:
        raise ConfigError("model.lora adapts transformers models, and this model is none; write model.lora=null")
    wanted = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_targets(transformer, lora.targets),
    )
    encoder.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_hash64(seed, Salt.LORA_WEIGHTS) % 2**63)
        peft.inject_adapter_in_model(wanted, transformer)


def _targets(transformer: Any, targets: Sequence[str] | None) -> list[str]:
    """The layers that are asked for, or those that are usual in the model's family: of attention, query and value."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    layers = [name for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)]
    there_are = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
    family = transformer.config.model_type
    if targets is None and family not in USUAL:
        raise ConfigError(f"no layers are usual for LoRA in a model {family}; write model.lora.targets of {there_are}")
    chosen = list(targets or USUAL[family])
    for target in chosen:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise ConfigError(f"model.lora.targets {target!r} is no linear layer of the model; there are {there_are}")
    return chosen


def adapter_weights(encoder: nn.Module) -> dict[str, Tensor]:
    """The weights of an encoder's adapters, by name and where they lie; none where it has no adapters."""
    return {name: weight for name, weight in encoder.state_dict().items() if ".lora_" in name}


def merged(encoder: SentenceTransformer) -> SentenceTransformer:
    """An encoder's copy with its adapters added to the weights they stand beside; itself where it has none."""
    if not adapter_weights(encoder):
        return encoder
    from peft.tuners.lora import LoraLayer

    encoder = copy.deepcopy(encoder)
    for module in list(encoder.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, LoraLayer):
                layer.merge()
                setattr(module, name, layer.get_base_layer())
    return encoder
