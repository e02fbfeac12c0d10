"""The encoder: one sentence-transformers model for questions and passages, opened, made and saved.

Every encoder is held as a `SentenceTransformer`, whose library loads and saves it with whatever pooling
and dense layers it has. What is trained is therefore what `SentenceTransformer(path)` later loads.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from sentence_transformers.util import is_sentence_transformer_model
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from hbt_ray.config import Attention, ModelConfig, TextConfig
from hbt_ray.errors import ConfigError
from hbt_ray.models import packed_attention
from hbt_ray.models.lora import add_adapters, merged
from hbt_ray.models.packed_attention import can_pack, is_packed, transformer_of
from hbt_ray.utils.counter_rng import Salt, stable_hash64


def load_for_training(
    model: ModelConfig, text: TextConfig, path: str | Path, *, device: str = "cpu", seed: int = 0
) -> SentenceTransformer:
    """The encoder to train, with the run's own dropout, lengths, prefixes and adapters.

    Args:
        path: `model.path`, or the folder of an encoder that `init_encoder` made.
        seed: of the adapters' weights; those of a checkpoint take their place.

    Raises:
        ConfigError: it cannot be loaded, or cannot have the adapters.
    """
    encoder = load_pretrained(
        str(path), model.pooling, device, attention=model.attention, trust_remote_code=model.trust_remote_code
    )
    if model.attention == "auto" and not is_packed(encoder) and device == "cpu" and transformer_of(encoder):
        transformer_of(encoder).set_attn_implementation("eager")  # its backward is faster than sdpa's
    if model.dropout is not None:
        set_dropout(encoder, model.dropout)
    encoder.max_seq_length = max(text.max_query_tokens, text.max_passage_tokens)
    encoder.prompts = {"query": text.query_prefix, "document": text.passage_prefix}
    if model.lora is not None:
        add_adapters(encoder, model.lora, seed=seed)
    return encoder


def init_encoder(
    model: ModelConfig, text: TextConfig, tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> SentenceTransformer:
    """An untrained encoder of the configured size; its weights follow from the seed."""
    small = model.small
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=small.width,
        num_hidden_layers=small.layers,
        num_attention_heads=small.heads,
        intermediate_size=4 * small.width,
        max_position_embeddings=max(text.max_query_tokens, text.max_passage_tokens),
        pad_token_id=tokenizer.pad_token_id,
    )
    with without_progress_bars(), torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(stable_hash64(seed, Salt.ENCODER_WEIGHTS) % 2**63)
        BertModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        modules = [Transformer(folder), Pooling(small.width, model.pooling), Normalize()]
        encoder = SentenceTransformer(modules=modules, device="cpu")
    encoder.max_seq_length = config.max_position_embeddings
    encoder.prompts = {"query": text.query_prefix, "document": text.passage_prefix}
    return encoder


def load_pretrained(
    path: str,
    pooling: str = "mean",
    device: str = "cpu",
    *,
    attention: Attention = "auto",
    trust_remote_code: bool = False,
) -> SentenceTransformer:
    """Any sentence-transformers or transformers model, ending in unit vectors.

    Args:
        attention: "auto" is "packed" where the model can be, and otherwise what transformers chooses for it.

    Raises:
        ConfigError: it cannot be loaded.
    """
    # Weights saved in half precision are trained and compared in full: autocast alone says where less is enough.
    # From safetensors alone: other files of weights are pickles, which can run code.
    model_kwargs: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True}
    if attention in ("sdpa", "eager"):
        model_kwargs["attn_implementation"] = attention
    try:
        with without_progress_bars():
            if is_sentence_transformer_model(path):
                encoder = SentenceTransformer(
                    path, device=device, trust_remote_code=trust_remote_code, model_kwargs=model_kwargs
                )
            else:
                trust = {"trust_remote_code": trust_remote_code}
                transformer = Transformer(
                    path, model_kwargs=model_kwargs | trust, config_kwargs=trust, processor_kwargs=trust
                )
                modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling)]
                encoder = SentenceTransformer(modules=modules, device=device)
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"the model {path!r} cannot be loaded ({reason}); write the folder of a saved sentence-transformers "
            "or transformers model, or the name of one on the hub"
        ) from None
    if attention in ("auto", "packed") and can_pack(encoder):
        transformer_of(encoder).set_attn_implementation(packed_attention.NAME)
    elif attention == "packed":
        raise ConfigError(
            f"the model {path!r} is of a family that packed attention does not know; write model.attention=auto"
        )
    if not isinstance(encoder[-1], Normalize):
        encoder.append(Normalize())
    return encoder


def open_teacher(path: str, student: SentenceTransformer, model: ModelConfig) -> SentenceTransformer:
    """A frozen encoder that is given the token ids of another one's batches.

    Args:
        path: its folder or hub name.
        student: the encoder that is trained.
        model: the student's settings, of which pooling and trust are the teacher's, too.

    Raises:
        ConfigError: it cannot be loaded, has another vocabulary, or takes shorter texts alone.
    """
    teacher = load_pretrained(path, model.pooling, str(student.device), trust_remote_code=model.trust_remote_code)
    if teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise ConfigError(
            f"the teacher {path!r} has another vocabulary than the encoder, and cannot read its tokens; write a "
            "loss.distillation.teacher with the encoder's tokenizer, or a model.path with the teacher's"
        )
    most = getattr(getattr(transformer_of(teacher), "config", None), "max_position_embeddings", None)
    if most is not None and most < student.max_seq_length:
        raise ConfigError(
            f"the teacher {path!r} takes {most} tokens, and texts have up to {student.max_seq_length}; "
            f"write text.max_query_tokens and text.max_passage_tokens of {most} at most"
        )
    return teacher.requires_grad_(False).eval()


def default_device() -> str:
    """Where an encoder goes for which no device is named: a GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def save_encoder(encoder: SentenceTransformer, folder: str | Path) -> None:
    """Writes a folder that `SentenceTransformer(folder)` loads, adapters merged into the weights."""
    with without_progress_bars():
        merged(encoder).save(str(folder), create_model_card=False, safe_serialization=True)


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Without transformers' bars, which show for a second's work and break into a run's own line."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def set_dropout(encoder: nn.Module, probability: float) -> None:
    """Gives every dropout layer of an encoder this probability."""
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
