"""Find the files of a corpus: one for each language in a folder, or files whose rows name their language."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.text_files import check_inside
from hbt_ray.errors import CorpusError
from hbt_ray.utils.display_text import name_some
from hbt_ray.utils.language_codes import language_at_end, language_of_name
from hbt_ray.utils.logging import warn_once

_logger = logging.getLogger(__name__)
FINISHED = "finished.json"  # in the folder of a benchmark that a study made
CHECKSUMS = "sha256.json"  # in the folder of a benchmark from the hub
_NAMED_FILES = 8  # of those that are not read


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
    by_language = files_by_language([root] if root.is_file() else files_in(root, suffixes), suffixes)
    if not by_language:
        raise nothing_to_read(name, path, suffixes)
    return choose_languages(name, path, languages, by_language)


def language_shard(corpus: CorpusConfig, file: Path, language: str) -> CorpusShard:
    """Return the shard of a file in one language."""
    return CorpusShard(corpus.format, corpus.name, str(file), language)


def check_languages(name: str, path: object, languages: Collection[str] | None, found: Collection[str]) -> None:
    """Raise CorpusError if a language is not among those found."""
    missing = sorted(set(languages or ()) - set(found))
    if missing:
        raise CorpusError(
            f"the corpus {name!r} at {str(path)!r} has no {', '.join(missing)}; "
            f"choose languages among {', '.join(sorted(found))}"
        )


def existing_path(name: str, path: str | None) -> Path:
    """Return the file or folder of a corpus or benchmark. Raises CorpusError if it does not exist."""
    root = Path(str(path)).expanduser()
    if not root.exists():
        relative = "" if root.is_absolute() else ": a relative one begins at the current folder"
        raise CorpusError(f"{name!r} has nothing at {str(root.absolute())!r}; correct its path{relative}")
    return root


def is_path(name: str) -> bool:
    """Return whether the name of a data set is a path: it is absolute, or begins as a path does."""
    return name.startswith((".", "~")) or Path(name).is_absolute()


def check_exists(corpus: CorpusConfig) -> None:
    """Raise CorpusError if a corpus does not exist, which is not looked for on the hub."""
    if corpus.path is not None and (corpus.format != "huggingface" or is_path(corpus.path)):
        existing_path(corpus.name, corpus.path)


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """List the files with one of the suffixes, sorted by name. Raises CorpusError for a link out of the folder."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.name.endswith(tuple(suffixes)) and path.is_file())
    except OSError as error:
        raise CorpusError(f"cannot list the folder {str(folder)!r} ({error.strerror}); make it readable") from None
    for path in paths:
        check_inside(path, folder)
    return paths


def language_folders(folder: Path) -> list[Path]:
    """List the folders in a folder that are named by a language, sorted; none of a file."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [entry for entry in entries if entry.is_dir() and language_of_name(entry.name)]


def name_unread_files(
    name: str, root: Path, read: Collection[Path], languages: Collection[str] | None, below: bool = False
) -> None:
    """Warn of the files in a folder that are not read, by name, once in each process.

    Hidden files do not count, nor those that this package writes to a folder of data, nor those of languages
    that are not chosen.

    Args:
        name: of the corpus or benchmark.
        root: the folder; a path of anything else has no other files.
        read: the files that are read.
        languages: the chosen ones; None: all.
        below: look in its subfolders, too; otherwise they are named.
    """
    if not root.is_dir():
        return
    known = {entry for path in read for entry in (path.absolute(), *path.absolute().parents)}
    found = sorted(path for path in root.rglob("*") if path.is_file()) if below else sorted(root.iterdir())
    paths = [path.relative_to(root) for path in found if path.absolute() not in known]
    names = [
        str(path)
        for path in paths
        if not any(part.startswith(".") for part in path.parts)
        and path.name not in (FINISHED, CHECKSUMS)
        and not _is_of_others(path, languages)
    ]
    if names:
        warn_once(_logger, f"{name!r} does not read {name_some(names, _NAMED_FILES)} in {str(root)!r}")


def _is_of_others(path: Path, languages: Collection[str] | None) -> bool:
    """Return True if a path names languages, all of them others: `xquad.ar.json` for de and en."""
    if languages is None:
        return False
    named = {language_at_end(word) for part in path.parts for word in part.split(".")} - {None}
    return bool(named) and named.isdisjoint(languages)


def nothing_to_read(name: str, path: object, suffixes: Sequence[str]) -> CorpusError:
    """Return the error of a corpus or benchmark without a file of any language; it names the folders that have some."""
    names = " or ".join(f"<language>{suffix}" for suffix in suffixes)
    files = sorted(Path(str(path)).expanduser().glob("*/*"))
    folders = dict.fromkeys(file.parent for file in files if language_of_name(stem_of(file, suffixes)))
    if folders:
        likely_first = sorted(map(str, folders), key=lambda folder: Path(folder).name != name)
        remedy = f"write the path of a folder that has some: {name_some(likely_first, _NAMED_FILES)}"
    else:
        remedy = f"name each file by its language, such as de{suffixes[0]}"
    return CorpusError(f"{name!r} finds no {names} at {str(path)!r}; {remedy}")


def stem_of(file: Path, suffixes: Sequence[str]) -> str:
    """Return the name of a file without its suffix; "" if it has none of the suffixes."""
    return next((file.name.removesuffix(suffix) for suffix in suffixes if file.name.endswith(suffix)), "")


def files_by_language(files: Sequence[Path], suffixes: Sequence[str]) -> dict[str, Path]:
    """Map each language to the file that is named by just that language. Raises CorpusError if there are two."""
    by_language: dict[str, Path] = {}
    for file in files:
        language = language_of_name(stem_of(file, suffixes))
        if language is None:
            continue
        if language in by_language:
            other = by_language[language].name
            raise CorpusError(f"{other} and {file.name} in {str(file.parent)!r} both hold {language}; keep one")
        by_language[language] = file
    return by_language


def choose_languages(
    name: str, path: object, languages: Collection[str] | None, by_language: dict[str, Path]
) -> dict[str, Path]:
    """Return the files of the chosen languages, sorted; of all for None. Raises CorpusError if one is missing."""
    check_languages(name, path, languages, by_language)
    return {language: by_language[language] for language in sorted(by_language if languages is None else languages)}
