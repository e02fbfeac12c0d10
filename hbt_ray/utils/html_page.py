"""HTML pages of results: one file each, which loads nothing and runs no script but the one that sorts tables.

All pages extend `templates/base.html.jinja`, which has the style, the script and a Content-Security-Policy that admits
nothing else. A text is escaped, and its control characters are replaced, wherever a template prints it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup

from hbt_ray.utils.display_text import printable

PAGE = "report.html"
_SEQUENTIAL = ("#ffffd9", "#c7e9b4", "#41b6c4", "#225ea8", "#081d58")  # ColorBrewer's YlGnBu, from low to high
_MAX_LABELLED = 20  # columns of a heat map; above it its cells are too small for numbers
_DIVERGING = ("#b2182b", "#f4a582", "#f7f7f7", "#92c5de", "#2166ac")  # ColorBrewer's RdBu


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell of a table that is more than a text."""

    text: str
    sort_by: float | None = None  # None: the number that the text begins with
    note: str = ""  # shown while the pointer is on the cell
    is_best: bool = False
    bar: float | None = None  # length of a bar below the text, 0 to 1
    interval: tuple[float, float, float] | None = None  # low, middle and high below the text, each 0 to 1
    background: str = ""
    colour: str = ""


Rows = list[list[str | Cell]]  # of a table; the first cell of a row is its heading


def render_page(package: str, template: str, **values: object) -> str:
    """Render a template of a package's folder `templates`, which extends `base.html.jinja`.

    Args:
        package: such as "hbt_ray.study".
        template: file name.
        **values: of the template; `title` is needed. Texts are escaped unless they are `Markup`.
    """
    return _environment(package).get_template(template).render(**values)


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("hbt_ray.utils")]),
        autoescape=True,
        finalize=lambda value: printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    folder = files("hbt_ray.utils") / "templates"
    script = (folder / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals |= {
        "script": Markup(script),
        "script_hash": Markup(f"sha256-{digest}"),
        "style": Markup((folder / "page.css").read_text(encoding="utf-8")),
    }
    return environment


def image_source(file: Path) -> str:
    """Return the `src` of an image that is in the page itself, from a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def heat_map(
    values: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    low: float,
    high: float,
    text_of: Callable[[float], str],
    note_of: Callable[[str, str, float], str],
    diverging: bool = False,
) -> Rows:
    """Return the rows of a table that is a heat map, each with its name first; cells of NaN are empty.

    Args:
        values: (rows, columns).
        rows: their names.
        columns: their names.
        low: value of the lowest colour, and of all below it.
        high: value of the highest colour, and of all above it.
        text_of: text of a value. With more than 20 columns, cells have none.
        note_of: what is shown while the pointer is on a cell: (row, column, value) -> text.
        diverging: use a scale with a neutral middle.
    """
    found: Rows = []
    for row, of_row in zip(rows, values.tolist(), strict=True):
        cells: list[str | Cell] = [row]
        for column, value in zip(columns, of_row, strict=True):
            text = text_of(value) if len(columns) <= _MAX_LABELLED and not np.isnan(value) else ""
            share = (value - low) / ((high - low) or 1.0)
            cells.append(
                Cell(text="")
                if np.isnan(value)
                else heat_cell(text, share, note=note_of(row, column, value), diverging=diverging)
            )
        found.append(cells)
    return found


def short_share(value: float, *, sign: bool = False) -> str:
    """Return a share, or with a sign the difference of two, with two digits and without the zero before the point.

    >>> short_share(0.438), short_share(1.0), short_share(-0.05, sign=True), short_share(0.004, sign=True)
    ('.44', '1.0', '−.05', '.00')
    """
    size = abs(value)
    text = f"{size:.2f}".removeprefix("0") if size < 0.995 else f"{size:.1f}"
    return text if text == ".00" else ("−" if value < 0 else "+" if sign else "") + text


def heat_cell(text: str, share: float, *, note: str = "", diverging: bool = False) -> Cell:
    """Return a cell of a heat map.

    Args:
        text: of the cell.
        share: where its value is between the lowest colour, 0, and the highest, 1; clipped.
        note: shown while the pointer is on the cell.
        diverging: 0.5 is neutral.
    """
    background = _interpolate(_DIVERGING if diverging else _SEQUENTIAL, min(max(share, 0.0), 1.0))
    red, green, blue = background
    is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140  # luma of ITU-R BT.601
    return Cell(
        text=text, note=note, background="#" + bytes(background).hex(), colour="#ffffff" if is_dark else "#20303c"
    )


def _interpolate(colours: Sequence[str], share: float) -> tuple[int, int, int]:
    position = share * (len(colours) - 1)
    first = min(int(position), len(colours) - 2)
    one, other = (bytes.fromhex(colour[1:]) for colour in colours[first : first + 2])
    red, green, blue = (round(a + (b - a) * (position - first)) for a, b in zip(one, other, strict=True))
    return red, green, blue
