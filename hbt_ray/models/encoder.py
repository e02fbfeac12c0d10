"""Load, initialize and save the encoder: one sentence-transformers model for queries and passages.

Every encoder is a `SentenceTransformer`, so its pooling and dense layers are loaded and saved by that library, and the
trained model is what `SentenceTransformer(path)` later loads.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from sentence_transformers.util import is_sentence_transformer_model
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from hbt_ray.config import Attention, ModelConfig, TextConfig
from hbt_ray.data.model_files import (
    check_is_dense,
    check_needs_no_language,
    check_trainable,
    max_positions,
    untrusted_code,
)
from hbt_ray.errors import ConfigError
from hbt_ray.models.deterministic_dropout import keeps_probability
from hbt_ray.models.lora import add_adapters, merged
from hbt_ray.models.packed_attention import NAME as PACKED_ATTENTION
from hbt_ray.models.packed_attention import can_pack, is_packed, register_packed_attention, transformer_of
from hbt_ray.models.saved_settings import similarity_of, takes_token_ids, use_as_trained
from hbt_ray.models.vocabulary import occurring_embedding
from hbt_ray.utils.counter_rng import Salt, stable_hash64
from hbt_ray.utils.progress import stage

logger = logging.getLogger(__name__)


def load_for_training(
    model: ModelConfig, text: TextConfig, path: str | Path, *, device: str = "cpu", seed: int = 0
) -> SentenceTransformer:
    """Load an encoder for training, with the configured dropout, lengths, prefixes and adapters.

    Args:
        model: the section `model`.
        text: lengths and prefixes.
        path: `model.path`, or the folder of an encoder from `init_encoder`.
        device: to load it to.
        seed: of the adapters' initial weights.

    Raises:
        ConfigError: the encoder cannot be loaded, or cannot have the adapters.
    """
    encoder = load_pretrained(
        str(path), model.pooling, device, attention=model.attention, trust_remote_code=model.trust_remote_code
    )
    if model.attention == "auto" and not is_packed(encoder) and device == "cpu" and transformer_of(encoder):
        transformer_of(encoder).set_attn_implementation("eager")  # its backward is faster than sdpa's
    if model.dropout is not None:
        set_dropout(encoder, model.dropout)
    use_as_trained(encoder)
    encoder.max_seq_length = max(text.max_query_tokens, text.max_passage_tokens)
    encoder.prompts = {"query": text.query_prefix, "document": text.passage_prefix}
    if model.lora is not None:
        add_adapters(encoder, model.lora, seed=seed)
    return encoder


def init_encoder(
    model: ModelConfig, text: TextConfig, tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> SentenceTransformer:
    """Initialize an untrained BERT of the configured size; its weights are a function of the seed."""
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
    with_language: bool = False,
) -> SentenceTransformer:
    """Load a sentence-transformers or transformers model as it was saved.

    Args:
        path: folder or hub name.
        pooling: of a transformers model; a sentence-transformers model has its pooling saved.
        device: to load it to.
        attention: "auto" is "packed" if the model's family supports it, otherwise transformers' default.
        trust_remote_code: run code from the model's repository.
        with_language: the caller subtracts the mean vector of each text's language, where the model needs that.

    Raises:
        ConfigError: the model cannot be loaded, is no encoder of texts, does not support the attention, or needs the
            language of a text.
    """
    # float32, even if weights were saved in half precision: only autocast lowers the precision.
    # safetensors only: other formats of weights are pickles, which can run code.
    model_kwargs: dict[str, object] = {"dtype": torch.float32, "use_safetensors": True}
    if attention in ("sdpa", "eager"):
        model_kwargs["attn_implementation"] = attention
    check_is_dense(path)
    if not with_language:
        check_needs_no_language(path)
    try:
        with without_progress_bars(), stage(f"loading {path}"):
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
    except pickle.UnpicklingError:  # weights of a module in torch's older format, which is loaded as tensors only
        raise ConfigError(
            f"the model {path!r} has a pytorch_model.bin with something other than tensors, which may run code; "
            "write a model whose weights are safetensors"
        ) from None
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, TypeError, ImportError) as error:
        if "trust_remote_code" in str(error):
            raise untrusted_code(path) from None
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"the model {path!r} cannot be loaded ({reason}); write the folder of a saved sentence-transformers "
            "or transformers model, or the name of one on the hub"
        ) from None
    if not encoder.supports("text"):
        raise ConfigError(f"the model {path!r} does not encode text; write one that does")
    max_tokens = max_positions(getattr(transformer_of(encoder), "config", None))
    if max_tokens is not None and encoder.max_seq_length is not None and encoder.max_seq_length > max_tokens:
        encoder.max_seq_length = max_tokens
    if attention in ("auto", "packed") and can_pack(encoder) and takes_token_ids(encoder):
        register_packed_attention()
        transformer_of(encoder).set_attn_implementation(PACKED_ATTENTION)
    elif attention == "packed":
        raise ConfigError(f"{_why_padded(path, encoder)}; write model.attention=auto")
    elif attention == "auto" and takes_token_ids(encoder):
        logger.info("%s, so its texts are padded to the longest of a batch", _why_padded(path, encoder))
    return encoder


def _why_padded(path: str, encoder: SentenceTransformer) -> str:
    family = getattr(getattr(transformer_of(encoder), "config", None), "model_type", "unknown")
    if not takes_token_ids(encoder):
        return f"the model {path!r} has modules that need padded texts"
    return f"the model {path!r} is of the family {family!r}, which packed attention does not support"


def open_teacher(path: str, student: SentenceTransformer, model: ModelConfig) -> SentenceTransformer:
    """Load a frozen teacher, which receives the same token ids as the student.

    Args:
        path: folder or hub name.
        student: the encoder that is trained.
        model: the student's settings; pooling and trust are also the teacher's.

    Raises:
        ConfigError: the teacher cannot be loaded, does not compare token ids by cosine, has another vocabulary, or
            supports fewer tokens.
    """
    check_trainable(path, student.prompts.values())
    teacher = load_pretrained(path, model.pooling, str(student.device), trust_remote_code=model.trust_remote_code)
    if similarity_of(teacher) != "cosine" or teacher.truncate_dim is not None:
        raise ConfigError(
            f"the teacher {path!r} compares by dot product or truncates its vectors, and distillation compares whole "
            "vectors by cosine; write another loss.distillation.teacher"
        )
    if teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise ConfigError(
            f"the teacher {path!r} has another vocabulary than the encoder, and cannot read its tokens; write a "
            "loss.distillation.teacher with the encoder's tokenizer, or a model.path with the teacher's"
        )
    max_tokens = max_positions(getattr(transformer_of(teacher), "config", None))
    if max_tokens is not None and student.max_seq_length is not None and max_tokens < student.max_seq_length:
        raise ConfigError(
            f"the teacher {path!r} takes {max_tokens} tokens, and texts have up to {student.max_seq_length}; "
            f"write text.max_query_tokens and text.max_passage_tokens of {max_tokens} at most"
        )
    return teacher.requires_grad_(False).eval()


def default_device() -> str:
    """Return "cuda" if a GPU is available, otherwise "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def training_device(gpu: bool | None) -> str:
    """Return the device of a training in this process, by its setting `gpu`."""
    return "cpu" if gpu is False else default_device()


def save_encoder(encoder: SentenceTransformer, folder: str | Path) -> None:
    """Write a folder that `SentenceTransformer(folder)` loads, with adapters merged into the weights."""
    assert occurring_embedding(encoder) is None, "load the encoder of a checkpoint, which has the rows of all tokens"
    with without_progress_bars():
        merged(encoder).save(str(folder), create_model_card=False, safe_serialization=True)


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Disable the progress bars of transformers, which would interrupt the progress line of a run."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()


def set_dropout(encoder: nn.Module, probability: float) -> None:
    """Set the probability of every dropout layer of an encoder, and of attention layers that have none."""
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        elif keeps_probability(module):
            vars(module)["attention_dropout"] = probability
