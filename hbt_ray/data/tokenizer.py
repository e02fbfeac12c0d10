"""Tokenization: load a model's tokenizer or train one on the corpus, and encode questions and passages with it."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import string
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from hbt_ray.config import ModelConfig, TextConfig
from hbt_ray.data.manifest import TextField
from hbt_ray.data.model_files import lowercases, max_positions, read_model_file, untrusted_code
from hbt_ray.errors import ConfigError
from hbt_ray.utils.limits import load_json

if TYPE_CHECKING:  # transformers takes seconds to import, which tasks that only encode do not need
    from transformers import PreTrainedTokenizerFast

_logger = logging.getLogger(__name__)

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}

MAX_WORD_CHARS = 1000
# The pre-tokenizer separates letters from punctuation, so that a long run of either is a word.
_PUNCTUATION = re.escape(string.punctuation.replace("_", "") + "،。，、！？；：।")
_LONG_WORD = re.compile(rf"[^\s{_PUNCTUATION}]{{{MAX_WORD_CHARS + 1},}}|[{_PUNCTUATION}]{{{MAX_WORD_CHARS + 1},}}")
CHARS_PER_TOKEN = 6  # of a text's head: enough in most languages with most tokenizers
_SPLITTING = {
    "BertPreTokenizer",
    "Whitespace",
    "WhitespaceSplit",
}  # after these no token contains a space
# After a letter, so that no head ends within several spaces: their token may depend on the next word.
_WORD_END = re.compile(r"(?<=\w) ")


class PairTokenizer:
    """Encodes questions and passages with their prefixes and special tokens, truncated to their lengths."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, text: TextConfig) -> None:
        """Hold a tokenizer, and the prefixes and lengths of `text`."""
        self.definition = _definition(tokenizer)
        self.num_tokens = len(tokenizer)
        self.text = text

    @property
    def token_type(self) -> str:
        """The smallest token type of a store that can represent every id."""
        return "uint16" if self.num_tokens <= 2**16 else "int32"

    def encode(self, texts: Sequence[str], side: TextField) -> list[np.ndarray]:
        """Encode texts as the transformers tokenizer would: one array of ids for each.

        The end of a long text is not encoded if it is not needed:

        1. Encode the head of each text.
        2. Encode a text again, whole, if its head has too few tokens.
        """
        prefix = self.text.query_prefix if side == "question" else self.text.passage_prefix
        max_tokens = self.text.max_query_tokens if side == "question" else self.text.max_passage_tokens
        self._backend.enable_truncation(max_tokens)
        whole = [prefix + text for text in texts]
        # 1.
        heads = [self._head(text, CHARS_PER_TOKEN * max_tokens) for text in whole]
        tokens = [encoding.ids for encoding in self._backend.encode_batch_fast(heads)]
        # 2.
        short = [n for n, ids in enumerate(tokens) if len(ids) < max_tokens and len(heads[n]) < len(whole[n])]
        for n, encoding in zip(short, self._backend.encode_batch_fast([whole[n] for n in short]), strict=True):
            tokens[n] = encoding.ids
        return [np.array(ids, dtype=self.token_type) for ids in tokens]

    def encode_plain(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode whole texts without prefix and special tokens: one array of ids for each."""
        self._backend.no_truncation()
        found = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self.token_type) for encoding in found]

    def _head(self, text: str, min_chars: int) -> str:
        """Return the text up to the first end of a word at or after `min_chars`; whole if tokens may contain spaces."""
        end = _WORD_END.search(text, min_chars) if self._splits_at_spaces else None
        return text[: end.start()] if end else text

    def fingerprint(self) -> str:
        """Return 16 hex digits that change with the tokenizer, the prefixes and the lengths."""
        return hashlib.sha256((self.definition + self.text.fingerprint()).encode()).hexdigest()[:16]

    @cached_property
    def _backend(self) -> Tokenizer:
        return Tokenizer.from_str(self.definition)

    @cached_property
    def _splits_at_spaces(self) -> bool:
        """Whether the tokens before a space do not depend on the text after it."""
        definition = load_json(self.definition)
        pre_tokenizer = definition["pre_tokenizer"] or {}
        steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
        one_word_tokens = all(len(token["content"].split()) == 1 for token in definition["added_tokens"])
        return one_word_tokens and any(
            step.get("type") in _SPLITTING or (step.get("type") == "Metaspace" and step.get("split", True))
            for step in steps
        )

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_backend"}


def _definition(tokenizer: PreTrainedTokenizerFast) -> str:
    """Serialize a tokenizer as JSON, without the truncation and padding that earlier calls set."""
    definition = load_json(tokenizer.backend_tokenizer.to_str())
    definition["truncation"] = definition["padding"] = None
    return json.dumps(definition, sort_keys=True)


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a Hugging Face or sentence-transformers model, and the maximum length of its positions.

    Raises:
        ConfigError: `model.path` has none, or it has no fast implementation.
    """
    from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

    assert model.path is not None
    subfolder = transformer_subfolder(model.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.path, subfolder=subfolder, trust_remote_code=model.trust_remote_code
        )
        max_tokens = None
        if read_model_file(model.path, "config.json", subfolder):  # a tokenizer may be saved without a model
            max_tokens = max_positions(
                AutoConfig.from_pretrained(model.path, subfolder=subfolder, trust_remote_code=model.trust_remote_code)
            )
    except (OSError, ValueError, KeyError, RecursionError) as error:
        if "trust_remote_code" in str(error):
            raise untrusted_code(model.path) from None
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"model.path {model.path!r} holds no tokenizer that transformers can load ({reason}); "
            "write the folder of a saved model, or the name of one on the hub"
        ) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(f"the tokenizer of {model.path!r} has no fast implementation; convert it with transformers")
    tokenizer.model_max_length = min(tokenizer.model_max_length, max_tokens or tokenizer.model_max_length)
    if lowercases(model.path, subfolder):
        backend = tokenizer.backend_tokenizer
        after = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *after])
    return tokenizer


def transformer_subfolder(path: str | Path) -> str:
    """Return the subfolder of the transformers model in a sentence-transformers model; "" for any other model."""
    modules = read_model_file(str(path), "modules.json")
    return str(modules[0]["path"]) if modules else ""


def check_lengths(tokenizer: PreTrainedTokenizerFast, text: TextConfig) -> None:
    """Check that texts are not longer than the tokenizer's model takes. Raise ConfigError if they may be."""
    for name in ("max_query_tokens", "max_passage_tokens"):
        if getattr(text, name) > tokenizer.model_max_length:
            raise ConfigError(
                f"text.{name} is {getattr(text, name)}, and the model takes {tokenizer.model_max_length} at most; "
                f"write text.{name}={tokenizer.model_max_length}"
            )


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-pair encoding (BPE) tokenizer of at most `vocabulary` tokens, deterministically.

    BPE merges pairs by their counts, so the result does not depend on the number of threads; that of the
    expectation-maximization of a Unigram tokenizer does. The time is quadratic in the length of a word, so words of
    more than MAX_WORD_CHARS characters are cut; a warning says how many.
    """
    from transformers import PreTrainedTokenizerFast

    cut = _WordCutter()
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Metaspace()])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL_TOKENS.values()), show_progress=False, max_token_length=16
    )
    tokenizer.train_from_iterator(map(cut, texts), trainer)
    if cut.words:
        _logger.warning(f"{cut.words} words were cut to {MAX_WORD_CHARS} characters to train the tokenizer")
    cls, sep = SPECIAL_TOKENS["cls_token"], SPECIAL_TOKENS["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B {sep}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


class _WordCutter:
    """Cuts the words of texts to MAX_WORD_CHARS characters, and counts those that are longer."""

    def __init__(self) -> None:
        self.words = 0

    def __call__(self, text: str) -> str:
        cut, words = _LONG_WORD.subn(lambda word: word[0][:MAX_WORD_CHARS], text)
        self.words += words
        return cut
