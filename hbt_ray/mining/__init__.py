"""A run's corpora with hard negatives, mined with a model: a folder of corpora to train on."""

from __future__ import annotations

from pathlib import Path

from hbt_ray.config import RunConfig
from hbt_ray.evaluation.run_evaluation import open_embedder
from hbt_ray.mining.mine_language import mine_language
from hbt_ray.mining.output_dir import MINED, MinedCorpora, MiningRun, begin, describe_mined, finish
from hbt_ray.models.text_embedder import TextEmbedder

__all__ = [
    "MINED",
    "MinedCorpora",
    "MiningRun",
    "begin",
    "describe_mined",
    "finish",
    "mine",
    "mine_language",
    "open_miner",
]


def mine(config: RunConfig, model: str, out: str | Path) -> MinedCorpora:
    """Mines hard negatives of a run's corpora with a model, in this process.

    The corpora are read, cleaned and decontaminated as `prepare` does. A question is asked among those passages of its
    own language, of all sources, that are trained on. Held-out items are there as well, so that a training on the
    folder can be validated; their questions are asked, but their passages are nobody's negatives.

    Called again for the same folder, it goes on: no language is mined twice.

    Args:
        model: folder or hub name.
        out: a folder that is empty or not there yet, or what an earlier call left.

    Raises:
        CorpusError: a corpus or evaluation set cannot be read, or too many of its rows are bad.
        ConfigError: the model cannot be loaded; or the folder holds something else, such as what was mined otherwise.
        StorageError: the folder cannot be written.
        UserError: the vectors hold NaN.
    """
    embedder = open_miner(config, model)
    mining = begin(config, model, embedder, out)
    for language in mining.unfinished():
        mine_language(mining, language, embedder)
    return finish(mining)


def open_miner(config: RunConfig, model: str) -> TextEmbedder:
    """The model as it is measured, too. Raises ConfigError when it cannot be loaded."""
    return open_embedder(model, config.evaluate, config.model.pooling)
