"""Find the files of a corpus: one for each language in a folder, or files whose rows name their language."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from hbt_ray.config import Columns, CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.text_files import check_inside
from hbt_ray.errors import CorpusError
from hbt_ray.utils.language_codes import language_of_name
from hbt_ray.utils.logging import warn_once

_logger = logging.getLogger(__name__)
_NAMED_FILES = 8  # of those that are not read


def list_record_shards(corpus: CorpusConfig, suffixes: Sequence[str]) -> list[CorpusShard]:
    """List the shards of a format whose rows have columns.

    - A folder with files `<language><suffix>`: one shard for each of these.
    - Another folder, or a file: one shard for each file; its rows name their language in a column.

    Raises:
        CorpusError: the path does not exist, has no such file, or lacks a language of `corpus.languages`.
    """
    root = existing_path(corpus.name, corpus.path)
    files = [root] if root.is_file() else files_in(root, suffixes)
    by_language = {} if root.is_file() else _files_by_language(files, suffixes)
    if by_language:
        chosen = _choose_languages(corpus.name, corpus.path, corpus.languages, by_language)
        return [language_shard(corpus, file, language, corpus.columns) for language, file in chosen.items()]
    if not files:
        raise nothing_to_read(corpus.name, corpus.path, suffixes)
    languages = None if corpus.languages is None else tuple(sorted(corpus.languages))
    return [
        CorpusShard(corpus.format, corpus.name, str(file), None, languages=languages, columns=corpus.columns)
        for file in files
    ]


def language_files(
    name: str, path: str | None, suffixes: Sequence[str], languages: Collection[str] | None
) -> dict[str, Path]:
    """Map each language to its file: all `<language><suffix>` of a folder, or the one that the path names.

    Args:
        name: of the corpus or benchmark, for messages.
        path: a folder or file.
        suffixes: such as (".json", ".json.gz").
        languages: the ones to return; None: all.

    Raises:
        CorpusError: the path does not exist, has no such file, or lacks a language.
    """
    root = existing_path(name, path)
    by_language = _files_by_language([root] if root.is_file() else files_in(root, suffixes), suffixes)
    if not by_language:
        raise nothing_to_read(name, path, suffixes)
    return _choose_languages(name, path, languages, by_language)


def language_shard(corpus: CorpusConfig, file: Path, language: str, columns: Columns | None = None) -> CorpusShard:
    """Return the shard of a file in one language."""
    return CorpusShard(corpus.format, corpus.name, str(file), language, columns=columns or Columns())


def check_languages(name: str, path: object, languages: Collection[str] | None, found: Collection[str]) -> None:
    """Raise CorpusError if a language is not among those found."""
    missing = sorted(set(languages or ()) - set(found))
    if missing:
        raise CorpusError(
            f"the corpus {name!r} at {str(path)!r} has no {', '.join(missing)}; "
            f"choose languages among {', '.join(sorted(found))}"
        )


def existing_path(name: str, path: str | None) -> Path:
    """Return the file or folder of a corpus. Raises CorpusError if it does not exist."""
    root = Path(str(path)).expanduser()
    if not root.exists():
        raise CorpusError(f"the corpus {name!r} has nothing at {str(root)!r}; correct its path")
    return root


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """List the files with one of the suffixes, sorted by name. Raises CorpusError for a link out of the folder."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.name.endswith(tuple(suffixes)) and path.is_file())
    except OSError as error:
        raise CorpusError(f"cannot list the folder {str(folder)!r} ({error.strerror}); make it readable") from None
    for path in paths:
        check_inside(path, folder)
    return paths


def name_unread_files(name: str, root: Path, read: Collection[Path], below: bool = False) -> None:
    """Warn of the files in a folder that are not read, by name, once in each process. Hidden files do not count.

    Args:
        name: of the corpus or benchmark.
        root: the folder; a path of anything else has no other files.
        read: the files that are read.
        below: look in its subfolders, too; otherwise they are named.
    """
    if not root.is_dir():
        return
    known = {path.absolute() for path in read}
    found = sorted(path for path in root.rglob("*") if path.is_file()) if below else sorted(root.iterdir())
    paths = [path.relative_to(root) for path in found if path.absolute() not in known]
    names = [str(path) for path in paths if not any(part.startswith(".") for part in path.parts)]
    if names:
        more = f" and {len(names) - _NAMED_FILES} more" if len(names) > _NAMED_FILES else ""
        warn_once(_logger, f"{name!r} does not read {', '.join(names[:_NAMED_FILES])}{more} in {str(root)!r}")


def nothing_to_read(name: str, path: object, suffixes: Sequence[str]) -> CorpusError:
    """Return the error of a corpus without a file of any language."""
    names = " or ".join(f"<language>{suffix}" for suffix in suffixes)
    return CorpusError(
        f"the corpus {name!r} finds no {names} at {str(path)!r}; "
        f"name each file by its language, such as de{suffixes[0]}"
    )


def _files_by_language(files: Sequence[Path], suffixes: Sequence[str]) -> dict[str, Path]:
    by_language: dict[str, Path] = {}
    for file in files:
        stem = next((file.name.removesuffix(s) for s in suffixes if file.name.endswith(s)), "")
        language = language_of_name(stem)
        if language is None:
            continue
        if language in by_language:
            other = by_language[language].name
            raise CorpusError(f"{other} and {file.name} in {str(file.parent)!r} both hold {language}; keep one")
        by_language[language] = file
    return by_language


def _choose_languages(
    name: str, path: object, languages: Collection[str] | None, by_language: dict[str, Path]
) -> dict[str, Path]:
    check_languages(name, path, languages, by_language)
    return {language: by_language[language] for language in sorted(by_language if languages is None else languages)}
