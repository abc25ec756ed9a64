"""Build the book from a run: python workflow/build.py runs/laptop (or results) writes _build/html and prints its path.

The site is built from a staged copy of the tree, in which the executed notebooks of the run stand in place of the
empty ones, so links and addresses are the same either way. Warnings are errors; then the gates are asked.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import gates
import nbformat
from chapters import CHAPTERS, ROOT, UserError

PROSE = ["_config.yml", "_toc.yml", "book"]
AS_PUBLISHED = """```{note}
Shown as published: this chapter has many models to train or to sample from, and is not part of a run on a laptop. To run it as well:
`.venv/bin/python workflow/run.py --notebook NUMBER`, then `make book` again.
```"""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_folder", type=Path, help="folder with notebooks/*.ipynb: runs/PROFILE or results")
    try:
        print(build(parser.parse_args(arguments).run_folder))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def build(run_folder: Path, output: Path = ROOT) -> Path:
    """Build and check the site in `output`/_build/html; returns its first page. UserError says what is wrong."""
    staged = stage(run_folder, output / "_build" / "stage")
    html = output / "_build" / "html"
    shutil.rmtree(html, ignore_errors=True)
    shutil.rmtree(html.with_name(".doctrees"), ignore_errors=True)
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(staged), "--path-output", str(output),
               "-W", "-n", "--keep-going", "-q"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise UserError("the book does not build:\n" + complaints(done.stdout.replace(f"{staged}/", "")))
    faults = gates.site_faults(html, ROOT / "_toc.yml") + gates.loads_from_elsewhere(html)
    if faults:
        raise UserError("the book is built but not whole:\n" + "\n".join(faults))
    return html / "index.html"


def stage(run_folder: Path, folder: Path) -> Path:
    """Copy prose and the run's notebooks to `folder`; UserError if one is missing or did not run to its end."""
    if not run_folder.is_dir():
        raise UserError(f"no run in {run_folder}: `make book` makes one, `make html` shows the published one")
    wanted = [page for page in gates.toc_pages(ROOT / "_toc.yml") if page.startswith("notebooks/")]
    sources = {page: run_folder / f"{page}.ipynb" for page in wanted}
    missing = [page for page, path in sources.items() if not path.exists()]
    published = {page for page in missing if CHAPTERS[Path(page).name].get("heavy") and (ROOT / "results" / f"{page}.ipynb").exists()}
    sources |= {page: ROOT / "results" / f"{page}.ipynb" for page in published}
    if set(missing) - published:
        raise UserError(f"{run_folder} holds no executed {', '.join(sorted(set(missing) - published))}: run them first, with `make book`")
    faults = [fault for path in sources.values() for fault in gates.notebook_faults(path)]
    if faults:
        raise UserError("not every notebook ran to its end:\n" + "\n".join(faults))
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "notebooks").mkdir(parents=True)
    for name in PROSE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    for page, path in sources.items():
        shutil.copy2(path, folder / f"{page}.ipynb")
    for page in published:
        say_published(folder / f"{page}.ipynb")
    return folder


def say_published(path: Path) -> None:
    """Add a note below the title of a staged notebook which the run did not run itself."""
    notebook = nbformat.read(path, as_version=4)
    number = path.stem.split("-")[0]
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(AS_PUBLISHED.replace("NUMBER", number), id="as-published"))
    nbformat.write(notebook, path)


def complaints(printed: str, count: int = 30) -> str:
    """Sphinx's warnings and errors; the last lines if it names none."""
    lines = [line for line in printed.splitlines() if line.strip()]
    named = [line for line in lines if "WARNING" in line or "ERROR" in line or "rror:" in line]
    return "\n".join((named or lines)[-count:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
