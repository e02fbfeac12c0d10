"""Random models of open encoder families, in folders as they are published: modules, prompts, tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast, Qwen2Tokenizer

from tests.helpers import model_folders, tiny_corpus

WIDTH = 32
WINDOW = 8  # tokens to either side, in families that have one; many texts are longer


def write_base(
    folder: Path, family: str, tokenizer: PreTrainedTokenizerFast | None = None, std: float = 0.3, **settings: Any
) -> Path:
    """Write a transformers model of a family and its tokenizer.

    Args:
        folder: to write.
        family: transformers' `model_type`.
        tokenizer: None: that of the tiny corpus.
        std: of noise in all weights. As made by transformers, attention is nearly uniform, which would hide a mistake.
        settings: of the configuration.
    """
    tokenizer = tokenizer or tiny_corpus.tokenizer()
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 128,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AutoConfig.for_model(family, **shape | settings)
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            kept = parameter if parameter.ndim == 1 else 0  # of norms and biases
            parameter.copy_(kept + std * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of Qwen's type (bytes) that ends each text with <|endoftext|>, as Qwen3-Embedding's does."""
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [tiny_corpus.passage("en", item) for item in range(20)]
    pieces.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    learned = json.loads(pieces.to_str())["model"]
    tokenizer = Qwen2Tokenizer(vocab=learned["vocab"], merges=[tuple(pair) for pair in learned["merges"]])
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, tokenizer.convert_tokens_to_ids(end))]
    )
    tokenizer.init_kwargs["padding_side"] = "left"
    return tokenizer


GROUPED = {"num_key_value_heads": 2, "head_dim": 8}  # two heads of queries for each head of keys
SLIDING = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]


def _modernbert(folder: Path, **settings: Any) -> Path:
    settings = {"local_attention": 2 * WINDOW, "layer_types": SLIDING} | settings
    return _save(folder, write_base(_base_of(folder), "modernbert", **settings), "cls")


def _qwen3_embedding(folder: Path, **settings: Any) -> Path:
    base = write_base(_base_of(folder), "qwen3", qwen_tokenizer(), **GROUPED | settings)
    prompts = {"query": "Instruct: find what it is\nQuery:", "document": ""}
    return _save(folder, base, "lasttoken", prompts=prompts, similarity_fn_name="cosine")


def _embedding_gemma(folder: Path, **settings: Any) -> Path:
    attention = {"use_bidirectional_attention": True, "sliding_window": 2 * WINDOW, "layer_types": SLIDING}
    base = write_base(_base_of(folder), "gemma3_text", **GROUPED | {"query_pre_attn_scalar": 8} | attention | settings)
    width = int(AutoConfig.from_pretrained(base).hidden_size)
    dense = [Dense(*sides, bias=False, activation_function=torch.nn.Identity()) for sides in ((width, 48), (48, width))]
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    return _save(folder, base, "mean", *dense, prompts=prompts)


def _gte(folder: Path, **settings: Any) -> Path:
    return _save(folder, write_base(_base_of(folder), "gte", **settings), "cls")


def _nomic_bert(folder: Path, **settings: Any) -> Path:
    prompts = {"query": "search_query: ", "document": "search_document: "}
    return _save(folder, write_base(_base_of(folder), "nomic_bert", **settings), "mean", prompts=prompts)


def _weighted_decoder(folder: Path, **settings: Any) -> Path:
    return _save(folder, write_base(_base_of(folder), "llama", qwen_tokenizer(), **GROUPED | settings), "weightedmean")


def _base_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-base")


def _save(folder: Path, base: Path, pooling: Any, *after: Any, **settings: Any) -> Path:
    transformer = Transformer(str(base))
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling), *after, Normalize()]
    return model_folders.save(folder, modules, **settings)


# Name of a published model -> writes a random one of its class.
PUBLISHED: dict[str, Callable[..., Path]] = {
    "gte-modernbert": _modernbert,
    "Qwen3-Embedding": _qwen3_embedding,
    "EmbeddingGemma": _embedding_gemma,
    "gte-multilingual": _gte,
    "nomic-embed": _nomic_bert,
    "SGPT": _weighted_decoder,
}
