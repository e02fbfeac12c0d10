"""Hard negatives of a run's corpora, mined with a model: a folder of corpora to train on; see README.md."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from hbt_ray.config import RunConfig
from hbt_ray.errors import ConfigError
from hbt_ray.evaluation.run_evaluation import Prefixes, open_embedder
from hbt_ray.mining.language_steps import (
    Side,
    count_shards,
    embed_texts,
    embedding_parts,
    finish_language,
    index_language,
    join_vectors,
    mine_language,
    mine_shard,
)
from hbt_ray.mining.output_dir import (
    MINED,
    MinedCorpora,
    MiningRun,
    describe_mined,
    finish_mining,
    mined_table,
    start_mining,
)

if TYPE_CHECKING:
    from hbt_ray.models.text_embedder import TextEmbedder

__all__ = [
    "MINED",
    "MinedCorpora",
    "MiningRun",
    "Side",
    "count_shards",
    "describe_mined",
    "embed_texts",
    "embedding_parts",
    "finish_language",
    "finish_mining",
    "index_language",
    "join_vectors",
    "mine",
    "mine_language",
    "mine_shard",
    "mined_table",
    "open_miner",
    "start_mining",
]


def mine(config: RunConfig, model: str, out: str | Path, **prefixes: Unpack[Prefixes]) -> MinedCorpora:
    """Mine hard negatives of a run's corpora with a model, in this process.

    1. Read, clean and decontaminate the corpora as `prepare` does (`start_mining`).
    2. For each language, search the training passages of all sources for each question (`mine_language`).
    3. Write the summary (`finish_mining`).

    Held-out items are written as well, so that a training on the folder can be validated: their questions get
    negatives, but their passages are negatives of no question. A second call for the same folder resumes: no language
    is mined twice.

    Args:
        config: the run whose corpora, `mine` and `prepare` settings are used.
        model: folder or hub name.
        out: a folder that is empty or does not exist yet, or that an earlier call has written.
        prefixes: of questions and passages; by default the model's.

    Raises:
        CorpusError: a corpus or evaluation set cannot be read, or too many of its rows are bad.
        ConfigError: a corpus is plain text; the model cannot be loaded; or the folder has other files, or negatives
            mined with other settings.
        StorageError: the folder cannot be written.
        UserError: the vectors hold NaN.
    """
    embedder = open_miner(config, model, **prefixes)
    mining = start_mining(config, model, embedder, out)
    for language in mining.unfinished():
        mine_language(mining, language, embedder)
    return finish_mining(mining)


def open_miner(config: RunConfig, model: str, **prefixes: Unpack[Prefixes]) -> TextEmbedder:
    """Load the model as an evaluation does. Raise ConfigError if it cannot be loaded, or a corpus has no questions."""
    if (plain_text := config.plain_text_corpus) is not None:
        raise ConfigError(f"corpus {plain_text!r} is plain text and has no questions to mine negatives for; remove it")
    trust_remote_code = config.model.trust_remote_code
    return open_embedder(model, config.evaluate, config.model.pooling, trust_remote_code=trust_remote_code, **prefixes)
