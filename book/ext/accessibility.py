"""Sphinx extension: what a screen reader needs and the theme or an extension leaves out of the finished pages."""

import re
from pathlib import Path

from sphinx.application import Sphinx

REPAIRS = [
    # sphinxcontrib-bibtex's reference list: children of a list must be list items.
    (re.compile(r'role="doc-biblioentry"'), 'role="listitem"'),
    # An empty table header names nothing; pandas leaves one above its index, and so do tables without a corner.
    (re.compile(r"<th(?:\s[^>]*)?>(?:\s|<p>|</p>)*</th>"), "<td></td>"),
    # The theme's search button is an icon without a name.
    (re.compile(r'<button class="([^"]*(?<![\w-])search-button(?![\w-])[^"]*)"(?![^>]*aria-label)'),
     r'<button aria-label="Search" class="\1"'),
    # … and its search field is named otherwise than it reads.
    (re.compile(r'(<button class="[^"]*(?<![\w-])search-button-field(?![\w-])[^>]*?) aria-label="Search"'), r"\1"),
    # The theme's logo stands outside of any region of the page.
    (re.compile(r'<div class="sidebar-primary-item">(?=\s*<a class="navbar-brand)'),
     '<div class="sidebar-primary-item" role="navigation" aria-label="Book">'),
    # A scrolling region must be reachable by keyboard.
    (re.compile(r'<div class="(pst-scrollable-table-container|output text_html)"(?![^>]*tabindex)'),
     r'<div class="\1" tabindex="0"'),
]


def repair(html: str) -> str:
    """The page with every repair made; a second time changes nothing."""
    for pattern, replacement in REPAIRS:
        html = pattern.sub(replacement, html)
    return html


def repair_pages(app: Sphinx, error: Exception | None) -> None:
    """Repair the pages of a finished HTML build in place."""
    if error is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            page.write_text(repair(page.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app: Sphinx) -> dict:
    app.connect("build-finished", repair_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
