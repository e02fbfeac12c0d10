"""The encoder that speed is measured with: the one that is named, or one of random weights."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from hbt_ray.bench.synthetic import VOCABULARY
from hbt_ray.config import ModelConfig, SmallEncoderConfig, TextConfig
from hbt_ray.data.tokenizer import SPECIAL_TOKENS
from hbt_ray.models.encoder import init_encoder, save_encoder

MINILM = SmallEncoderConfig(layers=6, width=384, heads=12, vocabulary=VOCABULARY)  # the shape of all-MiniLM-L6
TINY = SmallEncoderConfig(layers=1, width=32, heads=2, vocabulary=VOCABULARY)


def encoder_to_measure(model: str | None, scratch: Path, *, quick: bool = False) -> str:
    """The model's folder or hub name; where None is named, a folder below `scratch` with a random encoder.

    That one has the shape of all-MiniLM-L6, or with `quick` a tiny one; its words are w0, w1, and so on.
    """
    if model is not None:
        return model
    shape = TINY if quick else MINILM
    folder = scratch / f"encoder-{shape.layers}-{shape.width}"
    if not folder.exists():
        text = TextConfig(query_prefix="", passage_prefix="")
        save_encoder(init_encoder(ModelConfig(small=shape), text, word_tokenizer(VOCABULARY), seed=0), folder)
    return str(folder)


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """One id for each of the words w0, w1, ..., after the special tokens; `size` ids in all."""
    special = list(SPECIAL_TOKENS.values())
    words = [*special, *(f"w{number}" for number in range(size - len(special)))]
    model = WordLevel({word: number for number, word in enumerate(words)}, unk_token=SPECIAL_TOKENS["unk_token"])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)
