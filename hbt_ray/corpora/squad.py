"""SQuAD: a folder of `<language>.json[.gz]`, questions with the same id being translations of each other.

Where a paragraph has `sentence_breaks`, as in LAReQA's sets, a question's passage is the sentence in which its
answer begins; otherwise it is the whole context. Of several answers the first counts.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hbt_ray.config import CorpusConfig
from hbt_ray.corpora.columns import BadRow, check_answer, id_of, reject, text_of
from hbt_ray.corpora.files import list_language_parts
from hbt_ray.corpora.part import Part
from hbt_ray.records import Reject, Row

_SUFFIXES = (".json", ".json.gz")


def list_parts(corpus: CorpusConfig) -> list[Part]:
    """One part per language, sorted. Raises CorpusError when there is none, or a language is missing."""
    return list_language_parts(corpus, _SUFFIXES, {})


def read_part(part: Part) -> Iterator[Row | Reject]:
    """One row or reject per question; a place such as "de.json.gz:data[3].paragraphs[0].qas[2]" finds it again."""
    path = Path(part.place)
    try:
        document = _load(path)
    except BadRow as bad:
        yield bad.at(part.source, path.name)
        return
    for place, article in _objects(document, "data", f"{path.name}:"):
        for place, paragraph in _objects(article, "paragraphs", f"{place}."):
            for place, question in _objects(paragraph, "qas", f"{place}."):
                try:
                    yield _row(part, place, paragraph, question)
                except BadRow as bad:
                    yield bad.at(part.source, place)
