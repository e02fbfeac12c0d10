"""Plain text, one text a line, in files whose equal lines are translations of each other.

Either a folder of `<language>.txt[.gz]`, where a line's number is its item's id; or one of `NAME.de-en.de[.gz]` and
`NAME.de-en.en[.gz]`, as OPUS names two aligned files: then only these two share items, "NAME.de-en:17". A blank line
is a translation that is missing.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator
from pathlib import Path

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.file_discovery import (
    LANGUAGE,
    check_languages,
    existing_place,
    files_in,
    list_language_parts,
    nothing_to_read,
    open_file,
)
from hbt_ray.data.corpora.record_parsing import reject
from hbt_ray.data.types import CorpusRow, RejectedRow

_SUFFIXES = (".txt", ".txt.gz")


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """One part per file, sorted. Raises CorpusError when there is none, or a language is missing."""
    root = existing_place(corpus)
    files = [root] if root.is_file() else files_in(root, ("",))
    if any(file.name.endswith(_SUFFIXES) for file in files):
        return list_language_parts(corpus, _SUFFIXES, {"aligned": ""})
    found = [(file, *aligned) for file in files if (aligned := _aligned(file.name))]
    if not found:
        raise nothing_to_read(corpus, _SUFFIXES)
    check_languages(corpus, {language for _, _, language in found})
    wanted = corpus.languages or [language for _, _, language in found]
    return [
        CorpusShard(corpus.format, corpus.name, str(file), language, {"aligned": f"{aligned}:"})
        for file, aligned, language in found
        if language in wanted
    ]


def _aligned(name: str) -> tuple[str, str] | None:
    """What two aligned files' names have in common, and the language of this one; None for another file.

    >>> _aligned("tatoeba.deu-eng.deu.gz"), _aligned("LICENSE.md")
    (('tatoeba.deu-eng', 'deu'), None)
    """
    both, _, language = name.removesuffix(".gz").rpartition(".")
    pair = both.rpartition(".")[2]
    if LANGUAGE.fullmatch(language) and (pair.startswith(f"{language}-") or pair.endswith(f"-{language}")):
        return both, language
    return None


def read_shard(part: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """One row or reject for each line that is not blank, in order; a last reject where the file breaks off."""
    assert part.language is not None
    path = Path(part.location)
    number = 0
    try:
        with open_file(path) as lines:
            for number, line in enumerate(lines, start=1):
                location = f"{path.name}:{number}"
                try:
                    text = line.removeprefix(codecs.BOM_UTF8).decode("utf-8").strip()
                except UnicodeDecodeError as error:
                    yield reject(part.source, location, "wrong encoding", error)
                    continue
                if text:
                    item_id = f"{part.options['aligned']}{number}"
                    yield CorpusRow(part.source, item_id, part.language, None, text, location=location)
    except (OSError, EOFError, zlib.error) as error:
        yield reject(part.source, f"{path.name}:{number + 1}", "unreadable file", error)
