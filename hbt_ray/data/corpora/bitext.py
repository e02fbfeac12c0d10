"""Bitext: sentences and their translations, each sentence both question and passage.

The files are those of plain text (`plain_text.py`), line by line translations of each other, or CSV and TSV with a
column for each language: `en,de`. Tables in a folder of `<language>.txt` are not read. In a cross-lingual batch a
sentence has to find its translation. In a monolingual batch it has to find itself, which teaches little.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hbt_ray.config import Columns, CorpusConfig
from hbt_ray.data.corpora import plain_text
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.column_names import USUAL_NAMES, list_names
from hbt_ray.data.corpora.delimited import header_names, read_records
from hbt_ray.data.corpora.file_discovery import check_languages, existing_path, files_by_language, files_in
from hbt_ray.data.corpora.file_parts import split_by_lines
from hbt_ray.data.text_files import UNREADABLE_FILE, Fault, read_lines
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.errors import CorpusError
from hbt_ray.utils.language_codes import language_of_name

_TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".tab")


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """List a shard for each file, sorted.

    Raises:
        CorpusError: there is no file, a language is missing, aligned files differ in their numbers of lines, or the
            columns of a table are not named by languages.
    """
    root = existing_path(corpus.name, corpus.path)
    files = [root] if root.is_file() else files_in(root, _TABLES + plain_text.SUFFIXES)
    tables = [file for file in files if file.name.endswith(_TABLES)]
    if tables and not files_by_language(files, plain_text.SUFFIXES):
        return _list_tables(corpus, tables)
    shards = plain_text.list_shards(corpus)
    aligned: dict[str, dict[str, int]] = defaultdict(dict)
    for shard in shards:
        path = Path(shard.location)
        aligned[shard.options.get("item_prefix", "")][path.name] = sum(1 for _ in read_lines(path))
    for lines in aligned.values():
        if len(set(lines.values())) > 1:
            counts = ", ".join(f"{name} {number}" for name, number in list(lines.items())[:4])
            raise CorpusError(
                f"corpus {corpus.name!r}: aligned files need equally many lines, but have {counts}; "
                f"align them, with an empty line for a missing translation"
            )
    return shards


def split_shard(shard: CorpusShard, part_bytes: int) -> list[CorpusShard]:
    """Divide a shard of a large file of lines into parts of whole lines; a table is one shard."""
    return [shard] if shard.location.endswith(_TABLES) else split_by_lines(shard, part_bytes)


def read_shard(shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Yield a row or reject for each sentence that is not blank, in order; its text is question and passage."""
    if shard.location.endswith(_TABLES):
        yield from _read_table(shard)
        return
    for row in plain_text.read_shard(shard):
        yield replace(row, question=row.passage) if isinstance(row, CorpusRow) else row


def is_one_language_a_column(names: Sequence[str]) -> bool:
    """Return True if at least two columns have a language as name, and no column has another name but id."""
    codes = _codes_of(names)
    others = [name for name, code in zip(names, codes, strict=True) if code is None]
    return len(names) - len(others) > 1 and all(name.lower() in USUAL_NAMES["id"] for name in others)


def _codes_of(names: Sequence[str]) -> list[str | None]:
    """Return the language that each column is named by, or None. A first column "id" of three is not Indonesian.

    >>> _codes_of(["id", "en", "pt-br"]), _codes_of(["id", "en"])
    ([None, 'en', 'pt-BR'], ['id', 'en'])
    """
    codes = [language_of_name(name) for name in names]
    return [None, *codes[1:]] if len(names) > 2 and names[0].lower() == "id" else codes


def _list_tables(corpus: CorpusConfig, files: Sequence[Path]) -> list[CorpusShard]:
    found: set[str] = set()
    for file in files:
        names = header_names(file, Columns())
        if names and not is_one_language_a_column(names):
            raise CorpusError(
                f"corpus {corpus.name!r}: {file.name} needs a column for each language, such as en and de, but has "
                f"{list_names(names)}; if these are questions and passages, write format: csv"
            )
        found.update(filter(None, _codes_of(names)))
    check_languages(corpus.name, corpus.path, corpus.languages, found)
    languages = None if corpus.languages is None else tuple(sorted(corpus.languages))
    shard = CorpusShard(corpus.format, corpus.name, "", None, languages=languages)
    return [replace(shard, location=str(file), row_ids=f"{file.name}:" if len(files) > 1 else "") for file in files]


def _read_table(shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Yield a row for each text of each record; an id is the number of the record."""
    languages: list[str | None] = []
    for record in read_records(Path(shard.location)):
        if isinstance(record, Fault) and not languages:  # the next record is no header
            yield Fault(record.location, UNREADABLE_FILE, f"its header: {record.detail}").reject(shard.source)
            return
        if isinstance(record, Fault):
            yield record.reject(shard.source)
        elif record.is_blank:
            continue
        elif not languages:
            languages = _codes_of([name.strip() for name in record.fields])
        elif len(record.fields) != len(languages):
            detail = f"{len(record.fields)} instead of {len(languages)}: {record.fields}"
            yield Fault(record.location, "wrong number of columns", detail).reject(shard.source)
        else:
            for language, text in zip(languages, map(str.strip, record.fields), strict=False):
                if text and language is not None and (shard.languages is None or language in shard.languages):
                    item_id = f"{shard.row_ids}{record.number}"
                    yield CorpusRow(shard.source, item_id, language, text, text, location=record.location)
