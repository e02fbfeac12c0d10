"""Tiny models of each kind that sentence-transformers saves: modules, prompts, similarity, dimensions."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    Router,
    StaticEmbedding,
    Transformer,
    WeightedLayerPooling,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLMRobertaTokenizer,
)

from tests.helpers import tiny_corpus

WIDTH = 16
_SHAPE = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}

_CODE = """
from transformers import BertConfig, BertModel
class OurConfig(BertConfig):
    model_type = "ours"
class OurModel(BertModel):
    config_class = OurConfig
"""

_tokenizer = functools.cache(tiny_corpus.tokenizer)


def write_transformer(
    folder: Path, family: type[BertModel | RobertaModel] = BertModel, *, seed: int = 2, **settings: Any
) -> Path:
    """Write a transformers model and its tokenizer, with weights large enough that vectors differ in length."""
    tokenizer = _tokenizer()
    defaults = {
        "vocab_size": len(tokenizer),
        **_SHAPE,
        "max_position_embeddings": 64,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.5,
    }
    torch.manual_seed(seed)
    family(family.config_class(**defaults | settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_with_code(folder: Path) -> Path:
    """Write a transformers model whose classes are in its folder."""
    write_transformer(folder)
    (folder / "ours.py").write_text(_CODE)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "ours", "auto_map": {"AutoConfig": "ours.OurConfig", "AutoModel": "ours.OurModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_roberta(folder: Path, positions: int) -> Path:
    """Write a model whose tokenizer has no `model_max_length`; its first position is 2, after that of padding."""
    return write_transformer(folder, RobertaModel, max_position_embeddings=positions, pad_token_id=1, type_vocab_size=1)


def write_xlm_roberta(folder: Path, texts: Sequence[str], positions: int = 130) -> Path:
    """Write a random model of XLM-R's class, with a tokenizer of its type (Unigram pieces) trained on the texts."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = Tokenizer(models.Unigram())
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.train_from_iterator(
        texts, trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>")
    )
    vocabulary = json.loads(pieces.to_str())["model"]["vocab"]
    tokenizer = XLMRobertaTokenizer(vocab=[(piece, score) for piece, score in vocabulary])
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        **_SHAPE,
        max_position_embeddings=positions,
        pad_token_id=tokenizer.pad_token_id,
        type_vocab_size=1,
    )
    torch.manual_seed(2)
    XLMRobertaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_labse(folder: Path, texts: Sequence[str]) -> Path:
    """Write a random model with LaBSE's modules: WordPiece, BERT, the vector of [CLS], a dense layer, unit length."""
    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=False)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    tokenizer = BertTokenizer(vocab=words.get_vocab(), do_lower_case=False)
    bert = folder.with_name(f"{folder.name}-bert")
    torch.manual_seed(2)
    config = BertConfig(vocab_size=len(tokenizer), **_SHAPE, max_position_embeddings=128)
    BertModel(config).save_pretrained(bert)
    tokenizer.save_pretrained(bert)
    dense = Dense(WIDTH, WIDTH, activation_function=torch.nn.Tanh())
    return save(folder, [Transformer(str(bert)), Pooling(WIDTH, "cls"), dense, Normalize()])


def save(folder: Path, modules: list[Any], **settings: Any) -> Path:
    """Save modules as sentence-transformers does; the settings go to `config_sentence_transformers.json`."""
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    file = folder / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def _transformer(folder: Path, **settings: Any) -> Transformer:
    return Transformer(str(write_transformer(folder.with_name(f"{folder.name}-bert"), **settings)))


def _dense(seed: int, *, width: int = 12, **settings: Any) -> Dense:
    torch.manual_seed(seed)
    return Dense(WIDTH, width, **settings)


def _pooled(folder: Path, mode: Any = "mean", **pooling: Any) -> list[Any]:
    return [_transformer(folder), Pooling(WIDTH, mode, **pooling)]


def _lowercasing(folder: Path) -> Path:
    save(folder, _pooled(folder))
    file = folder / "sentence_bert_config.json"
    file.write_text(json.dumps({"max_seq_length": 9, "do_lower_case": True}))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def _layers(folder: Path) -> Path:
    transformer = _transformer(folder, output_hidden_states=True)
    return save(folder, [transformer, WeightedLayerPooling(WIDTH, num_hidden_layers=2, layer_start=1), Pooling(WIDTH)])


def _router(folder: Path) -> Path:
    transformer = _transformer(folder)
    routes = {
        "query": [transformer, Pooling(WIDTH), _dense(1)],
        "document": [transformer, Pooling(WIDTH, "cls"), _dense(2)],
    }
    return save(folder, [Router.for_query_document(routes["query"], routes["document"])])


def _static(folder: Path) -> Path:
    tokenizer = _tokenizer()
    weights = np.random.default_rng(3).normal(size=(len(tokenizer), WIDTH)).astype(np.float32)
    return save(folder, [StaticEmbedding(tokenizer, embedding_weights=weights)])


PROMPTS = {"query": "Query: ", "document": "Passage: "}

# Kind of a folder -> writes it.
KINDS: dict[str, Callable[[Path], Path]] = {
    "dot": lambda folder: save(folder, _pooled(folder), similarity_fn_name="dot"),
    "dot of unit length": lambda folder: save(folder, [*_pooled(folder), Normalize()], similarity_fn_name="dot"),
    "dot, truncated": lambda folder: save(
        folder, [*_pooled(folder), Normalize()], similarity_fn_name="dot", truncate_dim=5
    ),
    "euclidean of unit length": lambda folder: save(
        folder, [*_pooled(folder), Normalize()], similarity_fn_name="euclidean"
    ),
    "cosine without normalization": lambda folder: save(folder, _pooled(folder)),
    "truncated": lambda folder: save(folder, _pooled(folder), truncate_dim=5),
    "two poolings": lambda folder: save(folder, _pooled(folder, ("cls", "max", "weightedmean"))),
    "last token": lambda folder: save(folder, _pooled(folder, "lasttoken"), prompts=PROMPTS),
    "prompts": lambda folder: save(folder, _pooled(folder), prompts=PROMPTS),
    "prompts of other names": lambda folder: save(
        folder, _pooled(folder), prompts={"query": "Query: ", "passage": "Passage: ", "corpus": "it is "}
    ),
    "a default prompt": lambda folder: save(
        folder, _pooled(folder), prompts={"web": "what is "}, default_prompt_name="web"
    ),
    "prompts outside of pooling": lambda folder: save(folder, _pooled(folder, include_prompt=False), prompts=PROMPTS),
    "dense and layer norm": lambda folder: save(folder, [*_pooled(folder), _dense(4), LayerNorm(12)]),
    "dense for each token": lambda folder: save(
        folder, [_transformer(folder), _dense(4, module_input_name="token_embeddings"), Pooling(12)]
    ),
    "dense with a residual": lambda folder: save(folder, [*_pooled(folder), _dense(4, use_residual=True)]),
    "weighted layers": _layers,
    "lowercasing": _lowercasing,
    "router": _router,
    "static embedding": _static,
}


def write_pairs(folder: Path, items: int = 20) -> Path:
    """Write a benchmark of the tiny corpus: a file for each language."""
    folder.mkdir()
    for language in tiny_corpus.LANGUAGES:
        rows = [
            {
                "id": f"{item:02}",
                "question": tiny_corpus.question(language, item),
                "context": tiny_corpus.passage(language, item),
            }
            for item in range(items)
        ]
        (folder / f"{language}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
