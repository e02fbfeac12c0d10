"""The facts and names that the embedded corpus is made of, from `cldr.json`.

They are an extract of CLDR, made by `freeze_cldr.py` and kept with the package, so that the corpus is the same with
every version of `babel`.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from hbt_ray.utils.digests import JsonObject


class Entity(NamedTuple):
    """Something with a name in CLDR: Entity("territory", "CH")."""

    entity_type: str
    code: str


class Fact(NamedTuple):
    relation: str  # "currency", the key of its templates
    subject: Entity
    value: Entity

    @property
    def item_id(self) -> str:
        """Relation and subject, "currency/CH"; for a place, the last part of its time zone's id."""
        return f"{self.relation}/{self.subject.code.rpartition('/')[2]}"


def all_facts() -> list[Fact]:
    """Return every fact whose subject and value have a name in each language, sorted by item id."""
    return [
        Fact(relation, Entity(*subject.split(":", 1)), Entity(*value.split(":", 1)))
        for relation, subject, value in _extract()["facts"]
    ]


def name_in(language: str, entity: Entity) -> str | None:
    """Return the entity's name in a language; None if there is none."""
    return _names(language).get(":".join(entity))


def content_fingerprint() -> str:
    """Return 16 hex digits that change with a fact, a name or a template of the corpus."""
    digest = hashlib.sha256()
    folder = files(__package__)
    for file in (folder / "cldr.json", *sorted((folder / "templates").iterdir(), key=lambda file: file.name)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _names(language: str) -> dict[str, str]:
    return dict(zip(_extract()["entities"], _extract()["names"][language], strict=True))


@cache
def _extract() -> JsonObject:
    extract: JsonObject = json.loads((files(__package__) / "cldr.json").read_text(encoding="utf-8"))
    return extract
