"""Write `cldr.json` from the installed `babel`: `python -m hbt_ray.data.corpora.embedded.freeze_cldr`.

The corpus, and every result on it, changes with the file. To take the facts of another CLDR, install the version of
`babel` that has them, run this, and state the new counts in the tests and results.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from babel.core import get_cldr_version

from hbt_ray.data.corpora.embedded.cldr_facts import all_facts
from hbt_ray.data.corpora.embedded.cldr_names import name_in
from hbt_ray.data.corpora.embedded.dataset import LANGUAGES
from hbt_ray.data.corpora.embedded.facts import Entity

LICENCE = "Unicode License V3, https://www.unicode.org/license.txt; copyright 2004-2025 Unicode, Inc."


def extract_cldr() -> dict[str, object]:
    """Return the facts whose entities have names in every language, and these names in the order of the entities."""
    facts = [fact for fact in all_facts() if _is_named(fact.subject) and _is_named(fact.value)]
    entities = sorted({entity for fact in facts for entity in fact[1:] if entity.entity_type != "direction"})
    return {
        "cldr": get_cldr_version(),
        "source": f"babel {version('babel')}",
        "licence": LICENCE,
        "facts": [[fact.relation, ":".join(fact.subject), ":".join(fact.value)] for fact in facts],
        "entities": [":".join(entity) for entity in entities],
        "names": {language: [name_in(language, entity) for entity in entities] for language in LANGUAGES},
    }


def _is_named(entity: Entity) -> bool:
    """Return True for an entity with a name in every language; the templates have those of directions."""
    return entity.entity_type == "direction" or all(name_in(language, entity) for language in LANGUAGES)


if __name__ == "__main__":
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in extract_cldr().items()]
    Path(__file__).with_name("cldr.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
