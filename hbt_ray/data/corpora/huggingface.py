"""Hugging Face data sets: one saved to disk with `save_to_disk`, or one that `datasets.load_dataset` finds.

Rows name their language in a column. A data set with a subset for each language is read if `languages` is set and
`subset` is not: each language is then the subset of that name. Code that comes with a data set is never run.

A column `translation`, without columns of question and passage, holds a sentence in several languages, such as
{en: Hello, de: Hallo}; each is read as bitext (`bitext.py`): question and passage at once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from hbt_ray.config import Columns, CorpusConfig
from hbt_ray.data.arrow_growth import check_arrow_growth
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.column_names import has_column, list_names, missing_column, resolve_columns
from hbt_ray.data.corpora.file_discovery import check_languages, existing_path, is_path
from hbt_ray.data.corpora.record_parsing import parse_record, present_columns, records_of_table
from hbt_ray.data.text_files import UNREADABLE_FILE, is_inside, rejected_row
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.errors import CorpusError
from hbt_ray.utils import progress
from hbt_ray.utils.language_codes import language_of_name, spell_code
from hbt_ray.utils.limits import load_json

if TYPE_CHECKING:
    from datasets import Dataset

_TRANSLATION = "translation"  # of the data sets of WMT and OPUS
_ROWS_PER_SHARD = 65_536
_ROWS_PER_BATCH = 1024

# The errors of `datasets` for files that it did not write itself, or that are damaged.
_DAMAGE_ERRORS = (
    OSError,
    pa.ArrowException,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RecursionError,
)


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """List ranges of rows of a data set on disk; otherwise one shard, or one for each language that is a subset.

    Raises:
        CorpusError: the folder is missing or damaged, or lacks the split, the language column or a language's subset.
    """
    root = Path(str(corpus.path)).expanduser()
    if (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
        return _list_shards_on_disk(corpus, _split_folder(corpus, root), root)
    if is_path(str(corpus.path)):
        corpus = corpus.model_copy(update={"path": str(existing_path(corpus.name, corpus.path))})
    return _list_shards_of_hub(corpus)


def read_shard(shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Yield a row or reject for each row of the shard, numbered from 1 in its data set.

    Raises:
        CorpusError: a data set that is not on disk cannot be downloaded. This is no reject, since a retry may help.
    """
    name = Path(shard.location).name
    first, end = shard.options["rows"] or (0, None)
    number = first
    try:
        if shard.options.get("streaming"):
            yield from _read_stream(shard)
            return
        dataset = _load(shard)
        shard = _resolved(shard, dataset.column_names)
        present = present_columns(shard.columns, dataset.column_names)
        dataset = dataset.select_columns([_TRANSLATION] if shard.options.get("bitext") else present)
        dataset = dataset.select(range(first, len(dataset) if end is None else end))
        class_names = {name: label.names for name, label in dataset.features.items() if hasattr(label, "int2str")}
        for table in dataset.with_format("arrow").iter(_ROWS_PER_BATCH):
            for record in records_of_table(table):
                number += 1
                if class_names and isinstance(record, dict):
                    record = _with_class_names(record, class_names)
                yield from _rows_of(record, shard, f"{name}:{number}", number)
    except CorpusError:
        raise
    except _DAMAGE_ERRORS as error:
        yield rejected_row(shard.source, f"{name}:{number + 1}", UNREADABLE_FILE, error)


def with_columns(shard: CorpusShard) -> CorpusShard:
    """Return the shard with the names of its columns, to be read row by row, without a download of the whole data set.

    Raises:
        CorpusError: the data set cannot be loaded, or a column is missing.
    """
    if not shard.options["on_disk"]:
        shard = replace(shard, options={**shard.options, "streaming": True})
    dataset = _load(shard)
    return _resolved(shard, list(dataset.column_names or next(iter(dataset), {})))


def _read_stream(shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Yield a row or reject for each row of a data set that is downloaded while it is read."""
    dataset = _load(shard)
    class_names = {name: label.names for name, label in (dataset.features or {}).items() if hasattr(label, "int2str")}
    name = Path(shard.location).name
    for number, record in enumerate(dataset, start=1):
        yield from _rows_of(_with_class_names(record, class_names), shard, f"{name}:{number}", number)


def _rows_of(record: object, shard: CorpusShard, location: str, number: int) -> Iterator[CorpusRow | RejectedRow]:
    """Yield the row of a record, or a row for each language of its translation."""
    if not shard.options.get("bitext"):
        row = parse_record(record, shard, location, number)
        if row is not None:
            yield row
        return
    texts = record.get(_TRANSLATION) if isinstance(record, dict) else None
    if not isinstance(texts, dict) or not all(isinstance(text, str | None) for text in texts.values()):
        yield rejected_row(shard.source, location, "translation is no text for each language", texts)
        return
    for name, text in texts.items():
        language = language_of_name(name)
        if language is None:
            yield rejected_row(shard.source, location, "translation in no language", name)
        elif text and text.strip() and (shard.languages is None or language in shard.languages):
            item_id = f"{shard.row_ids or ''}{number}"
            yield CorpusRow(shard.source, item_id, language, text.strip(), text.strip(), location=location)


def _with_class_names(record: dict[str, object], class_names: dict[str, list[str]]) -> dict[str, object]:
    """Return the record with the names of its classes; a `ClassLabel`, such as a language, is stored by its number."""
    named = {
        name: names[number]
        for name, names in class_names.items()
        if isinstance(number := record.get(name), int) and 0 <= number < len(names)
    }
    return record | named


def _split_folder(corpus: CorpusConfig, root: Path) -> Path:
    """Return the folder with the rows: the split's folder of a saved DatasetDict. Raises CorpusError."""
    if not (root / "dataset_dict.json").is_file():
        return root
    splits = _read_json(corpus, root / "dataset_dict.json").get("splits")
    splits = splits if isinstance(splits, list) else []
    if corpus.split not in splits:
        raise CorpusError(
            f"the corpus {corpus.name!r} at {str(root)!r} has no split {corpus.split!r}; "
            f"choose among {', '.join(map(str, splits))}"
        )
    folder = root / corpus.split
    _check_inside(corpus, folder, root)
    return folder


def _list_shards_on_disk(corpus: CorpusConfig, folder: Path, root: Path) -> list[CorpusShard]:
    import datasets

    files = _read_json(corpus, folder / "state.json").get("_data_files")
    paths = [folder / str(file["filename"]) for file in (files if isinstance(files, list) else ())]
    for path in paths:
        _check_inside(corpus, path, root)
    try:
        for path in paths:
            check_arrow_growth(path)
        dataset = datasets.load_from_disk(str(folder))
    except (*_DAMAGE_ERRORS, struct.error) as error:
        raise CorpusError(
            f"the corpus {corpus.name!r} at {str(folder)!r} cannot be loaded ({_one_line(error)}); save it again"
        ) from None
    _resolved(_shard(corpus, folder), dataset.column_names)
    starts = range(0, len(dataset), _ROWS_PER_SHARD)
    ranges = [(start, min(start + _ROWS_PER_SHARD, len(dataset))) for start in starts]
    return [_shard(corpus, folder, rows=rows, on_disk=True) for rows in ranges]


def _resolved(shard: CorpusShard, names: list[str]) -> CorpusShard:
    """Return the shard with the names of its columns; without one of ids, an id is the number of the row.

    Raises:
        CorpusError: a column is missing, or no column names the language and the settings do not.
    """
    location, configured = Path(shard.location).name, shard.columns
    has_pairs = all(has_column(configured, meaning, names) for meaning in ("question", "passage"))
    if _TRANSLATION in names and not has_pairs:
        return replace(shard, columns=Columns(), options={**shard.options, "bitext": True})
    if shard.language is None and not has_column(configured, "language", names):
        if configured.language != Columns().language:
            raise missing_column(shard.source, location, "language", configured.language, names)
        raise CorpusError(
            f"corpus {shard.source!r}: no column of {location} names a language (columns: {list_names(names)}); write "
            f"language: en for all rows, or columns: {{language: NAME}}"
        )
    columns = resolve_columns(configured, names, shard.source, location)
    ids = shard.options["ids"]
    if ids == "column" and not has_column(configured, "id", names):
        raise missing_column(shard.source, location, "id", configured.id, names)
    if ids in ("rows", "unique") or not has_column(configured, "id", names):
        subset = shard.options["subset"]
        # Subsets of languages are parallel only if the settings say so: their rows cannot be counted before.
        return replace(shard, columns=columns, row_ids="" if ids == "rows" else f"{subset or location}:")
    return replace(shard, columns=columns)


def _list_shards_of_hub(corpus: CorpusConfig) -> list[CorpusShard]:
    languages = sorted(corpus.languages or ())
    subsets = _subsets(corpus) if languages and not corpus.subset else []
    subset_of = {spell_code(subset): subset for subset in subsets}
    if not subset_of.keys() & set(languages):
        return [_shard(corpus, corpus.path, subset=corpus.subset)]
    check_languages(corpus.name, corpus.path, languages, subset_of)
    return [replace(_shard(corpus, corpus.path, subset=subset_of[one]), language=one) for one in languages]


def _shard(
    corpus: CorpusConfig,
    location: object,
    rows: tuple[int, int] | None = None,
    subset: str | None = None,
    on_disk: bool = False,
) -> CorpusShard:
    """Return a shard of the rows [first, last), or of all, whose rows name their language."""
    return CorpusShard(
        corpus.format,
        corpus.name,
        str(location),
        language=corpus.language,
        languages=None if corpus.languages is None or corpus.language else tuple(sorted(corpus.languages)),
        columns=corpus.columns,
        options={"rows": rows, "subset": subset, "split": corpus.split, "on_disk": on_disk, "ids": corpus.ids},
    )


def _subsets(corpus: CorpusConfig) -> list[str]:
    import datasets

    try:
        names: list[str] = datasets.get_dataset_config_names(str(corpus.path))
    except Exception as error:  # many types; the remedy is the same for all
        raise _not_found(str(corpus.path), error) from None
    return names


def _load(shard: CorpusShard) -> Dataset:  # an IterableDataset if it is streamed
    import datasets

    if shard.options["on_disk"]:
        return datasets.load_from_disk(shard.location)
    try:
        subset, split = shard.options["subset"], shard.options["split"]
        if shard.options.get("streaming"):
            return datasets.load_dataset(shard.location, subset, split=split, streaming=True)
        with progress.stage(f"fetching {shard.location} from the hub"):
            return datasets.load_dataset(shard.location, subset, split=split)
    except Exception as error:  # many types; the remedy is the same for all
        raise _not_found(shard.location, error) from None


def _not_found(path: str, error: Exception) -> CorpusError:
    return CorpusError(
        f"the data set {path!r} cannot be loaded ({_one_line(error)}); check its name, subset and split and the "
        f"network, or save it with save_to_disk and give that folder"
    )


def _read_json(corpus: CorpusConfig, file: Path) -> dict[str, object]:
    try:
        content = load_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorpusError(f"{str(file)!r} of the corpus {corpus.name!r} is damaged ({error}); save it again") from None
    if not isinstance(content, dict):
        raise CorpusError(f"{str(file)!r} of the corpus {corpus.name!r} is damaged; save the data set again")
    return content


def _check_inside(corpus: CorpusConfig, path: Path, folder: Path) -> None:
    if not is_inside(path, folder):
        raise CorpusError(
            f"the corpus {corpus.name!r} names {str(path)!r}, which lies outside its folder; put the file itself there"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
