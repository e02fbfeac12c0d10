"""Facts of CLDR, as `babel` ships it, about territories, languages and places; read by `freeze_cldr.py` only.

The choices are CLDR's: the main language of a territory is the official one that most people know, and the year of a
currency is the first in which it was in use.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

import yaml
from babel import localedata
from babel.core import get_global

from hbt_ray.data.corpora.embedded.facts import Entity, Fact

# Scripts in use that are written horizontally; Mongolian, for one, is written from top to bottom.
_SCRIPTS_OF_DIRECTION = {
    "right_to_left": "Adlm Arab Aran Hebr Nkoo Rohg Syrc Thaa",
    "left_to_right": "Armn Beng Cakm Cans Cher Cyrl Deva Ethi Geor Grek Gujr Guru Khmr Knda Kore Laoo Latn Mlym Mtei "
    "Mymr Olck Orya Sinh Sund Taml Telu Tfng Tibt Vaii Yiii",
}
_DIRECTION_OF_SCRIPT = {
    script: direction for direction, scripts in _SCRIPTS_OF_DIRECTION.items() for script in scripts.split()
}


def all_facts() -> list[Fact]:
    """Return every fact, sorted by item id."""
    facts = [
        *_currency_facts(),
        *_territory_language_facts(),
        *_region_facts(),
        *_time_zone_facts(),
        *_week_facts(),
        *_language_facts(),
        *_place_facts(),
    ]
    return sorted(facts, key=lambda fact: fact.item_id)


@cache
def _regions() -> dict[str, str]:
    """Return territory -> its region of the world, both as CLDR codes."""
    text = files(__package__).joinpath("regions.yaml").read_text(encoding="utf-8")
    # BaseLoader reads every value as text: NO is Norway, not false.
    members: dict[str, str] = yaml.load(text, Loader=yaml.BaseLoader)
    return {territory: region for region, codes in members.items() for territory in codes.split()}


def _currency_facts() -> Iterator[Fact]:
    for territory in _regions():
        tender = _tender(territory)
        if tender:
            currency, since = tender
            yield Fact("currency", Entity("territory", territory), Entity("currency", currency))
            yield Fact("currency_since", Entity("territory", territory), Entity("year", str(since)))


def _tender(territory: str) -> tuple[str, int] | None:
    """Return the currency and its first year; None unless exactly one legal tender is in use."""
    periods = get_global("territory_currencies").get(territory, [])
    current = [(code, start) for code, start, end, is_tender in periods if end is None and is_tender]
    if len(current) != 1 or current[0][1] is None:
        return None
    (code, start) = current[0]
    return code, start[0]


def _territory_language_facts() -> Iterator[Fact]:
    for territory in _regions():
        language = _main_language(territory)
        if language:
            yield Fact("language", Entity("territory", territory), Entity("language", language))
            script = _script(language, territory)
            if script:
                yield Fact("script", Entity("territory", territory), Entity("script", script))


def _main_language(territory: str) -> str | None:
    """Return the official language that most people know; None if two tie or none is official."""
    percents = [
        (about["population_percent"], language)
        for language, about in get_global("territory_languages").get(territory, {}).items()
        if about["official_status"] in {"official", "de_facto_official"}
    ]
    percents.sort(reverse=True)
    if not percents or (len(percents) > 1 and percents[0][0] == percents[1][0]):
        return None
    return str(percents[0][1]).partition("_")[0]


def _script(language: str, territory: str = "") -> str | None:
    likely = get_global("likely_subtags")
    tag = likely.get(f"{language}_{territory}") or likely.get(language)
    if tag is None:
        return None
    script = str(tag.split("_")[1])
    # Some languages call these two only "simplified" and "traditional", without the name of the script.
    return "Hani" if script in {"Hans", "Hant"} else script


def _region_facts() -> Iterator[Fact]:
    for territory, region in _regions().items():
        yield Fact("region", Entity("territory", territory), Entity("territory", region))


def _time_zone_facts() -> Iterator[Fact]:
    zones_of_territory = get_global("territory_zones")
    for territory in _regions():
        groups = {_zone_group(zone) for zone in zones_of_territory.get(territory, [])}
        group = (
            groups.pop() if len(groups) == 1 else None
        )  # a question about a territory with several has no single answer
        if group:
            yield Fact("time_zone", Entity("territory", territory), Entity("time_zone", group))


def _zone_group(zone: str) -> str | None:
    """Return the metazone, CLDR's group of zones that share the name of their time: "Europe_Central"."""
    group_of_zone = get_global("meta_zones")
    return next((group_of_zone[zone_id] for zone_id in zone_ids(zone) if zone_id in group_of_zone), None)


def _week_facts() -> Iterator[Fact]:
    default = localedata.load("root")["week_data"]
    for territory, entries in sorted(_week_data().items()):
        week = {key: entries.get(key, default[key]) for key in ("first_day", "weekend_start", "weekend_end")}
        subject = Entity("territory", territory)
        yield Fact("first_day", subject, Entity("weekdays", str(week["first_day"])))
        days = sorted({week["weekend_start"], week["weekend_end"]})
        if len(days) == 1 or days[1] - days[0] == 1:
            yield Fact("weekend", subject, Entity("weekdays", "-".join(map(str, days))))


def _week_data() -> dict[str, dict[str, int]]:
    """Return territory -> its week, which babel stores with the locales of the territory."""
    weeks = {}
    for locale in sorted(localedata.locale_identifiers()):
        territory = locale.rpartition("_")[2]
        if territory in _regions() and territory not in weeks:
            weeks[territory] = localedata.load(locale, merge_inherited=False).get("week_data", {})
    return weeks


def _language_facts() -> Iterator[Fact]:
    for language in localedata.load("en")["languages"]:
        tag = get_global("likely_subtags").get(language)
        script = _script(language)
        if "_" in language or tag is None or script is None:
            continue
        subject = Entity("language", language)
        yield Fact("written_in", subject, Entity("script", script))
        if script in _DIRECTION_OF_SCRIPT:
            yield Fact("direction", subject, Entity("direction", _DIRECTION_OF_SCRIPT[script]))
        home = tag.split("_")[2]
        # If the territory's main language is this one, its `language/<territory>` item answers the same question.
        if home in _regions() and _main_language(home) != language:
            yield Fact("home", subject, Entity("territory", home))


def _place_facts() -> Iterator[Fact]:
    for zone, territory in get_global("zone_territories").items():
        if territory not in _regions():
            continue
        subject = Entity("place", zone)
        yield Fact("country", subject, Entity("territory", territory))
        tender = _tender(territory)
        if tender:
            yield Fact("place_currency", subject, Entity("currency", tender[0]))


def zone_ids(zone: str) -> list[str]:
    """Return a zone's id and its former ids, which CLDR may still use: Asia/Kolkata was Asia/Calcutta."""
    return [zone, *_former_zone_ids().get(zone, [])]


@cache
def _former_zone_ids() -> dict[str, list[str]]:
    former = defaultdict(list)
    for alias, zone in get_global("zone_aliases").items():
        former[zone].append(alias)
    return dict(former)
