"""Low-rank adapters (LoRA; Hu et al. 2021, arXiv 2106.09685), added to an encoder and merged into it by peft.

An adapted layer computes W x + (alpha / rank) B A x, with A (rank, in) and B (out, rank). B is 0 at first. Only A and
B are trained.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import PreTrainedModel

from hbt_ray.config import LoraConfig
from hbt_ray.errors import ConfigError
from hbt_ray.models.packed_attention import transformer_of
from hbt_ray.utils.counter_rng import Salt, stable_hash64


def add_adapters(encoder: SentenceTransformer, lora: LoraConfig, *, seed: int) -> None:
    """Freeze an encoder and add adapters to linear layers of its transformers model.

    Args:
        encoder: is changed in place.
        lora: rank, scale, dropout and target layers.
        seed: of A's initial weights.

    Raises:
        ConfigError: peft is not installed, or a target is no linear layer of the model.
    """
    try:
        import peft
    except ModuleNotFoundError:
        raise ConfigError("model.lora needs peft; pip install 'hbt_ray[lora]', or write model.lora=null") from None

    transformer = transformer_of(encoder)
    if transformer is None:
        raise ConfigError("model.lora adapts transformers models, and this model is none; write model.lora=null")
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_targets(transformer, lora.targets),
    )
    encoder.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_hash64(seed, Salt.LORA_WEIGHTS) % 2**63)
        peft.inject_adapter_in_model(settings, transformer)


def _targets(transformer: PreTrainedModel, targets: Sequence[str] | None) -> list[str]:
    """Return the configured layers, or peft's default of the model's family, such as attention's query and value."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    layers = [name for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)]
    available = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
    family = transformer.config.model_type
    if targets is None and family not in USUAL:
        raise ConfigError(f"no layers are usual for LoRA in a model {family}; write model.lora.targets of {available}")
    chosen = list(targets or USUAL[family])
    for target in chosen:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise ConfigError(f"model.lora.targets {target!r} is no linear layer of the model; there are {available}")
    return chosen


def adapter_weights(encoder: nn.Module) -> dict[str, Tensor]:
    """Return the weights that are trained with an encoder's adapters, by their full names; empty without adapters.

    In masked language modelling the prediction head is trained too.
    """
    weights = encoder.state_dict()
    if not any(".lora_" in name for name in weights):
        return {}
    trained = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
    return {name: weight for name, weight in weights.items() if ".lora_" in name or name in trained}


def merged(encoder: SentenceTransformer) -> SentenceTransformer:
    """Return a copy with the adapters merged into the adapted weights; the encoder itself if it has none."""
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
