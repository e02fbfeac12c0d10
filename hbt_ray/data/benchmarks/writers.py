"""Parallel items written as a benchmark in the format in which another is published.

So what reads MIRACL, MLDR, XM3600 or a BEIR set can be tried, and a study gone through, where the published files are
not at hand. What is measured on such files is no figure of the benchmark whose format they have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from hbt_ray.errors import CorpusError

Items = Mapping[str, Mapping[str, tuple[str, str]]]  # item id -> language -> (question, passage)


def write_benchmark(format: str, items: Items, asked: Iterable[str], folder: Path) -> None:
    """Writes files that `load_benchmark(format, folder)` reads.

    Args:
        format: one of `FORMATS`.
        items: all of their passages are in the pools.
        asked: ids of the items whose questions are asked.

    Raises:
        CorpusError: there is no such format.
    """
    if format not in _WRITERS:
        raise CorpusError(f"there is no format {format!r} to write; there are {', '.join(_WRITERS)}")
    folder.mkdir(parents=True, exist_ok=True)
    _WRITERS[format](items, sorted(asked), folder)


def _write_miracl(items: Items, asked: list[str], folder: Path) -> None:
    for language in _languages(items):
        own = _having(items, language)
        _objects(
            folder / f"miracl-corpus-v1.0-{language}" / "docs-0.jsonl",
            ({"docid": f"{n}#0", "title": "", "text": items[item][language][1]} for item, n in own.items()),
        )
        wanted = [item for item in asked if item in own]
        _lines(
            folder / f"topics.miracl-v1.0-{language}-dev.tsv", (f"{own[i]}\t{items[i][language][0]}" for i in wanted)
        )
        _lines(folder / f"qrels.miracl-v1.0-{language}-dev.tsv", (f"{own[i]}\tQ0\t{own[i]}#0\t1" for i in wanted))


def _write_mldr(items: Items, asked: list[str], folder: Path) -> None:
    for language in _languages(items):
        own = _having(items, language)
        location = folder / f"mldr-v1.0-{language}"
        _objects(
            location / "corpus.jsonl", ({"docid": f"doc-{n}", "text": items[i][language][1]} for i, n in own.items())
        )
        _objects(
            location / "test.jsonl",
            (
                {
                    "query_id": f"q-{own[item]}",
                    "query": items[item][language][0],
                    "positive_passages": [{"docid": f"doc-{own[item]}", "text": items[item][language][1]}],
                    "negative_passages": [],
                }
                for item in asked
                if item in own
            ),
        )


def _write_xm3600(items: Items, asked: list[str], folder: Path) -> None:
    """A caption that asks and one that answers: an item's question and passage. Only items that are asked are in."""
    _objects(
        folder / "captions.jsonl",
        (
            {"image/key": item, **{language: {"caption": list(texts)} for language, texts in items[item].items()}}
            for item in asked
        ),
    )


def _write_beir(items: Items, asked: list[str], folder: Path) -> None:
    for language in _languages(items):
        own = _having(items, language)
        location = folder / language
        _objects(
            location / "corpus.jsonl",
            ({"_id": f"p{n}", "title": "", "text": items[i][language][1]} for i, n in own.items()),
        )
        wanted = [item for item in asked if item in own]
        _objects(location / "queries.jsonl", ({"_id": f"q{own[i]}", "text": items[i][language][0]} for i in wanted))
        judged = (f"q{own[item]}\tp{own[item]}\t1" for item in wanted)
        _lines(location / "qrels" / "test.tsv", ("query-id\tcorpus-id\tscore", *judged))


_WRITERS: dict[str, Callable[[Items, list[str], Path], None]] = {
    "miracl": _write_miracl,
    "mldr": _write_mldr,
    "xm3600": _write_xm3600,
    "beir": _write_beir,
}
FORMATS = tuple(_WRITERS)


def _languages(items: Items) -> list[str]:
    return sorted({language for texts in items.values() for language in texts})


def _having(items: Items, language: str) -> dict[str, int]:
    """The items that have a language -> their numbers, which are the same in every language."""
    return {item: number for number, item in enumerate(sorted(items)) if language in items[item]}


def _objects(path: Path, objects: Iterable[object]) -> None:
    _lines(path, (json.dumps(value, ensure_ascii=False) for value in objects))


def _lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
