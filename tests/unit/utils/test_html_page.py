"""A page is one file that loads nothing, whatever its texts contain."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from hbt_ray.utils.html_page import Cell, _environment, heat_cell, image_source, render_page
from tests.helpers.html_pages import read_page

TEMPLATE = """{% extends "base.html.jinja" %}
{% import "macros.html.jinja" as page %}
{% block body %}<h1>{{ title }}</h1>
{{ page.tiles([(text, "0.5", text)]) }}{{ page.pairs([(text, text)]) }}{{ page.warnings([text]) }}
{{ page.table([text, "value"], [[text, cell], [text, "2"]]) }}{% endblock %}
"""
NASTY = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'--><!-- {{ 7*7 }} ]]>",
    "\u202eabc\u202c\x1b[31m\x00\ud800",
    "a" * 5000,
]


def render(text: str) -> str:
    template = _environment("hbt_ray.utils").from_string(TEMPLATE)
    cell = Cell(text=text, note=text, bar=0.25, interval=(0.1, 0.2, 0.5), is_best=True)
    return template.render(title=text, text=text, cell=cell)


@given(st.text() | st.sampled_from(NASTY))
def test_any_text_is_shown_as_text(text: str):
    page = read_page(render(text))
    assert page.tables[0][1][0] == page.tables[0][2][0]
    assert page.text.count("2") >= 1
    words = [word for word in text.split() if word.isprintable()]
    assert all(word in page.text for word in words)


@pytest.mark.parametrize("text", NASTY)
def test_controls_and_brackets_do_not_reach_the_page(text: str):
    html = render(text)
    assert not re.search("[\u202e\x1b\x00]", html)
    assert html.count("<script") == html.count("</script") == 1
    assert "49" not in read_page(html).text


def test_macros_write_bars_and_intervals_in_percent():
    html = render("text")
    assert '<i style="width:25.0%"></i>' in html
    assert '<i style="left:10.0%;width:40.0%"></i><b style="left:20.0%"></b>' in html
    assert "<b>text</b>" in html


def test_markup_is_not_escaped_and_images_are_in_the_page(tmp_path: Path):
    (tmp_path / "one.png").write_bytes(b"\x89PNG")
    source = image_source(tmp_path / "one.png")
    assert source == "data:image/png;base64,iVBORw=="
    html = render_page("hbt_ray.study", "report.html.jinja", title="a", body=Markup(f'<img src="{source}">'))
    assert read_page(html).attributes[-1] == ("img", "src", source)


def test_colours_of_a_heat_map_span_the_scale_and_stay_legible():
    assert heat_cell("0", 0).background == heat_cell("0", -1).background == "#ffffd9"
    assert heat_cell("1", 1).background == heat_cell("1", 7).background == "#081d58"
    assert (heat_cell("0", 0).colour, heat_cell("1", 1).colour) == ("#20303c", "#ffffff")
    assert heat_cell("0", 0.5, diverging=True).background == "#f7f7f7"
    assert heat_cell("", 0.125).background == "#e3f4c6"  # halfway between the first two
