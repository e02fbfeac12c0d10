"""Subtract the mean vector of a text's language, and store the means with the model.

They are in `language_means.safetensors`, whose checksum is in `debiasing.json`.

Legend: N texts, D width, L languages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hbt_ray.data.model_files import LANGUAGE_MEANS, damaged_debiasing, model_file, read_debiasing
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import ConfigError
from hbt_ray.retrieval.passage_windows import WindowedPassages
from hbt_ray.utils.language_codes import same_language
from hbt_ray.utils.storage import file_sha256

Side = Literal["queries", "passages"]
_SHORTEST = 1e-12  # a length by which a vector is divided, as in torch's normalize


@dataclass(frozen=True, slots=True)
class LanguageMeans:
    """The mean vector of each language's queries, and of its passages."""

    languages: tuple[str, ...]  # L
    queries: np.ndarray  # (L, D) float32
    passages: np.ndarray  # (L, D) float32

    def rows_of(self, languages: Sequence[str]) -> np.ndarray:
        """Return the row of each text's language, (N,) int64; L where no mean is known.

        A language that is written otherwise, such as zh-CN for zh, has the mean of the first that may be the same.
        """
        rows = {
            wanted: next(
                (row for row, known in enumerate(self.languages) if known == wanted),
                next((row for row, known in enumerate(self.languages) if same_language(known, wanted)), None),
            )
            for wanted in sorted(set(languages))
        }
        unknown = len(self.languages)
        return np.array([unknown if (row := rows[one]) is None else row for one in languages], np.int64)

    def subtract(self, vectors: np.ndarray, rows: np.ndarray, side: Side) -> np.ndarray:
        """Subtract the mean of each text's language and normalize: (N, D) -> (N, D) float32 of unit length.

        A text without a known language is given the mean of all languages' means.

        Args:
            vectors: (N, D) float32.
            rows: (N,) from `rows_of`.
            side: which means.

        Raises:
            ConfigError: the vectors have another width.
        """
        means = self.queries if side == "queries" else self.passages
        if vectors.shape[1] != means.shape[1]:
            raise ConfigError(
                f"the vectors have {vectors.shape[1]} values, and the means of their languages {means.shape[1]}; "
                "evaluate the model with all its dimensions"
            )
        table = np.concatenate([means, means.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)])
        centred: np.ndarray = vectors - table[rows]
        centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), _SHORTEST)
        return centred

    def save(self, folder: Path) -> str:
        """Write the means to a model's folder; return the checksum of the file."""
        file = folder / LANGUAGE_MEANS
        save_file({"queries": self.queries, "passages": self.passages}, str(file))
        return file_sha256(file)


def read_language_means(model: str, *, local_files_only: bool = False) -> LanguageMeans | None:
    """Read the means that are to be subtracted from a model's vectors; None if it needs none.

    Args:
        model: folder or hub name.
        local_files_only: of a name on the hub, read only what was downloaded.

    Raises:
        ConfigError: a file is missing, or not as it was written.
    """
    record = read_debiasing(model, local_files_only=local_files_only)
    if record is None or record["method"] != "mean":
        return None
    file = model_file(model, LANGUAGE_MEANS, local_files_only=local_files_only) or Path(model) / LANGUAGE_MEANS
    try:
        if file_sha256(file) != record["means"]:
            raise ValueError("its checksum does not match")
        tensors = load_file(str(file))
        means = LanguageMeans(tuple(record["languages"]), tensors["queries"], tensors["passages"])
        for side in (means.queries, means.passages):
            if side.ndim != 2 or len(side) != len(means.languages) or side.shape != means.queries.shape:
                raise ValueError("it has not one vector for each language")
            if side.dtype != np.float32 or not np.isfinite(side).all():
                raise ValueError("it holds something other than finite float32 numbers")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise damaged_debiasing(file, error) from None
    return means


def mean_rows_of_windows(means: LanguageMeans, benchmark: Benchmark, windows: WindowedPassages) -> np.ndarray:
    """Return the row of the language of each window's passage, (W,) int64, for `LanguageMeans.subtract`."""
    rows = means.rows_of(benchmark.columns.languages)
    if windows.starts is None:
        return rows
    return np.repeat(rows, np.diff(np.append(windows.starts, len(windows.rows))))


def means_notes(benchmark: Benchmark, means: LanguageMeans) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what a report says of the subtraction: notes, and warnings of languages without a mean."""
    note = (
        "the mean vector of its language was subtracted from each vector, so the model was given the languages of "
        f"{benchmark.name}"
    )
    unknown = {one for one in benchmark.languages if means.rows_of([one])[0] == len(means.languages)}
    if not unknown:
        return (note,), ()
    queries = sum(query.text_language in unknown for query in benchmark.queries)
    passages = sum(language in unknown for language in benchmark.columns.languages)
    warning = (
        f"the model has no mean vector of {', '.join(sorted(unknown))} ({queries:,} queries, {passages:,} passages), "
        "from whose vectors the mean of all languages was subtracted; run hbt debias with corpora in these languages"
    )
    return (note,), (warning,)
