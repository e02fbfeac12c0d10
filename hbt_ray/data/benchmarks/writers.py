"""Write parallel items in the published format of a benchmark.

With such files the readers of MIRACL, MLDR, XM3600 and BEIR, and studies that use them, can be tried without the
published files. A metric on them is no result on the benchmark whose format they have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from hbt_ray.errors import CorpusError

Items = Mapping[str, Mapping[str, tuple[str, str]]]  # item id -> language -> (question, passage)


def write_benchmark(format: str, items: Items, query_items: Iterable[str], folder: Path) -> None:
    """Write files that `load_benchmark(format, folder)` reads.

    Args:
        format: one of `FORMATS`.
        items: all of their passages are in the pools.
        query_items: ids of the items whose questions are queries.
        folder: of the files.

    Raises:
        CorpusError: there is no such format.
    """
    if format not in _WRITERS:
        raise CorpusError(f"there is no format {format!r} to write; there are {', '.join(_WRITERS)}")
    folder.mkdir(parents=True, exist_ok=True)
    _WRITERS[format](items, sorted(query_items), folder)


def _write_miracl(items: Items, query_items: list[str], folder: Path) -> None:
    for language in _languages(items):
        numbers = _item_numbers(items, language)
        _write_objects(
            folder / f"miracl-corpus-v1.0-{language}" / "docs-0.jsonl",
            ({"docid": f"{n}#0", "title": "", "text": items[item][language][1]} for item, n in numbers.items()),
        )
        queries = [item for item in query_items if item in numbers]
        _write_lines(
            folder / f"topics.miracl-v1.0-{language}-dev.tsv",
            (f"{numbers[item]}\t{' '.join(items[item][language][0].split())}" for item in queries),
        )
        _write_lines(
            folder / f"qrels.miracl-v1.0-{language}-dev.tsv",
            (f"{numbers[item]}\tQ0\t{numbers[item]}#0\t1" for item in queries),
        )


def _write_mldr(items: Items, query_items: list[str], folder: Path) -> None:
    for language in _languages(items):
        numbers = _item_numbers(items, language)
        language_folder = folder / f"mldr-v1.0-{language}"
        _write_objects(
            language_folder / "corpus.jsonl",
            ({"docid": f"doc-{n}", "text": items[item][language][1]} for item, n in numbers.items()),
        )
        _write_objects(
            language_folder / "test.jsonl",
            (
                {
                    "query_id": f"q-{numbers[item]}",
                    "query": items[item][language][0],
                    "positive_passages": [{"docid": f"doc-{numbers[item]}", "text": items[item][language][1]}],
                    "negative_passages": [],
                }
                for item in query_items
                if item in numbers
            ),
        )


def _write_xm3600(items: Items, query_items: list[str], folder: Path) -> None:
    """Write an item's question and passage as two captions of an image. Only the query items are written."""
    _write_objects(
        folder / "captions.jsonl",
        (
            {"image/key": item, **{language: {"caption": list(texts)} for language, texts in items[item].items()}}
            for item in query_items
        ),
    )


def _write_beir(items: Items, query_items: list[str], folder: Path) -> None:
    for language in _languages(items):
        numbers = _item_numbers(items, language)
        set_folder = folder / language
        _write_objects(
            set_folder / "corpus.jsonl",
            ({"_id": f"p{n}", "title": "", "text": items[item][language][1]} for item, n in numbers.items()),
        )
        queries = [item for item in query_items if item in numbers]
        _write_objects(
            set_folder / "queries.jsonl",
            ({"_id": f"q{numbers[item]}", "text": items[item][language][0]} for item in queries),
        )
        judgements = (f"q{numbers[item]}\tp{numbers[item]}\t1" for item in queries)
        _write_lines(set_folder / "qrels" / "test.tsv", ("query-id\tcorpus-id\tscore", *judgements))


_WRITERS: dict[str, Callable[[Items, list[str], Path], None]] = {
    "miracl": _write_miracl,
    "mldr": _write_mldr,
    "xm3600": _write_xm3600,
    "beir": _write_beir,
}
FORMATS = tuple(_WRITERS)


def _languages(items: Items) -> list[str]:
    return sorted({language for texts in items.values() for language in texts})


def _item_numbers(items: Items, language: str) -> dict[str, int]:
    """Return item -> number of the items in a language. An item has the same number in every language."""
    return {item: number for number, item in enumerate(sorted(items)) if language in items[item]}


def _write_objects(path: Path, objects: Iterable[object]) -> None:
    _write_lines(path, (json.dumps(value, ensure_ascii=False) for value in objects))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
