"""A tiny parallel corpus, its store and an encoder: small enough to work through by hand, made in milliseconds."""

from __future__ import annotations

import copy
import functools
import hashlib
from pathlib import Path

from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerFast

from hbt_ray.config import MixConfig, ModelConfig, PretrainRunConfig, SmallEncoderConfig, TextConfig
from hbt_ray.data.manifest import StoreManifest, write_manifest
from hbt_ray.data.token_store import TokenItem, TokenStore, write_shard
from hbt_ray.data.tokenizer import PairTokenizer, train_tokenizer
from hbt_ray.models.encoder import init_encoder, load_for_training, save_encoder
from hbt_ray.sampling import HybridStepSampler

LANGUAGES = ("de", "en", "fr")
TEXT = TextConfig(max_query_tokens=20, max_passage_tokens=24)
MODEL = ModelConfig(small=SmallEncoderConfig(layers=1, width=16, heads=2, vocabulary=300))


def question(language: str, item: int) -> str:
    return f"{language} what is {'abcdefghij'[item % 10]}{item}"


def passage(language: str, item: int) -> str:
    return f"{language} it is the number {item} " + "so " * (item % 5)


def negative(language: str, item: int, number: int) -> str:
    return f"{language} it is not {item} but {item + number + 1}"


@functools.cache
def _trained_tokenizer() -> PreTrainedTokenizerFast:
    texts = [
        f"{TEXT.query_prefix} {question(x, i)} {TEXT.passage_prefix} {passage(x, i)}"
        for x in LANGUAGES
        for i in range(60)
    ]
    return train_tokenizer(texts, MODEL.small.vocabulary)


def tokenizer() -> PreTrainedTokenizerFast:
    return copy.deepcopy(_trained_tokenizer())


def tokenization() -> PairTokenizer:
    return PairTokenizer(tokenizer(), TEXT)


def token_item(
    pair_tokenizer: PairTokenizer,
    item: int,
    languages: tuple[str, ...] = LANGUAGES,
    negatives: int = 0,
    component: int = 0,
) -> TokenItem:
    return TokenItem(
        f"item-{item:04d}",
        {x: pair_tokenizer.encode([question(x, item)], "question")[0] for x in languages},
        {x: pair_tokenizer.encode([passage(x, item)], "passage")[0] for x in languages},
        {x: pair_tokenizer.encode([negative(x, item, n) for n in range(negatives)], "passage") for x in languages},
        component,
    )


def make_store(
    folder: Path, items: int = 60, shards: int = 2, negatives: int = 0, english_only: int = 0, components: int = 0
) -> StoreManifest:
    """Write a source "numbers" of which every fifth item lacks French, and then `english_only` items in English.

    Every second item is in one of some components.
    """
    pair_tokenizer = tokenization()
    all_items = [
        token_item(
            pair_tokenizer,
            i,
            LANGUAGES[:2] if i % 5 == 4 else LANGUAGES,
            negatives,
            1 + i % components if components and i % 2 else 0,
        )
        for i in range(items)
    ]
    all_items += [token_item(pair_tokenizer, i, ("en",), negatives) for i in range(items, items + english_only)]
    written = [
        write_shard(folder, "numbers", "train", shard, all_items[shard::shards], pair_tokenizer.token_type)
        for shard in range(shards)
    ]
    return write_manifest(
        folder, written, text_fingerprint=pair_tokenizer.fingerprint(), token_type=pair_tokenizer.token_type
    )


def trainer_rows(items: int = 60) -> list[dict[str, str]]:
    """Return the items of `make_store` as rows for sentence-transformers, in another order than the store's."""
    return [
        {"id": f"item-{item:04d}", "language": x, "anchor": question(x, item), "positive": passage(x, item)}
        for x in reversed(LANGUAGES)
        for item in reversed(range(items))
        if item % 5 < 4 or x in LANGUAGES[:2]
    ]


def make_sampler(
    store: TokenStore, global_batch_pairs: int = 8, second_questions: bool = False, **mix
) -> HybridStepSampler:
    return HybridStepSampler(
        store.manifest,
        MixConfig(**mix),
        seed=3,
        global_batch_pairs=global_batch_pairs,
        with_query_translations=second_questions,
    )


def make_encoder(folder: Path, dropout: float = 0.1, seed: int = 1, attention: str = "auto") -> SentenceTransformer:
    """Return the tiny encoder as training loads it, from a folder where it is made once.

    A folder with the same files is loaded once in a process, then copied in memory.
    """
    if not folder.exists():
        save_encoder(_initial_encoder(seed), folder)
    files = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        files.update(f"{file.relative_to(folder)} {file.stat().st_size} ".encode() + file.read_bytes())
    key = (files.hexdigest(), dropout, attention)
    if key not in _LOADED:
        model = MODEL.model_copy(update={"dropout": dropout, "attention": attention})
        _LOADED[key] = load_for_training(model, TEXT, folder)
    return copy.deepcopy(_LOADED[key])


_LOADED: dict[tuple[str, float, str], SentenceTransformer] = {}


@functools.cache
def _initial_encoder(seed: int) -> SentenceTransformer:
    return init_encoder(MODEL, TEXT, tokenizer(), seed=seed)


def pretrain_config(**settings) -> PretrainRunConfig:
    """Return a pretraining of the tiny encoder on one thread's worth of text."""
    defaults = {"block_tokens": 32, "global_batch_blocks": 8, "chunk_blocks": 2, "precision": "fp32", "steps": 6}
    sections = {name: settings.pop(name) for name in list(settings) if name in PretrainRunConfig.model_fields}
    return PretrainRunConfig.model_validate(
        {"text": TEXT, "model": MODEL, "seed": 3, **sections, "pretrain": {**defaults, **settings}}
    )


def make_text_store(
    folder: Path, config: PretrainRunConfig, items: int = 60, held_out: int = 20, french: int | None = None
) -> TokenStore:
    """Write the store that `prepare` makes of "numbers" for a pretraining.

    Every fifth item lacks French, as do all after the first `french`.
    """
    base_tokenizer = tokenizer()
    base_tokenizer.save_pretrained(folder / "tokenizer")
    pair_tokenizer = PairTokenizer(base_tokenizer, config.prepare_inputs.text)
    all_items = [
        token_item(
            pair_tokenizer, i, LANGUAGES[:2] if i % 5 == 4 or (french is not None and i >= french) else LANGUAGES
        )
        for i in range(items + held_out)
    ]
    written = [
        write_shard(folder, "numbers", "train", n, all_items[n:items:2], pair_tokenizer.token_type) for n in range(2)
    ]
    written.append(write_shard(folder, "numbers", "validation", 0, all_items[items:], pair_tokenizer.token_type))
    write_manifest(folder, written, text_fingerprint=pair_tokenizer.fingerprint(), token_type=pair_tokenizer.token_type)
    return TokenStore.open(folder)


def make_held_out_store(folder: Path) -> TokenStore:
    """Write a store of "numbers" with 48 items and 8 held-out ones, of which item 50 lacks French."""
    pair_tokenizer = tokenization()
    items = {
        "train": [token_item(pair_tokenizer, n) for n in range(48)],
        "validation": [token_item(pair_tokenizer, n, LANGUAGES[:2] if n == 50 else LANGUAGES) for n in range(48, 56)],
    }
    token_type = pair_tokenizer.token_type
    written = [write_shard(folder, "numbers", split, 0, items[split], token_type) for split in ("train", "validation")]
    write_manifest(folder, written, text_fingerprint=pair_tokenizer.fingerprint(), token_type=token_type)
    return TokenStore.open(folder)
