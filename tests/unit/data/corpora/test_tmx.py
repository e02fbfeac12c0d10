"""Translation memories."""

from __future__ import annotations

from pathlib import Path

from hbt_ray.data.types import CorpusRow, RejectedRow
from tests.helpers.corpus_files import corpus, only_reject, read

UNITS = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en"/><body>
<tu tuid="x"><tuv xml:lang="en-US"><seg>A <bpt i="1">&lt;b></bpt><hi>red</hi><ept i="1">&lt;/b></ept> dog.</seg></tuv>
<tuv xml:lang="DE"><seg>Ein roter Hund.</seg></tuv></tu>
<tu><tuv lang="en"><seg>A cat.</seg></tuv><tuv xml:lang="klingon"><seg>x</seg></tuv>
<tuv xml:lang="de"><seg> </seg></tuv></tu>
</body></tmx>"""


def test_units_of_a_memory_are_items_in_their_languages(tmp_path: Path):
    (tmp_path / "memory.tmx").write_text(UNITS)
    rows = read(corpus("tmx", tmp_path))
    assert [(r.item_id, r.language, r.question, r.passage) for r in rows if isinstance(r, CorpusRow)] == [
        ("1", "en-US", "A red dog.", "A red dog."),
        ("1", "de", "Ein roter Hund.", "Ein roter Hund."),
        ("2", "en", "A cat.", "A cat."),
    ]
    assert [(r.location, r.reason) for r in rows if isinstance(r, RejectedRow)] == [
        ("memory.tmx:2", "not a language code"),
        ("memory.tmx:2", "missing passage"),
    ]


def test_only_chosen_languages_of_a_memory_are_read(tmp_path: Path):
    (tmp_path / "memory.tmx").write_text(UNITS)
    rows = read(corpus("tmx", tmp_path / "memory.tmx", languages=["en"]))
    assert [row.language for row in rows if isinstance(row, CorpusRow)] == ["en"]


def test_broken_memory_ends_in_a_reject_after_its_whole_units(tmp_path: Path):
    (tmp_path / "memory.tmx").write_text(UNITS[: UNITS.index("<tu><tuv lang")] + "<tu><tuv>")
    *rows, last = read(corpus("tmx", tmp_path))
    assert len(rows) == 2
    assert only_reject([last]).reason == "unreadable file"


def test_entities_that_grow_without_end_are_a_reject(tmp_path: Path):
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    unit = '<tmx><body><tu><tuv xml:lang="en"><seg>&e11;</seg></tuv></tu></body></tmx>'
    (tmp_path / "memory.tmx").write_text(f'<!DOCTYPE tmx [<!ENTITY e0 "ha">{entities}]>{unit}')
    assert only_reject(read(corpus("tmx", tmp_path))).reason == "unreadable file"
