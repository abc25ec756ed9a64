"""What must hold before a notebook or a site counts as finished. Each gate returns its faults, one sentence each."""

import re
from pathlib import Path

import yaml
from chapters import read_json

PAPERMILL_MARK = "papermill-error-cell-tag"
LOADS = re.compile(r"<(?:script|img|iframe|source|video|audio)\b[^>]*\ssrc=[\"']((?:https?:)?//[^\"']+)"
                   r"|<link\b(?=[^>]*\srel=[\"'](?:stylesheet|preload|icon|shortcut icon))[^>]*\shref=[\"']((?:https?:)?//[^\"']+)")
STYLE_LOADS = re.compile(r"(?:url\(\s*[\"']?|@import\s+[\"'])((?:https?:)?//[^\"')]+)")


def notebook_faults(path: Path) -> list[str]:
    """A traceback in it, a cell that never ran, or Papermill's mark of a failed run."""
    notebook = read_json(path)
    faults = []
    if notebook["metadata"].get("papermill", {}).get("exception"):
        faults.append(f"{path.name}: Papermill marks this run as failed")
    for number, cell in enumerate(notebook["cells"]):
        faults += [f"{path.name}, cell {number}: {fault}" for fault in cell_faults(cell)]
    return faults


def cell_faults(cell: dict) -> list[str]:
    """Faults of one cell; a code cell without text needs no run."""
    if PAPERMILL_MARK in cell["metadata"].get("tags", []):
        return ["Papermill's mark of a failed run"]
    if cell["cell_type"] != "code" or not "".join(cell["source"]).strip():
        return []
    errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
    faults = [f"{error['ename']}: {error['evalue']}" for error in errors]
    return faults + (["never ran"] if cell["execution_count"] is None else [])


def toc_pages(toc: Path) -> list[str]:
    """The pages that _toc.yml names, without ending, in its order."""
    content = yaml.safe_load(toc.read_text(encoding="utf-8"))
    pages = [content["root"]]
    for part in [content, *content.get("parts", [])]:
        for chapter in part.get("chapters", []):
            pages += [chapter["file"], *(section["file"] for section in chapter.get("sections", []))]
    return pages


def site_faults(html: Path, toc: Path) -> list[str]:
    """A page of the table of contents that the site lacks."""
    return [f"{page}: the site lacks this page" for page in toc_pages(toc) if not (html / f"{page}.html").exists()]


def loads_from_elsewhere(html: Path) -> list[str]:
    """Scripts, styles, fonts and images that a page of the site would fetch from another host."""
    found = []
    for page in html.rglob("*.html"):
        found += [f"{page.relative_to(html)}: {a or b}" for a, b in LOADS.findall(page.read_text(encoding="utf-8"))]
    for style in html.rglob("*.css"):
        found += [f"{style.relative_to(html)}: {url}" for url in STYLE_LOADS.findall(style.read_text(encoding="utf-8"))]
    return found
