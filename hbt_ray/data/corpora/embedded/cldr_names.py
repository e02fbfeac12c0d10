"""Names of entities in a language, from CLDR; read by `freeze_cldr.py` only."""

from __future__ import annotations

from functools import cache

from babel import Locale

from hbt_ray.data.corpora.embedded.cldr_facts import zone_ids
from hbt_ray.data.corpora.embedded.facts import Entity

_IN_LATIN_LETTERS = frozenset({"de", "en", "es", "fr", "sw", "tr", "vi"})
_ZERO_OF_DIGITS = {"arab": "٠", "arabext": "۰", "beng": "০", "deva": "०", "thai": "๐"}


def name_in(language: str, entity: Entity) -> str | None:
    """Return the entity's name; None if CLDR has none in this language, or only the English one."""
    name = _Names.of(language).name(entity)
    may_equal_english = language in _IN_LATIN_LETTERS or entity.entity_type == "year"
    return name if may_equal_english or name != _Names.of("en").name(entity) else None


class _Names:
    def __init__(self, language: str) -> None:
        self._language = language
        self._locale = Locale(language)
        self._tables = {
            "territory": self._locale.territories,
            "language": self._locale.languages,
            "script": self._locale.scripts,
            "currency": self._locale.currencies,
        }

    @staticmethod
    @cache
    def of(language: str) -> _Names:
        return _Names(language)

    def name(self, entity: Entity) -> str | None:
        entity_type, code = entity
        if entity_type in self._tables:
            return self._tables[entity_type].get(code)
        if entity_type == "time_zone":
            return self._locale.meta_zones.get(code, {}).get("long", {}).get("standard")
        if entity_type == "place":
            return self._place(code)
        if entity_type == "weekdays":
            return self._weekdays(code)
        if entity_type == "year":
            return self._year(code)
        raise AssertionError(f"no names for {entity_type}")

    def _place(self, zone: str) -> str | None:
        zones = self._locale.time_zones
        for zone_id in zone_ids(zone):
            city = zones.get(zone_id, {}).get("city")
            if city:
                return str(city)
        # CLDR omits the name of a place if it is spelt like the id of its time zone.
        return zone.rpartition("/")[2].replace("_", " ") if self._language in _IN_LATIN_LETTERS else None

    def _weekdays(self, code: str) -> str:
        # The names for use in a date ("format"). In babel 2.18 the others leak into languages that are loaded later.
        names = self._locale.days["format"]["wide"]
        days = [names[int(day)] for day in code.split("-")]
        return days[0] if len(days) == 1 else self._locale.list_patterns["standard"]["2"].format(*days)

    def _year(self, code: str) -> str:
        zero = ord(_ZERO_OF_DIGITS.get(self._locale.default_numbering_system, "0"))
        return "".join(chr(zero + int(digit)) for digit in code)
