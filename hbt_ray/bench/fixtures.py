"""Inputs of the benchmark: an encoder, batches of question-passage pairs, and token stores of any size."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from hbt_ray.config import ModelConfig, SmallEncoderConfig, TextConfig
from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.data.manifest import Group, Split, WrittenShard, write_manifest
from hbt_ray.errors import StoreError
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.sampling.collate import TokenSequences, make_pair_batch
from hbt_ray.utils.storage import file_sha256

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedTokenizerFast

# torch and transformers are imported inside functions: the process that times the data feed must not load them, because
# its peak memory is part of the result.

VOCABULARY = 30_522  # BERT's
FIRST_ID = 1000  # ids below are special tokens and BERT's unused ones

# Encoder

MINILM = SmallEncoderConfig(layers=6, width=384, heads=12, vocabulary=VOCABULARY)  # the shape of all-MiniLM-L6
E5_SMALL = SmallEncoderConfig(layers=12, width=384, heads=12, vocabulary=250_037)  # the shape of multilingual-e5-small
TINY = SmallEncoderConfig(layers=1, width=32, heads=2, vocabulary=VOCABULARY)


def bench_encoder(model: str | None, scratch: Path, *, quick: bool = False, shape: SmallEncoderConfig = MINILM) -> str:
    """Return the folder or hub name of the encoder to time.

    Args:
        model: returned unchanged unless it is None.
        scratch: where a random encoder is saved, and found again by the next call.
        quick: with no model, make the encoder tiny. The vocabulary of a random encoder is w0, w1 and so on.
        shape: of a random encoder that is not tiny.
    """
    if model is not None:
        return model
    from hbt_ray.models.encoder import init_encoder, save_encoder

    shape = TINY if quick else shape
    folder = scratch / f"encoder-{shape.layers}-{shape.width}"
    if not folder.exists():
        text = TextConfig(query_prefix="", passage_prefix="")
        save_encoder(init_encoder(ModelConfig(small=shape), text, word_tokenizer(shape.vocabulary), seed=0), folder)
    return str(folder)


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Return a whitespace tokenizer with `size` ids: the special tokens, then one for each of the words w0, w1, ..."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    from hbt_ray.data.tokenizer import SPECIAL_TOKENS

    special = list(SPECIAL_TOKENS.values())
    words = [*special, *(f"w{number}" for number in range(size - len(special)))]
    model = WordLevel({word: number for number, word in enumerate(words)}, unk_token=SPECIAL_TOKENS["unk_token"])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


# Question-passage pairs

MAX_TOKENS = 128
LANGUAGES = ("en", "de", "es", "ru", "ar", "hi")  # of XQuAD-R: from 54 tokens a pair to 175 by an English vocabulary


@dataclass(frozen=True, slots=True)
class Pairs:
    """Questions, each with the passage at the same index that answers it."""

    questions: list[str]
    passages: list[str]


def monolingual_batches(xquad: str | None, batches: int, pairs: int) -> list[Pairs]:
    """Return batches of `pairs` pairs, each of one language, the languages of LANGUAGES in turn.

    Args:
        xquad: folder of XQuAD-R; None: random words, with the same range of text lengths.
        batches: their number.
        pairs: of each batch, drawn with replacement.
    """
    rng = random.Random(0)
    if xquad is None:
        return [_random_pairs(rng, pairs) for _ in range(batches)]
    benchmark = load_benchmark("xquad-r", xquad)
    passages = {passage.passage_id: passage for passage in benchmark.passages}
    known: dict[str, list[tuple[str, str]]] = {}
    for query in benchmark.queries:
        answers = [passages[name] for name, grade in benchmark.judgements[query.query_id].items() if grade > 0]
        monolingual = next((answer for answer in answers if answer.language == query.language), None)
        if monolingual is not None:
            known.setdefault(query.language, []).append((query.text, monolingual.text))
    made = []
    for number in range(batches):
        drawn = rng.choices(known[LANGUAGES[number % len(LANGUAGES)]], k=pairs)
        made.append(Pairs([question for question, _ in drawn], [passage for _, passage in drawn]))
    return made


def _random_pairs(rng: random.Random, pairs: int) -> Pairs:
    """Return questions of 8 to 40 words and passages of 16 to 120: XQuAD-R's lengths by an English vocabulary."""
    drawn = []
    for shortest, longest in ((8, 40), (16, 120)):
        sizes = [rng.randint(shortest, longest) for _ in range(pairs)]
        drawn.append([" ".join(f"w{rng.randrange(VOCABULARY // 2)}" for _ in range(size)) for size in sizes])
    return Pairs(*drawn)


def tokenize_pairs(encoder: SentenceTransformer, pairs: Pairs, step: int) -> PairBatch:
    """Return the pairs as a batch to train on, texts truncated to MAX_TOKENS."""
    return make_pair_batch(
        _tokenize(encoder, pairs.questions),
        _tokenize(encoder, pairs.passages),
        step=step,
        first_pair=0,
        global_pairs=len(pairs.questions),
        kind="monolingual",
    )


def _tokenize(encoder: SentenceTransformer, texts: Sequence[str]) -> TokenSequences:
    sequences = encoder.tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
    lengths = np.array([len(ids) for ids in sequences], np.int32)
    return np.concatenate([np.asarray(ids, np.int32) for ids in sequences]), lengths


# Token stores

SOURCE = "synthetic"
SPLIT: Split = "train"
ITEMS_PER_SHARD = 16_384
MIN_FREE_FRACTION = 0.1  # of the disk's free bytes, which a store must leave free
ITEM_ID_DIGITS = 9  # ids of equal length sort as their numbers do


class TextTokens(NamedTuple):
    """Mean text lengths in tokens; lengths are uniform from half of the mean to one and a half times the mean."""

    question: int
    passage: int


def write_synthetic_store(
    folder: Path,
    items: int,
    tokens: TextTokens,
    *,
    languages: tuple[str, ...] = ("de", "en"),
    vocabulary: int = VOCABULARY,
) -> Path:
    """Write a store of parallel items of random token ids, in the format of `hbt prepare`; reuse one that exists.

    Args:
        folder: of the store.
        items: their number.
        tokens: mean text lengths.
        languages: of every item.
        vocabulary: ids are smaller than it, and than 65,536; at most the size of the model's vocabulary.

    Returns:
        The folder.

    Raises:
        StoreError: the disk has too little free space, or cannot be written.
    """
    if (folder / "manifest.json").exists():
        return folder
    needed = items * bytes_per_item(tokens, len(languages))
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > (1 - MIN_FREE_FRACTION) * free:
        raise StoreError(
            f"a store of {items:,} items takes {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free; "
            "give a folder with more free space by --out"
        )
    rng = np.random.default_rng(0)
    shards = []
    for number, first in enumerate(range(0, items, ITEMS_PER_SHARD)):
        numbers = np.arange(first, min(first + ITEMS_PER_SHARD, items))
        columns: dict[str, pa.Array] = {"item_id": _item_ids(numbers)}
        for language in sorted(languages):
            columns[f"question/{language}"] = _random_sequences(rng, len(numbers), tokens.question, vocabulary)
            columns[f"passage/{language}"] = _random_sequences(rng, len(numbers), tokens.passage, vocabulary)
            columns[f"negatives/{language}"] = _empty_sequences(len(numbers))
        shards.append(_write_shard(folder, number, pa.table(columns), Group(tuple(sorted(languages)), 0)))
    write_manifest(folder, shards, text_fingerprint="synthetic", token_type="uint16")
    return folder


def bytes_per_item(tokens: TextTokens, num_languages: int) -> int:
    """Return the bytes of an item on disk: two per token, four per list offset, and the item id with its offset.

    >>> bytes_per_item(TextTokens(4, 8), 2)
    85
    """
    per_language = 2 * sum(tokens) + 3 * 4
    return num_languages * per_language + ITEM_ID_DIGITS + 4


def _item_ids(numbers: np.ndarray) -> pa.Array:
    """Return each number in decimal digits, with leading zeros."""
    digits = numbers[:, None] // 10 ** np.arange(ITEM_ID_DIGITS - 1, -1, -1) % 10 + ord("0")
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * ITEM_ID_DIGITS
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(digits.astype(np.uint8).tobytes())]
    return pa.Array.from_buffers(pa.string(), len(numbers), buffers)


def _random_sequences(rng: np.random.Generator, count: int, mean: int, vocabulary: int) -> pa.Array:
    lengths = rng.integers(mean - mean // 2, mean + mean // 2 + 1, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = rng.integers(min(FIRST_ID, vocabulary // 2), min(vocabulary, 2**16), offsets[-1], dtype=np.uint16)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))


def _empty_sequences(count: int) -> pa.Array:
    no_ids = pa.array([], pa.list_(pa.uint16()))
    return pa.ListArray.from_arrays(pa.array(np.zeros(count + 1, np.int32)), no_ids)


def _write_shard(folder: Path, number: int, table: pa.Table, group: Group) -> WrittenShard:
    file = f"{SOURCE}/{SPLIT}-{number:05d}.arrow"
    path = folder / file
    try:
        path.parent.mkdir(exist_ok=True)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=table.num_rows)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error}); give a folder with free space by --out") from None
    return WrittenShard(SOURCE, SPLIT, number, file, table.num_rows, ((group, table.num_rows),), file_sha256(path))
