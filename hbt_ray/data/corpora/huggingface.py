"""Hugging Face data sets: one saved to disk with `save_to_disk`, or one that `datasets.load_dataset` finds.

Rows name their language in a column. A data set that keeps each language in a subset of its own is read when
`languages` is given and `subset` is not: each language is then the subset of that name. Code that comes with
a data set is never run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.file_discovery import check_languages
from hbt_ray.data.corpora.record_parsing import present_columns, records_of_table, reject, row_of_record
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.errors import CorpusError

_ROWS_PER_PART = 65_536
_ROWS_PER_BATCH = 1024

# What `datasets` raises for files that are not as it wrote them.
_DAMAGED = (OSError, pa.ArrowException, ValueError, KeyError, IndexError, TypeError, AttributeError)


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """Ranges of rows of a data set saved to disk, in order; else one part, or one per language that is a subset.

    Raises:
        CorpusError: the folder is missing or damaged, or lacks the split, the language column or a language's subset.
    """
    root = Path(str(corpus.path)).expanduser()
    if (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
        return _parts_on_disk(corpus, _split_folder(corpus, root))
    if root.is_absolute() or str(corpus.path).startswith((".", "~")):
        if not root.exists():
            raise CorpusError(f"the corpus {corpus.name!r} has nothing at {str(root)!r}; correct its path")
        corpus = corpus.model_copy(update={"path": str(root)})
    return _parts_of_hub(corpus)


def read_shard(part: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """One row or reject for each row of the part, numbered from 1 in its data set.

    Raises:
        CorpusError: a data set that is not on disk cannot be fetched. That is no bad row: trying again may help.
    """
    name = Path(part.location).name
    first, end = part.options["rows"] or (0, None)
    number = first
    try:
        dataset = _load(part)
        dataset = dataset.select_columns(present_columns(part.options["columns"], dataset.column_names))
        dataset = dataset.select(range(first, len(dataset) if end is None else end))
        for table in dataset.with_format("arrow").iter(_ROWS_PER_BATCH):
            for record in records_of_table(table):
                number += 1
                row = row_of_record(record, part, f"{name}:{number}")
                if row is not None:
                    yield row
    except CorpusError:
        raise
    except _DAMAGED as error:
        yield reject(part.source, f"{name}:{number + 1}", "unreadable file", error)


def _split_folder(corpus: CorpusConfig, root: Path) -> Path:
    """The folder that holds the rows: of a saved DatasetDict, the split's. Raises CorpusError."""
    if not (root / "dataset_dict.json").is_file():
        return root
    splits = _read_json(corpus, root / "dataset_dict.json").get("splits")
    if not isinstance(splits, list) or corpus.split not in splits:
        raise CorpusError(
            f"the corpus {corpus.name!r} at {str(root)!r} has no split {corpus.split!r}; "
            f"choose among {', '.join(map(str, splits or ()))}"
        )
    folder = root / corpus.split
    _check_inside(corpus, folder, root)
    return folder


def _parts_on_disk(corpus: CorpusConfig, folder: Path) -> list[CorpusShard]:
    import datasets

    for file in _read_json(corpus, folder / "state.json").get("_data_files") or ():
        _check_inside(corpus, folder / str(file["filename"]), folder)
    try:
        dataset = datasets.load_from_disk(str(folder))
    except _DAMAGED as error:
        raise CorpusError(
            f"the corpus {corpus.name!r} at {str(folder)!r} cannot be loaded ({_one_line(error)}); save it again"
        ) from None
    if corpus.columns.language not in dataset.column_names:
        raise CorpusError(
            f"the corpus {corpus.name!r} at {str(folder)!r} has no column {corpus.columns.language!r}; "
            f"set columns.language to one of {', '.join(dataset.column_names)}"
        )
    starts = range(0, len(dataset), _ROWS_PER_PART)
    ranges = [(start, min(start + _ROWS_PER_PART, len(dataset))) for start in starts]
    return [_part(corpus, folder, None, rows=rows, on_disk=True) for rows in ranges]


def _parts_of_hub(corpus: CorpusConfig) -> list[CorpusShard]:
    subsets = _subsets(corpus) if corpus.languages and not corpus.subset else []
    if not set(subsets) & set(corpus.languages or ()):
        return [_part(corpus, corpus.path, None, subset=corpus.subset)]
    check_languages(corpus, subsets)
    return [_part(corpus, corpus.path, language, subset=language) for language in sorted(set(corpus.languages or ()))]


def _part(corpus: CorpusConfig, location: object, language: str | None, **options: Any) -> CorpusShard:
    defaults = {
        "columns": corpus.columns.model_dump(),
        "languages": None if corpus.languages is None else sorted(corpus.languages),
        "subset": None,
        "split": corpus.split,
        "rows": None,  # all
        "on_disk": False,
    }
    return CorpusShard(corpus.format, corpus.name, str(location), language, {**defaults, **options})


def _subsets(corpus: CorpusConfig) -> list[str]:
    import datasets

    try:
        names: list[str] = datasets.get_dataset_config_names(str(corpus.path))
    except Exception as error:  # whatever the hub's client raises, the user's way out is the same
        raise _not_found(str(corpus.path), error) from None
    return names


def _load(part: CorpusShard) -> Any:
    import datasets

    if part.options["on_disk"]:
        return datasets.load_from_disk(part.location)
    try:
        return datasets.load_dataset(part.location, part.options["subset"], split=part.options["split"])
    except Exception as error:  # as in _subsets
        raise _not_found(part.location, error) from None


def _not_found(path: str, error: Exception) -> CorpusError:
    return CorpusError(
        f"the data set {path!r} cannot be loaded ({_one_line(error)}); check its name, subset and split and the "
        f"network, or save it with save_to_disk and give that folder"
    )


def _read_json(corpus: CorpusConfig, file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorpusError(f"{str(file)!r} of the corpus {corpus.name!r} is damaged ({error}); save it again") from None
    if not isinstance(content, dict):
        raise CorpusError(f"{str(file)!r} of the corpus {corpus.name!r} is damaged; save the data set again")
    return content


def _check_inside(corpus: CorpusConfig, path: Path, folder: Path) -> None:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CorpusError(
            f"the corpus {corpus.name!r} names {str(path)!r}, which lies outside its folder; put the file itself there"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
