"""Record the benchmarks whose texts were removed from a model's training data, in the store and with the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from hbt_ray.data.types import Benchmark
from hbt_ray.errors import StoreError
from hbt_ray.utils.atomic_write import atomic_write_text
from hbt_ray.utils.limits import load_json

DECONTAMINATED = "decontaminated.json"  # in a store and in a model's folder: digest of a benchmark's queries -> name


def queries_digest(benchmark: Benchmark) -> str:
    """Return 16 hex digits of a benchmark's queries. Options of reading may change the passages, but not these."""
    texts = sorted({(query.language, query.text) for query in benchmark.queries})
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def write_decontaminated(store: Path, evaluation_sets: Sequence[Benchmark]) -> None:
    """Record in a store the benchmarks that its items were decontaminated against."""
    _write(store, {queries_digest(benchmark): benchmark.name for benchmark in evaluation_sets})


def keep_decontaminated(store: Path, initial_model: str | Path, folder: Path) -> None:
    """Record in a model's folder the benchmarks that its training data were decontaminated against.

    If the encoder that it started from has a record, only benchmarks of both are kept.

    Args:
        store: that the model was trained on.
        initial_model: folder or hub name of the encoder that it started from.
        folder: of the model.
    """
    earlier = read_decontaminated(Path(initial_model))
    found = read_decontaminated(store) or {}
    _write(folder, found if earlier is None else {key: found[key] for key in found if key in earlier})


def join_decontaminated(models: Sequence[str | Path], folder: Path) -> None:
    """Record in the folder of an encoder made of several ones the benchmarks of all of their records, if they have any.

    Raises:
        StoreError: a record cannot be read.
    """
    records = [record for model in models if (record := read_decontaminated(Path(model))) is not None]
    if records:
        _write(folder, {key: name for key, name in records[0].items() if all(key in record for record in records)})


def was_decontaminated(model: str | Path, benchmark: Benchmark) -> bool | None:
    """Return whether the record of a model has a benchmark; None if it has no record, or for `embedded`.

    The embedded benchmark is never decontaminated: its pool contains the training passages on purpose.
    """
    record = read_decontaminated(Path(model))
    return None if record is None or benchmark.name == "embedded" else queries_digest(benchmark) in record


def _write(folder: Path, record: dict[str, str]) -> None:
    atomic_write_text(folder / DECONTAMINATED, json.dumps(record, indent=1, sort_keys=True) + "\n")


def read_decontaminated(folder: Path) -> dict[str, str] | None:
    """Return the record of a store or model, digest of a benchmark's queries -> its name; None if it has none.

    Raises:
        StoreError: it cannot be read.
    """
    file = folder / DECONTAMINATED
    try:
        record = load_json(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be read ({error}); delete it, or train the model again") from None
    if not isinstance(record, dict):
        raise StoreError(f"{file} is not a record of benchmarks; delete it, or train the model again")
    return record
