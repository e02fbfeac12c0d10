"""What determines the content of a token store, its fingerprint, and the tokenizer that it was made with."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hbt_ray
from hbt_ray.config import PrepareInputs
from hbt_ray.data.benchmarks import ReadOptions, load_benchmark
from hbt_ray.data.corpora import CorpusShard
from hbt_ray.data.corpora.embedded.facts import content_fingerprint
from hbt_ray.data.decontamination import DecontaminationIndex
from hbt_ray.data.token_store import SUSPECT, TokenStore
from hbt_ray.data.tokenizer import PairTokenizer, load_tokenizer
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import StoreError
from hbt_ray.utils.digests import content_checksums
from hbt_ray.utils.limits import DEFAULTS, MAX_GROWTH, MAX_LINE_BYTES, limit

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerFast

TOKENIZER = "tokenizer"  # folder in a store
# How items are held out and left out; stores of earlier rules have another name.
RULES = (
    "kept items with a text in common are held out together, and their passages are no negatives in training; "
    "texts match that are equal, similar or contained"
)


def store_fingerprint(
    inputs: PrepareInputs,
    shards: Sequence[CorpusShard],
    evaluation_sets: Sequence[Benchmark],
    tokenizer_fingerprint: str,
) -> str:
    """Return 16 hex digits that name the store of these settings, files and evaluation sets."""
    described = {
        "version": hbt_ray.__version__,
        "rules": RULES,
        "corpora": [corpus.model_dump(mode="json", exclude={"licence"}) for corpus in inputs.corpora],
        "prepare": inputs.prepare.model_dump(mode="json"),
        "files": contents_of(shards),
        "evaluation_sets": [benchmark.fingerprint() for benchmark in evaluation_sets],
        "tokenizer": tokenizer_fingerprint,
        "text": inputs.text.model_dump(mode="json"),
        **changed_limits(),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def changed_limits() -> dict[str, int]:
    """Return the limits that decide which rows are rejected, by their variables; none with its default."""
    limits = {variable: limit(variable) for variable in (MAX_LINE_BYTES, MAX_GROWTH)}
    return {variable: value for variable, value in limits.items() if value != DEFAULTS[variable]}


def contents_of(shards: Sequence[CorpusShard]) -> list[list[tuple[str, str]]]:
    """Return (path, checksum) of the files of each shard; a file of several shards is read once."""
    checksums = functools.cache(path_checksums)

    def of_shard(shard: CorpusShard) -> list[tuple[str, str]]:
        if shard.format == "embedded":
            return [(shard.location, content_fingerprint())]
        return [entry for path in shard.paths for entry in checksums(path)]

    return [of_shard(shard) for shard in shards]


def path_checksums(path: str | Path) -> list[tuple[str, str]]:
    """Return (path, SHA-256 checksum) of a file, or of each file in a folder; (path, "") of a path of neither."""
    found = content_checksums(path).items()
    return [(str(Path(path) / name), checksum) for name, checksum in found] or [(str(path), "")]


def load_evaluation_sets(inputs: PrepareInputs) -> list[Benchmark]:
    """Read the benchmarks that the store must not contain. Raise CorpusError if one cannot be read."""
    options = ReadOptions(split=inputs.evaluation_split)
    return [load_benchmark(name, folder, options) for name, folder in inputs.evaluation_sets]


def index_evaluation_sets(evaluation_sets: Sequence[Benchmark], threshold: float) -> DecontaminationIndex | None:
    """Index the texts that the store must not contain; None if there are none."""
    texts = [text for benchmark in evaluation_sets for text in benchmark.texts]
    return DecontaminationIndex(texts, threshold) if texts else None


def store_tokenizer(store: Path, inputs: PrepareInputs) -> PreTrainedTokenizerFast:
    """Load the tokenizer that a store was made with.

    Raises:
        StoreError: the store was made with another tokenizer or other text settings than the inputs'.
    """
    from transformers import PreTrainedTokenizerFast

    if inputs.model.path is not None:
        tokenizer = load_tokenizer(inputs.model)
    else:
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(store / TOKENIZER)
        except Exception as error:  # of the file's content: of any class
            reason = " ".join(str(error).split())[:200]
            raise StoreError(f"the tokenizer {store / TOKENIZER} cannot be read ({reason})") from error
    TokenStore.open(store, PairTokenizer(tokenizer, inputs.text).fingerprint())
    return tokenizer


def fault_of_store(store: Path, inputs: PrepareInputs, *, verify: bool) -> str | None:
    """Return why a store has to be prepared again; None if it is complete.

    Args:
        store: its folder.
        inputs: that it was made of.
        verify: compare all checksums. They are compared in any case if a reader found a shard damaged.
    """
    try:
        store_tokenizer(store, inputs)
        opened = TokenStore.open(store)
        missing = [shard.file for shard in opened.shards if not (store / shard.file).is_file()]
        if missing:
            return f"the store {store} has no {', '.join(missing)}"
        if verify or (store / SUSPECT).exists():
            opened.verify()
    except StoreError as error:
        return str(error)
    return None
