"""TMX (Translation Memory eXchange): translation units, whose texts are question and passage as in bitext."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.file_discovery import existing_path, files_in, nothing_to_read
from hbt_ray.data.text_files import READ_ERRORS, UNREADABLE_FILE, open_binary, rejected_row
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.utils.language_codes import language_code

SUFFIXES = (".tmx", ".tmx.gz")
_LANGUAGE = ("{http://www.w3.org/XML/1998/namespace}lang", "lang")  # of TMX 1.4 and of earlier versions


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """List a shard for each file, sorted; its units name their languages. Raises CorpusError if there is none."""
    root = existing_path(corpus.name, corpus.path)
    files = [root] if root.is_file() else files_in(root, SUFFIXES)
    if not files:
        raise nothing_to_read(corpus.name, corpus.path, SUFFIXES)
    languages = None if corpus.languages is None else tuple(sorted(corpus.languages))
    return [
        CorpusShard(
            corpus.format,
            corpus.name,
            str(file),
            None,
            languages=languages,
            row_ids=f"{file.name}:" if len(files) > 1 else "",
        )
        for file in files
    ]


def read_shard(shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Yield a row or reject for each language of each unit, located by the number of the unit."""
    path = Path(shard.location)
    number = 0
    try:
        with open_binary(path) as file:
            for _, unit in ElementTree.iterparse(file):
                if _local_name(unit) != "tu":
                    continue
                number += 1
                yield from _rows_of(unit, shard, f"{path.name}:{number}", f"{shard.row_ids}{number}")
                unit.clear()
    except (*READ_ERRORS, ElementTree.ParseError) as error:
        yield rejected_row(shard.source, f"{path.name}:{number + 1}", UNREADABLE_FILE, error)


def _rows_of(
    unit: ElementTree.Element, shard: CorpusShard, location: str, item_id: str
) -> Iterator[CorpusRow | RejectedRow]:
    for variant in unit:
        if _local_name(variant) != "tuv":
            continue
        named = next((variant.attrib[name] for name in _LANGUAGE if name in variant.attrib), "")
        language = language_code(named)
        if language is None:
            reason = "not a language code" if named else "missing language"
            yield rejected_row(shard.source, location, reason, named)
            continue
        if shard.languages is not None and language not in shard.languages:
            continue
        segment = next((child for child in variant if _local_name(child) == "seg"), None)
        text = "" if segment is None else _text_of(segment).strip()
        if text:
            yield CorpusRow(shard.source, item_id, language, text, text, location=location)
        else:
            yield rejected_row(shard.source, location, "missing passage", f"no text in {language}")


def _text_of(element: ElementTree.Element) -> str:
    """Return the text of a segment without the markup codes in it; highlighted text is text."""
    parts = [element.text or ""]
    for child in element:
        parts += [_text_of(child) if _local_name(child) == "hi" else "", child.tail or ""]
    return "".join(parts)


def _local_name(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]
