"""Read a page of results as a browser does, and check what it must never do."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

TAGS_WITHOUT_END = {"meta", "img", "br", "hr"}
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "script", "h1", "h2", "h3", "p", "a", "b", "i", "em", "strong"),
    *("small", "span", "div", "bdi", "ul", "ol", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td"),
    *("details", "summary", "figure", "figcaption", "img", "pre", "code", "br", "section"),
}


class PageReader(HTMLParser):
    """Collects tags, attributes, tables, and the texts outside of style and script."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []  # tag, attribute, value
        self.open: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.tables: list[list[list[str]]] = []  # rows of cells

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in TAGS_WITHOUT_END:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"th", "td"}:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in TAGS_WITHOUT_END:
            return
        assert self.open.pop() == tag, f"{tag} ends where another is open"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
            return
        if self.open and self.open[-1] == "style":
            assert not re.search(r"@import|url\(", data)
            return
        self.text += data
        if {"th", "td"} & set(self.open):
            self.tables[-1][-1][-1] += data


def read_page(html: str) -> PageReader:
    """Parse a page, and fail if it loads anything, runs anything but its one script, or has unknown tags."""
    page = PageReader()
    page.feed(html)
    page.close()
    assert not page.open, f"{page.open} have no end"
    assert set(page.tags) <= ALLOWED, set(page.tags) - ALLOWED
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in {"src", "href", "srcset", "action", "data", "poster", "background", "xlink:href"}:
            assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value[:60])
        if name == "style":
            assert "url(" not in value, value
    [script] = page.scripts
    [policy] = [value for tag, _, value in page.attributes if tag == "meta" and "default-src" in value]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy
    return page
