"""Sphinx extension: what a screen reader needs and the theme or an extension leaves out of the finished pages."""

import re
from pathlib import Path

from sphinx.application import Sphinx

REPAIRS = [
    # sphinxcontrib-bibtex's reference list: children of a list must be list items.
    (re.compile(r'role="doc-biblioentry"'), 'role="listitem"'),
    # pandas leaves the header of an index column empty: an empty header names nothing.
    (re.compile(r"<th(?:\s[^>]*)?>\s*</th>"), "<td></td>"),
    # The theme's search buttons are icons without a name.
    (re.compile(r'<button class="([^"]*\bsearch-button\b[^"]*)"(?![^>]*aria-label)'),
     r'<button aria-label="Search" class="\1"'),
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
