"""Ten small corpora in ten formats, as users have them: 24 items in English and German, or in English only."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ITEMS = 24
LANGUAGES = ("de", "en")
THINGS = (
    "key cup hat map pen bag box lamp ring coat shoe book bell boat drum fork horn kite leaf nail oven pump rope sail"
)


def pair(language: str, item: int) -> tuple[str, str]:
    """Return the question and passage of an item; a passage has a comma and quotes."""
    thing = THINGS.split()[item]
    if language == "de":
        return f"Wo ist {thing} Nummer {item}?", f'Nummer {item}, das ist "{thing}", liegt in Regal {item % 7}.'
    return f"Where is the {thing}, number {item}?", f'Number {item}, the "{thing}", is on shelf {item % 7}.'


def _write_rows(file: Path, header: Iterable[str], rows: Iterable[Iterable[object]], delimiter: str = ",") -> None:
    with file.open("w", encoding="utf-8-sig", newline="") as opened:
        csv.writer(opened, delimiter=delimiter).writerows([list(header), *map(list, rows)])


def _write_lines(file: Path, records: Iterable[Mapping[str, object]]) -> None:
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def csv_with_ids(folder: Path) -> None:
    for language in LANGUAGES:
        _write_rows(
            folder / f"{language}.csv",
            ("id", "question", "context"),
            ((n, *pair(language, n)) for n in reversed(range(ITEMS))),
            ";",
        )


def csv_with_unusual_columns(folder: Path) -> None:
    for language in LANGUAGES:
        rows = ((f"R{n}", *pair(language, n)) for n in range(ITEMS))
        _write_rows(folder / f"faq-{language}.csv", ("Blatt", "Frage", "Antwort"), rows)


def tsv_without_header(folder: Path) -> None:
    for language in LANGUAGES:
        text = "".join("\t".join(pair(language, n)) + "\n" for n in range(ITEMS))
        (folder / f"{language}.tsv").write_text(text, encoding="utf-8")


def jsonl_with_a_column_of_languages(folder: Path) -> None:
    records = (
        {"key": n, "lang": language, "query": pair(language, n)[0], "answer": pair(language, n)[1]}
        for language in LANGUAGES
        for n in range(ITEMS)
    )
    _write_lines(folder / "all.jsonl", records)


def triplets_of_sentence_transformers(folder: Path) -> None:
    names = ("anchor", "positive", "negative")
    for language in LANGUAGES:
        texts = ((*pair(language, n), pair(language, (n + 1) % ITEMS)[1]) for n in range(ITEMS))
        _write_lines(folder / f"train.{language}.jsonl", (dict(zip(names, row, strict=True)) for row in texts))


def parquet_with_a_column_of_languages(folder: Path) -> None:
    rows = [(n, language, *pair(language, n)) for n in range(ITEMS) for language in LANGUAGES]
    columns = dict(zip(("id", "language", "sentence1", "sentence2"), zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), folder / "train.parquet")


def data_set_on_disk(folder: Path) -> None:
    import datasets

    rows = [
        {"id": str(n), "language": language, "question": pair(language, n)[0], "answer": pair(language, n)[1]}
        for n in range(ITEMS)
        for language in LANGUAGES
    ]
    datasets.Dataset.from_list(rows).save_to_disk(str(folder))


def mmarco(folder: Path) -> None:
    for part in ("collection", "queries"):
        (folder / part).mkdir()
    for language, code in (("english", "en"), ("german", "de")):
        for file, side in ((f"collection/{language}_collection", 1), (f"queries/{language}_queries.train", 0)):
            text = "".join(f"{n}\t{pair(code, n)[side]}\n" for n in range(ITEMS))
            (folder / f"{file}.tsv").write_text(text, encoding="utf-8")
    triples = "".join(f"{n}\t{n}\t{(n + 1) % ITEMS}\n" for n in range(ITEMS))
    (folder / "triples.train.ids.small.tsv").write_text(triples)


def moses(folder: Path) -> None:
    for language in LANGUAGES:
        text = "".join(pair(language, n)[1] + "\n" for n in range(ITEMS))
        (folder / f"corpus.{language}").write_text(text, encoding="utf-8")


def tmx(folder: Path) -> None:
    units = "".join(
        "<tu>" + "".join(f'<tuv xml:lang="{x}"><seg>{pair(x, n)[1]}</seg></tuv>' for x in LANGUAGES) + "</tu>"
        for n in range(ITEMS)
    )
    text = f'<?xml version="1.0"?><tmx version="1.4"><header/><body>{units}</body></tmx>'
    (folder / "memory.tmx").write_text(text, encoding="utf-8")


FOLDERS: Mapping[str, Callable[[Path], None]] = {
    write.__name__: write
    for write in (
        csv_with_ids,
        csv_with_unusual_columns,
        tsv_without_header,
        jsonl_with_a_column_of_languages,
        triplets_of_sentence_transformers,
        parquet_with_a_column_of_languages,
        data_set_on_disk,
        mmarco,
        moses,
        tmx,
    )
}
