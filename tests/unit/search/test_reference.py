"""The tables of README.md."""

from __future__ import annotations

from hbt_ray.search.reference import reference
from tests.helpers.paths import PACKAGE


def test_reference_in_the_readme_is_printed_from_the_registry():
    readme = (PACKAGE / "search" / "README.md").read_text(encoding="utf-8")
    written = readme.partition("<!-- reference -->\n\n")[2]
    assert written == reference(), "python -m hbt_ray.search.reference prints it"
