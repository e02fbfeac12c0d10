"""List the files whose rows have columns: their languages, the names of their columns, and where ids come from."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hbt_ray.config import Columns, CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.column_names import (
    columns_by_language,
    has_column,
    list_names,
    missing_column,
    numbered_columns,
    resolve_columns,
)
from hbt_ray.data.corpora.file_discovery import (
    check_languages,
    choose_languages,
    existing_path,
    files_by_language,
    files_in,
    language_folders,
    nothing_to_read,
    stem_of,
)
from hbt_ray.errors import CorpusError
from hbt_ray.utils.language_codes import language_at_end, language_of_name, same_language
from hbt_ray.utils.logging import warn_once

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecordFormat:
    """How files of a format are looked into before they are read."""

    suffixes: tuple[str, ...]
    column_names: Callable[[Path, Columns], Sequence[str]]  # of a file; empty if it has no row or cannot be read
    count_rows: Callable[[Path], int]  # the largest row number of a file


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    language: str | None  # None: rows name theirs
    names: Sequence[str]  # of its columns; empty: unknown
    columns: Mapping[str, Columns] = field(default_factory=dict)  # of each language, if a row has several


def list_record_shards(corpus: CorpusConfig, format: RecordFormat) -> list[CorpusShard]:
    """List a shard for each file of a format whose rows have columns.

    1. With `corpus.language`, every file is in that language.
    2. Otherwise, files of a folder that are named `<language><suffix>` are read, and no others; in a folder without
       files, those of its folders that are named by a language.
    3. Otherwise every file is read. Its language is in the column of languages, or at the end of its name: faq-de.csv.
    4. The columns of a file have their configured or usual names. A file with columns for each language, such as
       question_en and question_de, is a shard for each: rows are items in these languages.
    5. Without a column of ids, an id is the number of a row; see `CorpusConfig.ids`.

    Raises:
        CorpusError: the path does not exist, has no such file, or lacks a language of `corpus.languages` or a column.
    """
    root = existing_path(corpus.name, corpus.path)
    paths = [root] if root.is_file() else files_in(root, format.suffixes)
    paths = paths or [path for folder in language_folders(root) for path in files_in(folder, format.suffixes)]
    if not paths:
        raise nothing_to_read(corpus.name, corpus.path, format.suffixes)
    files = _chosen_files(corpus, root, paths, format)
    _check_same_columns(corpus, [file for file in files if file.names and not file.columns])
    columns = {
        file.path: resolve_columns(corpus.columns, file.names, corpus.name, file.path.name)
        if file.names and not file.columns
        else corpus.columns
        for file in files
    }
    prefixes = _row_id_prefixes(corpus, files, format)
    languages = None if corpus.languages is None else tuple(sorted(corpus.languages))
    shards = []
    for file in files:
        shard = CorpusShard(
            corpus.format,
            corpus.name,
            str(file.path),
            file.language,
            languages=languages if file.language is None else None,
            columns=columns[file.path],
            row_ids=prefixes.get(file.path),
        )
        for language, of_language in file.columns.items():
            if languages is None or language in languages:
                shards.append(replace(shard, language=language, columns=of_language, may_lack_texts=True))
        shards += [] if file.columns else [shard]
    return shards


def _chosen_files(corpus: CorpusConfig, root: Path, paths: Sequence[Path], format: RecordFormat) -> list[_File]:
    """Return the files to read, each with its language."""
    by_language = {} if root.is_file() else files_by_language(paths, format.suffixes)
    if corpus.language is not None:
        check_languages(corpus.name, corpus.path, corpus.languages, [corpus.language])
        for language, path in by_language.items():
            if not same_language(language, corpus.language):
                raise CorpusError(
                    f"corpus {corpus.name!r}: {path.name} is named by another language than language: "
                    f"{corpus.language}; leave that setting out, or rename the file"
                )
        return [_File(path, corpus.language, format.column_names(path, corpus.columns)) for path in paths]
    if by_language:
        chosen = choose_languages(corpus.name, corpus.path, corpus.languages, by_language)
        return [_File(path, code, format.column_names(path, corpus.columns)) for code, path in chosen.items()]
    files = [_file_with_language(corpus, root, path, format) for path in paths]
    if all(file.language or file.columns for file in files):
        named = [language for file in files for language in file.columns or (str(file.language),)]
        check_languages(corpus.name, corpus.path, corpus.languages, named)
    return [file for file in files if not (file.language and corpus.languages) or file.language in corpus.languages]


def _check_same_columns(corpus: CorpusConfig, files: Sequence[_File]) -> None:
    """Raise CorpusError if some files have a column that is needed and others do not: no setting names both."""
    for meaning, default in Columns().model_dump().items():
        configured = getattr(corpus.columns, meaning)
        if meaning not in ("question", "passage") and configured == default:
            continue  # may be missing
        having = [
            file
            for file in files
            if has_column(corpus.columns, meaning, file.names) or numbered_columns(configured, file.names)
        ]
        lacking = [file for file in files if file not in having]
        if having and lacking:
            raise CorpusError(
                f"corpus {corpus.name!r}: the columns of its files differ: {_label(corpus, having[0])} has "
                f"{list_names(having[0].names)}, {_label(corpus, lacking[0])} has {list_names(lacking[0].names)}, "
                f"of which none is the {meaning}; give the columns one name, or write a corpus for each file"
            )


def _file_with_language(corpus: CorpusConfig, root: Path, path: Path, format: RecordFormat) -> _File:
    """Return a file whose rows name their language, or whose folder below the root or name does. Raises CorpusError."""
    names = format.column_names(path, corpus.columns)
    if root.is_dir() and path.parent != root:  # in one of its `language_folders`
        return _File(path, language_of_name(path.parent.name), names)
    if not names or has_column(corpus.columns, "language", names):
        return _File(path, None, names)
    if by_language := columns_by_language(corpus.columns, names, corpus.languages):
        listed = ", ".join(by_language)
        warn_once(_logger, f"corpus {corpus.name!r}: a row of {path.name} is an item in {listed}, by its columns")
        return _File(path, None, names, by_language)
    if corpus.columns.language != Columns().language:
        raise missing_column(corpus.name, path.name, "language", corpus.columns.language, names)
    language = language_at_end(_hyphenated(stem_of(path, format.suffixes) or path.stem))
    if language is None:
        raise CorpusError(
            f"corpus {corpus.name!r}: neither the name of {path.name} nor a column names a language (columns: "
            f"{list_names(names)}); write language: en for the whole file, or columns: {{language: NAME}}"
        )
    return _File(path, language, names)


def _hyphenated(stem: str) -> str:
    return stem.replace("_", "-").replace(".", "-")


def _common_part(file: _File, suffixes: Sequence[str]) -> str:
    """Return the name of a file without its suffix and its language: "faq" of faq-de.csv, "" of de.csv."""
    stem = stem_of(file.path, suffixes) or file.path.stem
    if file.language is None or language_at_end(_hyphenated(stem)) != file.language:
        return stem
    return stem[: -len(file.language)].rstrip("-_.")


def _row_id_prefixes(corpus: CorpusConfig, files: Sequence[_File], format: RecordFormat) -> Mapping[Path, str]:
    """Return, for each file whose ids are row numbers, what is written before the number.

    Files that share it share items: those whose names differ only in the language and that have equally many rows.
    """
    lacking = [file for file in files if file.names and not has_column(corpus.columns, "id", file.names)]
    if corpus.ids == "column" and lacking:
        raise missing_column(corpus.name, lacking[0].path.name, "id", corpus.columns.id, lacking[0].names)
    numbered = [file for file in files if file.names] if corpus.ids in ("rows", "unique") else lacking
    groups: dict[str, list[_File]] = {}
    for file in numbered:
        groups.setdefault(_common_part(file, format.suffixes), []).append(file)
    prefixes: dict[Path, str] = {}
    for common, group in groups.items():
        is_parallel = corpus.ids != "unique" and _is_parallel(corpus, group, format)
        shared = f"{common}:" if len(groups) > 1 else ""
        prefixes |= {file.path: shared if is_parallel else f"{_label(corpus, file)}:" for file in group}
    return prefixes


@functools.lru_cache(maxsize=256)
def _count_once(count_rows: Callable[[Path], int], path: Path, size: int, changed_ns: int) -> int:
    """Count the rows of a file once in a process, as long as it is unchanged: a corpus may be listed several times."""
    return count_rows(path)


def _label(corpus: CorpusConfig, file: _File) -> str:
    """Return the path of a file below the corpus' folder."""
    root = Path(str(corpus.path)).expanduser()
    return file.path.relative_to(root).as_posix() if root.is_dir() else file.path.name


def _is_parallel(corpus: CorpusConfig, group: Sequence[_File], format: RecordFormat) -> bool:
    """Return True if rows with equal numbers are translations, and log what was decided, unless it is configured."""
    names = ", ".join(_label(corpus, file) for file in group[:4]) + (" ..." if len(group) > 4 else "")
    if any(file.columns for file in group):
        return len(group) == 1
    if len(group) < 2 or len({file.language for file in group}) < len(group):
        if corpus.ids is None:
            warn_once(
                _logger,
                f"corpus {corpus.name!r}: {names} has no column of ids, so a row is an item of one language; "
                f"if rows are translations of each other, name the column that says so in columns.id",
            )
        return corpus.ids == "rows" and len(group) == 1
    rows = {}
    for file in group:
        state = file.path.stat()
        rows[_label(corpus, file)] = _count_once(format.count_rows, file.path, state.st_size, state.st_mtime_ns)
    if len(set(rows.values())) == 1:
        if corpus.ids is None:
            warn_once(
                _logger,
                f"corpus {corpus.name!r}: no column has ids, and {names} have {next(iter(rows.values()))} rows each: "
                f"rows with equal numbers are taken as translations; if they are none, write ids: unique",
            )
        return True
    counts = ", ".join(f"{name} {number}" for name, number in list(rows.items())[:4])
    if corpus.ids == "rows":
        raise CorpusError(
            f"corpus {corpus.name!r}: ids: rows needs files with equally many rows, not {counts}; "
            f"add a column of ids, or write ids: unique"
        )
    warn_once(
        _logger,
        f"corpus {corpus.name!r}: no column has ids and the numbers of rows differ ({counts}), so no row is taken as "
        f"the translation of another; name the column of ids in columns.id",
    )
    return False
