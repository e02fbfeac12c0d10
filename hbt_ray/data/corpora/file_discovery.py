"""The files of a corpus: one per language in a folder, or files whose rows name their language."""

from __future__ import annotations

import gzip
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Any

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.errors import CorpusError

# "de", "pcm", "pt-BR", "zh-Hant", "es-419"; not "en-questions"
LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Z][A-Za-z]+|-[A-Z]{2}|-[0-9]{3})?")


def list_file_parts(corpus: CorpusConfig, suffixes: Sequence[str], options: dict[str, Any]) -> list[CorpusShard]:
    """A part for each `<language><suffix>` of a folder that holds such files; else one for each file, which
    then names its rows' language in a column.

    Raises:
        CorpusError: the path is missing, holds no such file, or lacks a language of `corpus.languages`.
    """
    root = existing_place(corpus)
    files = [root] if root.is_file() else files_in(root, suffixes)
    named = {} if root.is_file() else _by_language(files, suffixes)
    if named:
        return _language_parts(corpus, named, options)
    if not files:
        raise nothing_to_read(corpus, suffixes)
    languages = None if corpus.languages is None else sorted(corpus.languages)
    return [
        CorpusShard(corpus.format, corpus.name, str(file), None, {**options, "languages": languages}) for file in files
    ]


def list_language_parts(corpus: CorpusConfig, suffixes: Sequence[str], options: dict[str, Any]) -> list[CorpusShard]:
    """A part for each `<language><suffix>` of a folder, or for the one such file that the path is.

    Raises:
        CorpusError: as `list_file_parts`.
    """
    root = existing_place(corpus)
    named = _by_language([root] if root.is_file() else files_in(root, suffixes), suffixes)
    if not named:
        raise nothing_to_read(corpus, suffixes)
    return _language_parts(corpus, named, options)


def check_languages(corpus: CorpusConfig, found: Collection[str]) -> None:
    """Raises CorpusError when a language of `corpus.languages` is not among those found."""
    missing = sorted(set(corpus.languages or ()) - set(found))
    if missing:
        raise CorpusError(
            f"the corpus {corpus.name!r} at {str(corpus.path)!r} has no {', '.join(missing)}; "
            f"choose languages among {', '.join(sorted(found))}"
        )


def _language_parts(corpus: CorpusConfig, named: dict[str, Path], options: dict[str, Any]) -> list[CorpusShard]:
    check_languages(corpus, named)
    chosen = sorted(named if corpus.languages is None else set(corpus.languages))
    return [CorpusShard(corpus.format, corpus.name, str(named[language]), language, options) for language in chosen]


def existing_place(corpus: CorpusConfig) -> Path:
    """The file or folder of a corpus. Raises CorpusError when there is none."""
    root = Path(str(corpus.path)).expanduser()
    if not root.exists():
        raise CorpusError(f"the corpus {corpus.name!r} has nothing at {str(root)!r}; correct its path")
    return root


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files with one of the suffixes, sorted by name. Raises CorpusError for a link that leads out of the folder."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.name.endswith(tuple(suffixes)) and path.is_file())
    except OSError as error:
        raise CorpusError(f"cannot list the folder {str(folder)!r} ({error.strerror}); make it readable") from None
    for path in paths:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise CorpusError(f"{str(path)!r} is a link that leads out of its folder; put the file itself there")
    return paths


def _by_language(files: Sequence[Path], suffixes: Sequence[str]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for file in files:
        stem = next((file.name.removesuffix(s) for s in suffixes if file.name.endswith(s)), "")
        if not LANGUAGE.fullmatch(stem):
            continue
        if stem in named:
            raise CorpusError(f"{named[stem].name} and {file.name} in {str(file.parent)!r} both hold {stem}; keep one")
        named[stem] = file
    return named


def open_file(path: Path) -> IO[bytes]:
    """The bytes of a file, which may be gzipped."""
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def nothing_to_read(corpus: CorpusConfig, suffixes: Sequence[str]) -> CorpusError:
    """The error that a corpus has no file of a language."""
    names = " or ".join(f"<language>{suffix}" for suffix in suffixes)
    return CorpusError(
        f"the corpus {corpus.name!r} finds no {names} at {str(corpus.path)!r}; "
        f"name each file by its language, such as de{suffixes[0]}"
    )
