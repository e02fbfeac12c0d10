"""What CLDR calls an entity in a language."""

from __future__ import annotations

from functools import cache

from babel import Locale

from hbt_ray.data.corpora.embedded.cldr_facts import Entity, zone_ids

_IN_LATIN_LETTERS = frozenset({"de", "en", "es", "fr", "sw", "tr", "vi"})
_ZERO_OF_DIGITS = {"arab": "٠", "arabext": "۰", "beng": "০", "deva": "०", "thai": "๐"}


def name_in(language: str, entity: Entity) -> str | None:
    """The entity's name, or None where CLDR has none in this language: the English one never stands in for it."""
    name = _Names.of(language).name(entity)
    is_english = language not in _IN_LATIN_LETTERS and entity.kind != "year" and name == _Names.of("en").name(entity)
    return None if is_english else name


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
        kind, code = entity
        if kind in self._tables:
            return self._tables[kind].get(code)
        if kind == "time_zone":
            return self._locale.meta_zones.get(code, {}).get("long", {}).get("standard")
        if kind == "place":
            return self._place(code)
        if kind == "weekdays":
            return self._weekdays(code)
        if kind == "year":
            return self._year(code)
        raise AssertionError(f"no names for {kind}")

    def _place(self, zone: str) -> str | None:
        zones = self._locale.time_zones
        for zone_id in zone_ids(zone):
            city = zones.get(zone_id, {}).get("city")
            if city:
                return str(city)
        # CLDR leaves out the name of a place that is spelt like its time zone's id.
        return zone.rpartition("/")[2].replace("_", " ") if self._language in _IN_LATIN_LETTERS else None

    def _weekdays(self, code: str) -> str:
        # Not the "stand-alone" names: in babel 2.18 those of one language leak into others loaded after it.
        names = self._locale.days["format"]["wide"]
        days = [names[int(day)] for day in code.split("-")]
        return days[0] if len(days) == 1 else self._locale.list_patterns["standard"]["2"].format(*days)

    def _year(self, code: str) -> str:
        zero = ord(_ZERO_OF_DIGITS.get(self._locale.default_numbering_system, "0"))
        return "".join(chr(zero + int(digit)) for digit in code)
