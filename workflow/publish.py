"""Copy a finished run to results/: python workflow/publish.py --profile full [--notebook 05].

Notebooks are asked by the gates first, and the book must build from what results/ would hold. What differs between
two identical runs (times, random names) leaves the notebooks; what matters of it goes to results/manifest.json. The
prose is that of notebooks/ as it is now, so that a word can be mended without a new run; code that was changed cannot.
"""

import argparse
import base64
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import chapters
import gates
import pyarrow.parquet as pq
from build import build
from chapters import ROOT, UserError
from PIL import Image

from irlkit.records import merge_summaries

RESULTS = ROOT / "results"
LIMIT = 20_000_000   # bytes of all published files together


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="full", help="publish runs/PROFILE")
    parser.add_argument("--notebook", help="one chapter alone, by its number")
    parser.add_argument("--prose", action="store_true", help="only bring the prose of results/ up to date, without any run")
    asked = parser.parse_args(arguments)
    try:
        names = [chapters.find(asked.notebook)] if asked.notebook else list(chapters.CHAPTERS)
        refresh(names) if asked.prose else publish(asked.profile, names)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"results/ now holds {'the prose of ' if asked.prose else ''}{', '.join(names)}"
          f"{'' if asked.prose else f' of runs/{asked.profile}'}")
    return 0


def refresh(names: list[str]) -> None:
    """Give the published notebooks `names` the prose of their sources; UserError for one whose code has changed since."""
    folders = (RESULTS / "notebooks", ROOT / "notebooks")
    fresh = {name: with_prose(*(chapters.read_json(folder / f"{name}.ipynb") for folder in folders), name) for name in names}
    for name, notebook in fresh.items():
        write_notebook(RESULTS / f"notebooks/{name}.ipynb", stripped(notebook))


def publish(profile: str, names: list[str]) -> None:
    """Put the chapters `names` of runs/`profile` into results/, or change nothing there and raise UserError."""
    run = ROOT / "runs" / profile
    faults = [fault for name in names for fault in chapter_faults(run, name)]
    if faults:
        raise UserError(f"runs/{profile} is not fit to publish:\n" + "\n".join(faults))
    with tempfile.TemporaryDirectory(dir=run) as folder:
        new = Path(folder) / "results"
        if RESULTS.exists():
            shutil.copytree(RESULTS, new)
        for name in names:
            copy_chapter(run, new, name, profile)
        merge_summaries(str(new), profile)
        check_size(new)
        if all((new / f"notebooks/{name}.ipynb").exists() for name in chapters.CHAPTERS):
            build(new)
        shutil.rmtree(RESULTS, ignore_errors=True)
        shutil.move(new, RESULTS)


def chapter_faults(run: Path, name: str) -> list[str]:
    """Files that the chapter should have left, faults of its notebook, and paths of this machine in it."""
    missing = [f"{name}: {path} is missing" for path in chapters.outputs(name) if not (run / path).exists()]
    if missing:
        return missing
    notebook = run / f"notebooks/{name}.ipynb"
    faults = gates.notebook_faults(notebook)
    text = notebook.read_text(encoding="utf-8")
    return faults + [f"{notebook.name}: shows this machine's path {path}" for path in (ROOT, Path.home()) if f"{path}/" in text]


def copy_chapter(run: Path, results: Path, name: str, profile: str) -> None:
    """Copy what the chapter's entry in the table lists, so never cache/, and write its part of the manifest."""
    for path in chapters.outputs(name):
        (results / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".parquet"):   # the same table in four fifths of the bytes
            pq.write_table(pq.read_table(run / path), results / path, compression="zstd", compression_level=19)
        else:
            shutil.copyfile(run / path, results / path)
    path = results / f"notebooks/{name}.ipynb"
    notebook = with_prose(chapters.read_json(path), chapters.read_json(ROOT / f"notebooks/{name}.ipynb"), name)
    record(results / "manifest.json", name, facts(run, name, notebook, profile))
    write_notebook(path, stripped(notebook))


def write_notebook(path: Path, notebook: dict) -> None:
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def with_prose(executed: dict, source: dict, name: str) -> dict:
    """The executed notebook with the prose and captions of its source; UserError if its code is not the source's.

    A default that the run did not use may be another one now.
    """
    ran = [cell for cell in executed["cells"] if cell["cell_type"] == "code"]
    injected = [cell for cell in ran if tagged(cell, "injected-parameters")]
    ran = [cell for cell in ran if cell not in injected]
    code = [cell for cell in source["cells"] if cell["cell_type"] == "code"]
    if what_runs(ran, injected) != what_runs(code, injected):
        raise UserError(f"{name}: notebooks/{name}.ipynb has other code than the run to be published; run it again")
    outputs, cells = iter(ran), []
    for cell in source["cells"]:
        cells.append({**next(outputs), **{key: cell[key] for key in ("source", "metadata")}} if cell["cell_type"] == "code" else cell)
        cells += injected if tagged(cell, "parameters") else []
    return executed | {"cells": cells}


def what_runs(code: list[dict], injected: list[dict]) -> tuple:
    """The code of the cells, with the values that the parameters have in the end for the cell of their defaults."""
    values: dict = {}
    for cell in [*(cell for cell in code if tagged(cell, "parameters")), *injected]:
        exec("".join(cell["source"]), {}, values)
    return values, ["".join(cell["source"]) for cell in code if not tagged(cell, "parameters")]


def tagged(cell: dict, tag: str) -> bool:
    return tag in cell["metadata"].get("tags", [])


def facts(run: Path, name: str, notebook: dict, profile: str) -> dict:
    """What made the chapter: the commit at its run, the parameters that were set, and the seconds that it took."""
    made = notebook["metadata"]["papermill"]
    commit = run / f"logs/{name}.commit"
    return {
        "commit": commit.read_text(encoding="utf-8").strip() if commit.exists() else "unknown",
        "profile": profile,
        "parameters": {key: value for key, value in made["parameters"].items() if key not in ("inputs", "outputs")},
        "seconds": round(made["duration"], 1),
    }


def record(manifest: Path, name: str, entry: dict) -> None:
    known = chapters.read_json(manifest) if manifest.exists() else {}
    ordered = {key: value for key, value in sorted({**known, name: entry}.items())}
    manifest.write_text(json.dumps(ordered, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def stripped(notebook: dict) -> dict:
    """The notebook without what differs between two identical runs (Papermill's block, times, random cell ids), its pictures small."""
    notebook["metadata"].pop("papermill", None)
    for number, cell in enumerate(notebook["cells"]):
        cell["id"] = f"cell-{number:02d}"
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = with_few_colours(output["data"]["image/png"])
    return notebook


def with_few_colours(picture: str) -> str:
    """A PNG (base64) with the 256 colours that suit it best: a figure's lines and letters need no more, at a third of the bytes."""
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    if image.mode == "P":
        return picture
    found = io.BytesIO()
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(found, "PNG", optimize=True)
    return base64.b64encode(found.getvalue()).decode()


def check_size(folder: Path) -> None:
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    if sum(sizes.values()) > LIMIT:
        largest = max(sizes, key=sizes.get)
        raise UserError(f"results/ would hold {sum(sizes.values()) / 1e6:.1f} MB, at most {LIMIT / 1e6:.0f} MB are allowed; "
                        f"the largest file is {largest.relative_to(folder)} with {sizes[largest] / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
