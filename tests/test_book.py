"""The book: its gates, its pages, its numbers, and that the published results build."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "workflow"), str(ROOT / "book/ext")]

import accessibility  # noqa: E402
import build  # noqa: E402
import chapters  # noqa: E402
import gates  # noqa: E402
import publish  # noqa: E402

GLUE = re.compile(r"\{glue:text\}`\.\./(notebooks/[\w-]+)\.ipynb::([^`:]+):[^`]*`")
NAMES = list(chapters.CHAPTERS)


def cell(source="1 + 1", count=1, outputs=(), **metadata):
    return nbformat.v4.new_code_cell(source, execution_count=count, outputs=list(outputs), metadata=metadata)


def glued(key, value):
    data = {"application/papermill.record/text/plain": repr(value)}
    metadata = {"scrapbook": {"mime_prefix": "application/papermill.record/", "name": key}}
    return nbformat.v4.new_output("display_data", data=data, metadata=metadata)


def write(path: Path, *cells, papermill=None, title="# Title"):
    path.parent.mkdir(parents=True, exist_ok=True)
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(title), *cells], metadata=kernel)
    if papermill is not None:
        notebook.metadata["papermill"] = papermill
    path.write_text(nbformat.writes(notebook), encoding="utf-8")
    return path


def keys_asked_for() -> dict[str, set[str]]:
    """Glue keys by notebook that the pages of book/ show."""
    asked: dict[str, set[str]] = {}
    for page in (ROOT / "book").glob("*.md"):
        for notebook, key in GLUE.findall(page.read_text(encoding="utf-8")):
            asked.setdefault(notebook.split("/")[1], set()).add(key)
    return asked


def finished_run(folder: Path, glue=True) -> Path:
    """A run folder with a small executed notebook, and every other output, for each chapter."""
    asked = keys_asked_for()
    made = {"parameters": {"inputs": "runs/x", "outputs": "runs/x", "seed": 3}, "duration": 12.34, "exception": None}
    for name in NAMES:
        outputs = [glued(key, 0.987654) for key in sorted(asked.get(name, ()))] if glue else []
        timed = {"start_time": "2026-01-01", "status": "completed"}
        write(folder / f"notebooks/{name}.ipynb", cell(outputs=outputs, papermill=timed), papermill=made, title=f"# {name}")
        for path in chapters.outputs(name)[1:]:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            if path.endswith(".parquet"):
                pd.DataFrame({"text": [name]}).to_parquet(folder / path)
            else:
                (folder / path).write_text("{}" if path.endswith(".json") else name, encoding="utf-8")
    (folder / "cache").mkdir(exist_ok=True)
    (folder / "cache/big.bin").write_text("never published")
    return folder


# Gates

@pytest.mark.parametrize(("cells", "papermill", "fault"), [
    ([cell(outputs=[nbformat.v4.new_output("error", ename="KeyError", evalue="'w'", traceback=[])])], None, "KeyError: 'w'"),
    ([cell(count=None)], None, "cell 1: never ran"),
    ([cell(tags=["papermill-error-cell-tag"])], None, "failed run"),
    ([cell()], {"exception": True}, "Papermill marks this run as failed"),
])
def test_gate_refuses_a_broken_notebook(tmp_path, cells, papermill, fault):
    faults = gates.notebook_faults(write(tmp_path / "broken.ipynb", *cells, papermill=papermill))
    assert len(faults) == 1 and fault in faults[0]


def test_gate_lets_a_finished_notebook_through(tmp_path):
    assert gates.notebook_faults(write(tmp_path / "good.ipynb", cell(), cell(source="", count=None))) == []


def test_gate_finds_a_missing_page(tmp_path):
    toc = tmp_path / "_toc.yml"
    toc.write_text("root: book/a\nparts:\n- caption: c\n  chapters:\n  - file: book/b\n    sections:\n    - file: book/c\n")
    (tmp_path / "book").mkdir()
    (tmp_path / "book/a.html").write_text("")
    assert gates.site_faults(tmp_path, toc) == ["book/b: the site lacks this page", "book/c: the site lacks this page"]


def test_gate_finds_what_comes_from_elsewhere(tmp_path):
    (tmp_path / "a.html").write_text('<a href="https://x.org">read</a><script src="//cdn.org/a.js"></script>'
                                     '<link rel="stylesheet" href="https://x.org/a.css"><link href="https://x.org" rel="next">')
    (tmp_path / "a.css").write_text("@font-face {src: url('https://x.org/f.woff')} a {background: url(local.png)}")
    found = gates.loads_from_elsewhere(tmp_path)
    assert [line.split(": ")[1] for line in found] == ["//cdn.org/a.js", "https://x.org/a.css", "https://x.org/f.woff"]


def test_build_names_missing_notebooks(tmp_path):
    with pytest.raises(chapters.UserError, match="05-reward-accuracy"):
        build.stage(tmp_path, tmp_path / "stage")
    with pytest.raises(chapters.UserError, match="make book"):
        build.stage(tmp_path / "nothing", tmp_path / "stage")


def test_a_laptop_shows_the_heavy_chapters_as_published(tmp_path):
    """A run that left them out would build no book, or one that passes published figures off as its own."""
    run = tmp_path / "run"
    for name in chapters.run_by("laptop"):
        write(run / f"notebooks/{name}.ipynb", cell(), title=f"# {name}")
    staged = build.stage(run, tmp_path / "stage")
    for name in NAMES:
        text = (staged / f"notebooks/{name}.ipynb").read_text(encoding="utf-8")
        assert ("Shown as published" in text) == bool(chapters.CHAPTERS[name].get("heavy")), name
    assert chapters.run_by("full") == NAMES and len(chapters.run_by("laptop")) < len(NAMES)


# Pages

def test_every_page_of_the_contents_exists():
    for page in gates.toc_pages(ROOT / "_toc.yml"):
        assert (ROOT / f"{page}.md").exists() or (ROOT / f"{page}.ipynb").exists(), page


def test_every_page_is_in_the_contents():
    pages = set(gates.toc_pages(ROOT / "_toc.yml"))
    assert {f"book/{path.stem}" for path in (ROOT / "book").glob("*.md")} <= pages
    assert {f"notebooks/{name}" for name in NAMES} == {page for page in pages if page.startswith("notebooks/")}


def test_every_reference_is_cited():
    known = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "book/references.bib").read_text(encoding="utf-8"), re.MULTILINE))
    texts = [path.read_text(encoding="utf-8") for path in [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]]
    cited = {key for text in texts for keys in re.findall(r"\{cite\}`([^`]+)`", text) for key in keys.split(",")}
    assert cited == known


def test_every_equation_that_the_code_names_is_in_the_book():
    """A docstring that points to no equation leaves its reader alone."""
    known = set(re.findall(r":label: (\S+)", (ROOT / "book/methods.md").read_text(encoding="utf-8")))
    named = {(path.name, label) for path in ROOT.glob("irlkit/**/*.py")
             for label in re.findall(r"\beq\. ([a-z-]+)", path.read_text(encoding="utf-8"))}
    assert named and {(file, label) for file, label in named if label not in known} == set()


def test_repairs_for_screen_readers_hold_and_repeat():
    page = ('<div class="citation" role="doc-biblioentry">a</div><th class="head"><p></p></th><th>x</th>'
            '<button class="btn search-button" title="Search"></button><button class="btn search-button-field">Search</button>'
            '<div class="sidebar-primary-item">\n<a class="navbar-brand logo"></a></div><div class="output text_html">t</div>')
    once = accessibility.repair(page)
    assert 'role="listitem"' in once and "<td></td><th>x</th>" in once
    assert once.count('aria-label="Search"') == 1 and 'role="navigation" aria-label="Book"' in once
    assert 'class="output text_html" tabindex="0"' in once
    assert accessibility.repair(once) == once


# Numbers

def test_numbers_in_prose_are_glued_with_a_format():
    for page in (ROOT / "book").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert text.count("{glue:") == len(GLUE.findall(text)), f"{page.name}: glue as ../notebooks/NAME.ipynb::KEY:FORMAT"
    assert set(keys_asked_for()) <= set(NAMES)


def test_a_missing_number_breaks_the_build(tmp_path):
    with pytest.raises(chapters.UserError, match="rlhf.mean_toxicity.expert"):
        build.build(finished_run(tmp_path / "run", glue=False), tmp_path)


def test_a_finished_run_builds(tmp_path):
    index = build.build(finished_run(tmp_path / "run"), tmp_path)
    assert index.exists()
    assert "0.988" in (index.parent / "book/introduction.html").read_text(encoding="utf-8")
    math = (index.parent / "book/methods.html").read_text(encoding="utf-8")
    assert "_static/mathjax/tex-mml-chtml.js" in math and (index.parent / "_static/mathjax/tex-mml-chtml.js").exists()


# Published results

def test_published_results_build(tmp_path):
    assert (build.build(ROOT / "results", tmp_path)).exists()


def test_published_results_hold_what_the_table_lists():
    for name in NAMES:
        missing = [path for path in chapters.outputs(name) if not (ROOT / "results" / path).exists()]
        assert not missing, name
    assert list(chapters.read_json(ROOT / "results/manifest.json")) == NAMES
    publish.check_size(ROOT / "results")
    assert not (ROOT / "results/cache").exists()


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project folder with one finished run of its notebooks, and a build that is only noted."""
    finished_run(tmp_path / "runs/x")
    shutil.copytree(tmp_path / "runs/x/notebooks", tmp_path / "notebooks")
    for module in (publish, build):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(publish, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(publish, "build", lambda folder: (tmp_path / "built").write_text(str(folder)))
    monkeypatch.setattr(publish, "merge_summaries", lambda folder, profile: None)
    return tmp_path


def test_publish_strips_and_records(project):
    (project / "runs/x/logs").mkdir()
    (project / f"runs/x/logs/{NAMES[0]}.commit").write_text("abc123\n")
    publish.publish("x", NAMES)
    first = (project / f"results/notebooks/{NAMES[0]}.ipynb").read_text(encoding="utf-8")
    assert "start_time" not in first and "papermill" not in json.loads(first)["metadata"]
    nbformat.validate(nbformat.reads(first, as_version=4))
    manifest = chapters.read_json(project / "results/manifest.json")
    assert manifest[NAMES[0]] == {"commit": "abc123", "profile": "x", "parameters": {"seed": 3}, "seconds": 12.3}
    assert list(manifest) == NAMES
    assert not (project / "results/cache").exists() and (project / "built").exists()


def test_publishing_twice_changes_nothing(project):
    publish.publish("x", NAMES)
    before = {path: path.read_bytes() for path in (project / "results").rglob("*") if path.is_file()}
    finished_run(project / "runs/x")   # same content, other random cell ids
    publish.publish("x", NAMES)
    assert before == {path: path.read_bytes() for path in (project / "results").rglob("*") if path.is_file()}


def test_prose_is_that_of_the_source_and_code_that_of_the_run(project):
    """A word mended after the run is published with the run's own outputs; changed code would show outputs it did not make."""
    name = NAMES[0]
    first, *rest = nbformat.read(project / f"notebooks/{name}.ipynb", as_version=4).cells
    more = nbformat.v4.new_markdown_cell("A better word.")
    write(project / f"notebooks/{name}.ipynb", more, cell(source=rest[0].source, count=None, tags=["hide-input"]), title="# New title")
    publish.publish("x", [name])
    published = nbformat.read(project / f"results/notebooks/{name}.ipynb", as_version=4).cells
    assert [c.source for c in published] == ["# New title", "A better word.", rest[0].source]
    assert published[2].execution_count == 1 and published[2].metadata.tags == ["hide-input"]
    write(project / f"notebooks/{name}.ipynb", cell(source=rest[0].source), title="# Newer title")
    publish.refresh([name])
    assert nbformat.read(project / f"results/notebooks/{name}.ipynb", as_version=4).cells[0].source == "# Newer title"
    write(project / f"notebooks/{name}.ipynb", cell(source="2 + 2"))
    with pytest.raises(chapters.UserError, match="has other code than the run to be published; run it again"):
        publish.publish("x", [name])


def test_a_default_that_the_run_did_not_use_may_change(project):
    """The laptop's sizes may, without hours of the published run; a value that the run did use may not."""
    name = NAMES[0]

    def notebook(path, default, *injected):
        asked = cell(source=f"seed: int = 0\nprompt_limit: int = {default}  # prompts", tags=["parameters"])
        papermill = nbformat.read(project / f"runs/x/notebooks/{name}.ipynb", as_version=4).metadata.papermill
        write(project / path, asked, *injected, cell(), papermill=papermill)

    notebook(f"runs/x/notebooks/{name}.ipynb", 120, cell(source="prompt_limit = 0", tags=["injected-parameters"]))
    notebook(f"notebooks/{name}.ipynb", 180)
    publish.publish("x", [name])
    published = nbformat.read(project / f"results/notebooks/{name}.ipynb", as_version=4).cells
    assert "= 180" in published[1].source and published[2].source == "prompt_limit = 0"
    notebook(f"runs/x/notebooks/{name}.ipynb", 120)
    with pytest.raises(chapters.UserError, match="other code"):
        publish.publish("x", [name])


def test_published_pictures_are_small_and_look_the_same():
    """A figure of 256 colours must not turn another colour, and publishing twice must not change it again."""
    figure, axes = plt.subplots()
    axes.imshow(np.linspace(0, 1, 400).reshape(20, 20), cmap="viridis")
    axes.set_title("a title")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    plt.close(figure)
    before = base64.b64encode(drawn.getvalue()).decode()
    after = publish.with_few_colours(before)
    assert len(after) < len(before) / 1.5 and publish.with_few_colours(after) == after
    one, other = (np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).astype(int) for text in (before, after))
    assert one.shape == other.shape and np.abs(one - other).max() < 40 and np.abs(one - other).mean() < 2


def test_one_chapter_is_published_alone(project):
    publish.publish("x", [NAMES[4]])
    assert list(chapters.read_json(project / "results/manifest.json")) == [NAMES[4]]
    assert not (project / "built").exists(), "a book with missing chapters is not built"


def test_publish_refuses_what_is_broken_and_keeps_the_old(project):
    publish.publish("x", NAMES)
    write(project / f"runs/x/notebooks/{NAMES[1]}.ipynb", cell(count=None), papermill={})
    (project / f"runs/x/rows/{NAMES[2]}.csv").unlink()
    write(project / f"runs/x/notebooks/{NAMES[3]}.ipynb", cell(source=f"open('{project}/a')"), papermill={})
    with pytest.raises(chapters.UserError) as refused:
        publish.publish("x", NAMES)
    for fault in ("never ran", f"rows/{NAMES[2]}.csv is missing", "shows this machine's path"):
        assert fault in str(refused.value)
    assert len(list((project / "results/notebooks").glob("*.ipynb"))) == len(NAMES)


def test_publish_refuses_too_much(project):
    with (project / "runs/x/artifacts/features.safetensors").open("wb") as file:
        file.truncate(publish.LIMIT + 1)
    with pytest.raises(chapters.UserError, match="at most 20 MB are allowed; the largest file is artifacts/features"):
        publish.publish("x", NAMES)
    assert not (project / "results").exists()


def test_build_command_reports_in_one_line(tmp_path):
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow")
    shutil.copy(ROOT / "_toc.yml", tmp_path)
    command = [sys.executable, "workflow/build.py", "results"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: no run in results: `make book` makes one, `make html` shows the published one\n"
