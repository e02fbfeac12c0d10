"""Make a model without language of an encoder: fit on the vectors of parallel texts, and save.

Legend: N texts of a side, D width, L languages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from hbt_ray import __version__
from hbt_ray.config import CorpusConfig, stored_text
from hbt_ray.config.run import check_sources
from hbt_ray.data.benchmarks import ReadOptions, load_benchmark
from hbt_ray.data.corpora import list_shards
from hbt_ray.data.model_files import DEBIASING, DEBIASING_METHODS
from hbt_ray.data.zero_shot import keep_decontaminated, write_decontaminated
from hbt_ray.debiasing.erasure import AffineMap, leace, means_by_language, projection
from hbt_ray.debiasing.fitting_texts import FittingTexts, check_several_languages, read_fitting_texts
from hbt_ray.debiasing.language_means import LanguageMeans
from hbt_ray.errors import ConfigError, StorageError
from hbt_ray.models.encoder import default_device, load_pretrained, save_encoder
from hbt_ray.models.saved_settings import set_prompts
from hbt_ray.models.text_embedder import TextEmbedder
from hbt_ray.retrieval.exact_scores import check_vectors
from hbt_ray.retrieval.passage_windows import window_passages
from hbt_ray.utils.atomic_write import atomic_folder, atomic_write_text
from hbt_ray.utils.digests import JsonObject, with_checksum

DEFAULT_METHOD = "projection"
DEFAULT_ITEMS = 2000
_CARD = """---
base_model: {model}
library_name: sentence-transformers
---

# {name} without language

{use}

Made by `hbt debias --method {method}` of hbt_ray {version}, fitted on {items:,} items in each of {languages}.
"""
_USES = {
    "mean": "The mean vector of a text's language is to be subtracted from the vectors of this folder, and the result "
    "normalized: `hbt evaluate` does so. sentence-transformers does not: it gives the vectors of the base model.",
    "other": "The language is removed by the last linear module, for any text: `SentenceTransformer(folder)`.",
}


def debias_model(
    model: str | Path,
    corpora: Sequence[CorpusConfig],
    out: str | Path,
    *,
    method: str = DEFAULT_METHOD,
    items: int = DEFAULT_ITEMS,
    seed: int = 0,
    rank: int | None = None,
    evaluation_sets: Mapping[str, str | None] | None = None,
    split: str | None = None,
    pooling: str = "mean",
    query_prefix: str | None = None,
    passage_prefix: str | None = None,
    trust_remote_code: bool = False,
) -> JsonObject:
    """Remove the language from a model's vectors, fitted on corpora, and save the new model. Nothing is trained.

    1. Choose as many training texts of each language (`read_fitting_texts`).
    2. Embed them as an evaluation does, in float32 and with the model's prompts.
    3. Compute the means or the affine map.
    4. Save the model with two more modules, the map and a normalization; or, for "mean", with the file of means.

    For "projection" and "leace" the questions and passages of a language share its mean; "mean" has one for each side.
    The folder's bytes are a function of the arguments and of the files they name.

    Args:
        model: folder or hub name of the encoder.
        corpora: with items in two languages or more.
        out: a new folder, or one that an earlier call has written.
        method: "mean", "projection" or "leace".
        items: the maximum of each language.
        seed: of the choice of items.
        rank: the maximum number of directions that "projection" and "leace" remove. None: L - 1.
        evaluation_sets: the folder of each benchmark whose texts are left out, by its name.
        split: of these benchmarks. None: the one that is usually reported.
        pooling: such as "mean", for a model that does not define it.
        query_prefix: None: the model's. Another one is saved with the new model.
        passage_prefix: None: the model's.
        trust_remote_code: run code from the model's repository.

    Returns:
        What `debiasing.json` records.

    Raises:
        CorpusError: a corpus or evaluation set cannot be read, or there is one language only.
        ConfigError: the model cannot be loaded or is not compared by cosine of whole vectors, the method is unknown or
            has no rank, or the folder has other files.
        StorageError: the folder cannot be written.
    """
    folder = Path(out).expanduser()
    _check_settings(method, rank, items, corpora, folder)
    check_several_languages({shard.language for corpus in corpora for shard in list_shards(corpus)})
    options = ReadOptions(split=split)
    sets = [load_benchmark(name, path or None, options) for name, path in (evaluation_sets or {}).items()]
    encoder = load_pretrained(str(model), pooling, default_device(), trust_remote_code=trust_remote_code)
    embedder = TextEmbedder(encoder, query_prefix=query_prefix, passage_prefix=passage_prefix)
    if embedder.similarity != "cosine" or embedder.dimensions is not None:
        raise ConfigError(
            f"the model {str(model)!r} compares by dot product or truncates its vectors, and language is removed from "
            "whole vectors compared by cosine; write another model"
        )
    # 1.
    texts = read_fitting_texts(corpora, items, seed, sets)
    # 2.
    queries = _embed(embedder.queries, texts.questions)  # (N, D)
    passages = _embed(embedder.passages, texts.passages)
    check_vectors(queries, passages)
    # 3.
    means, fitted = fit(method, queries, passages, texts, rank)
    record: JsonObject = {
        "method": method,
        "model": stored_text(str(model)),
        "languages": list(texts.languages),
        "items": texts.items,
        "parallel_items": texts.parallel_items,
        "corpora": [{"name": name, "fingerprint": content} for name, content in texts.corpora.items()],
        "evaluation_sets": {one.name: one.fingerprint() for one in sets},
        "items_excluded": texts.items_excluded,
        "seed": seed,
        "query_prefix": embedder.query_prefix,
        "passage_prefix": embedder.passage_prefix,
        **({} if fitted is None else {"rank": fitted.rank}),
        "version": __version__,
    }
    # 4.
    set_prompts(encoder, query_prefix, passage_prefix)
    if fitted is not None:
        append_map(encoder, fitted)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as partial:
            save_encoder(encoder, partial)
            if means is not None:
                record["means"] = means.save(partial)
            write_decontaminated(partial, sets)
            keep_decontaminated(partial, model, partial)
            atomic_write_text(partial / "README.md", _card(record))
            atomic_write_text(partial / DEBIASING, with_checksum(record))
    except OSError as error:
        raise StorageError(
            f"the model cannot be written to {folder} ({error.strerror or error}); free disk space or write another "
            "--out"
        ) from error
    return record


def fit(
    method: str, queries: np.ndarray, passages: np.ndarray, texts: FittingTexts, rank: int | None = None
) -> tuple[LanguageMeans | None, AffineMap | None]:
    """Compute the means of languages for "mean", or the affine map of another method.

    Args:
        method: "mean", "projection" or "leace".
        queries: (N, D) vectors of the questions.
        passages: (N, D).
        texts: their languages.
        rank: the maximum number of directions of a map.
    """
    if method == "mean":
        of_sides = (means_by_language(side, texts.labels).astype(np.float32) for side in (queries, passages))
        return LanguageMeans(texts.languages, *of_sides), None
    fit_map = projection if method == "projection" else leace
    return None, fit_map(np.concatenate([queries, passages]), np.tile(texts.labels, 2), rank)


def append_map(encoder: SentenceTransformer, fitted: AffineMap) -> None:
    """Append a map of vectors of unit length to an encoder's modules, and normalize the result."""
    if not isinstance(encoder[-1], Normalize):
        encoder.append(Normalize())
    width = len(fitted.bias)
    weight, bias = (torch.from_numpy(one.astype(np.float32)) for one in (fitted.weight, fitted.bias))
    dense = Dense(width, width, activation_function=None, init_weight=weight, init_bias=bias)
    encoder.append(dense.to(encoder.device))
    encoder.append(Normalize())
    encoder.similarity_fn_name = "cosine"


def _embed(embed: Callable[[Sequence[str]], np.ndarray], texts: Sequence[str]) -> np.ndarray:
    """Embed texts, equal ones once: (N, D) float32."""
    windows = window_passages(texts, None)
    return np.concatenate([embed(chunk) for chunk in windows.chunks()])[windows.rows]


def _check_settings(method: str, rank: int | None, items: int, corpora: Sequence[CorpusConfig], folder: Path) -> None:
    if method not in DEBIASING_METHODS:
        raise ConfigError(f"there is no method {method!r}; write {', '.join(DEBIASING_METHODS)}")
    if rank is not None and (method == "mean" or rank < 1):
        raise ConfigError(
            "a rank is the number of directions, 1 or more, that projection and leace remove; leave it out"
        )
    if items < 1:
        raise ConfigError(f"items is {items}; write 1 or more")
    try:
        check_sources(tuple(corpora))
    except ValueError as error:
        raise ConfigError(f"{error}, in a YAML file of settings") from None
    if folder.exists() and not (folder.is_dir() and ((folder / DEBIASING).is_file() or not any(folder.iterdir()))):
        raise ConfigError(f"{folder} holds something other than a model of hbt debias; write another --out")


def _card(record: JsonObject) -> str:
    """Return the model card."""
    model = record["model"]
    use = _USES.get(record["method"], _USES["other"])
    languages = f"{len(record['languages'])} languages ({' '.join(record['languages'])})"
    return _CARD.format(**{**record, "name": Path(model).name, "use": use, "languages": languages})
