"""Plain text, one text a line, in files whose lines with equal numbers are translations of each other.

Three layouts:

- a folder of `<language>.txt[.gz]`: all files share items, and the line's number is the item's id, "17";
- pairs of files as OPUS names them, `NAME.de-en.de[.gz]` and `NAME.de-en.en[.gz]`: only the two files of a pair share
  items, "NAME.de-en:17";
- files as Moses names them, `NAME.de[.gz]` and `NAME.en[.gz]`: the files with one name share items, "NAME:17".

A blank line is a missing translation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.file_discovery import (
    check_languages,
    choose_languages,
    existing_path,
    files_by_language,
    files_in,
    language_shard,
    nothing_to_read,
)
from hbt_ray.data.corpora.file_parts import lines_of, split_by_lines
from hbt_ray.data.text_files import Fault
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.utils.language_codes import language_code, language_of_name

SUFFIXES = (".txt", ".txt.gz")


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """List a shard for each file, sorted. Raises CorpusError if there is none, or a language is missing."""
    root = existing_path(corpus.name, corpus.path)
    files = [root] if root.is_file() else files_in(root, ("",))
    if by_language := files_by_language(files, SUFFIXES):
        chosen = choose_languages(corpus.name, corpus.path, corpus.languages, by_language)
        return [language_shard(corpus, file, language) for language, file in chosen.items()]
    parsed = [
        (file, *names) for file in files if (names := _parse_opus_name(file.name) or _parse_moses_name(file.name))
    ]
    common = Counter(name for _, name, _ in parsed)
    aligned = [(file, name, language) for file, name, language in parsed if common[name] > 1]
    if not aligned:
        raise nothing_to_read(corpus.name, corpus.path, SUFFIXES)
    languages = {language for _, _, language in aligned}
    check_languages(corpus.name, corpus.path, corpus.languages, languages)
    return [
        replace(language_shard(corpus, file, language), options={"item_prefix": f"{name}:"})
        for file, name, language in aligned
        if language in (corpus.languages or languages)
    ]


def _parse_moses_name(name: str) -> tuple[str, str] | None:
    """Return the name that aligned files share and the language of this one; None for other files.

    >>> _parse_moses_name("train.tok.en"), _parse_moses_name("model.bin")
    (('train.tok', 'en'), None)
    """
    common, _, language = name.removesuffix(".gz").rpartition(".")
    code = language_of_name(language)
    return (common, code) if common and code else None


def _parse_opus_name(name: str) -> tuple[str, str] | None:
    """Return the common part of the names of two aligned files, and the language of this one; None for other files.

    >>> _parse_opus_name("tatoeba.deu-eng.deu.gz"), _parse_opus_name("LICENSE.md")
    (('tatoeba.deu-eng', 'deu'), None)
    """
    common, _, language = name.removesuffix(".gz").rpartition(".")
    pair = common.rpartition(".")[2]
    code = language_code(language)
    if code is not None and (pair.startswith(f"{language}-") or pair.endswith(f"-{language}")):
        return common, code
    return None


def split_shard(shard: CorpusShard, part_bytes: int) -> list[CorpusShard]:
    """Divide a shard of a large file into parts of whole lines."""
    return split_by_lines(shard, part_bytes)


def read_shard(shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Yield a row or reject for each line that is not blank, in order."""
    assert shard.language is not None
    for line in lines_of(shard):
        if isinstance(line, Fault):
            yield line.reject(shard.source)
            continue
        text = line.text.strip()
        if text:
            item_id = f"{shard.options.get('item_prefix', '')}{line.number}"
            yield CorpusRow(shard.source, item_id, shard.language, None, text, location=line.location)
