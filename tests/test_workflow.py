"""The workflow on a tree of tiny notebooks: what runs, what does not, what a kill and a mistake leave behind."""

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TABLE = {
    "presentation": [],
    "chapters": {
        "01-alpha": {"threads": 1, "reads": [], "writes": ["artifacts/a.txt"], "modules": ["one"]},
        "02-beta": {"threads": 1, "reads": [], "writes": ["artifacts/b.txt"], "modules": ["two"]},
        "03-gamma": {"threads": 2, "reads": ["artifacts/a.txt", "artifacts/b.txt"], "writes": [], "modules": ["two"]},
    },
}
PARAMETERS = 'inputs: str = "results"\noutputs: str = "runs/mine"\nseed: int = 0\nwait: float = 0.0\nfail: bool = False'
BODY = """
import json, os, pathlib, time
out = pathlib.Path(outputs)
for folder in ("artifacts", "rows", "summary", "cache"):
    (out / folder).mkdir(parents=True, exist_ok=True)
with open(out / "cache" / "ran.txt", "a") as file:
    file.write(f"{name} {os.environ['OMP_NUM_THREADS']}\\n")
print("half way")
for path in writes:
    (out / path).write_text("half")
time.sleep(wait)
if fail:
    raise ValueError("the reward went missing")
for path in writes:
    (out / path).write_text(f"{name} {seed}")
(out / "rows" / f"{name}.csv").write_text(f"{seed}")
(out / "summary" / f"{name}.json").write_text(json.dumps({name: seed}))
"""
SETTINGS = """
import json, sys
allowed = {"seed", "wait", "fail"}
for notebook, values in json.load(open(sys.argv[2])).items():
    for name in values:
        if name not in allowed:
            sys.exit(f"{notebook}: unknown parameter '{name}'; allowed: fail, seed, wait")
"""
RECORDS = """
import json, pathlib
def merge_summaries(folder, profile):
    folder = pathlib.Path(folder)
    merged = {"profile": profile}
    for path in sorted((folder / "summary").glob("*.json")):
        merged |= json.loads(path.read_text())
    (folder / "summary.json").write_text(json.dumps(merged))
"""


class Tree:
    """A project of three tiny notebooks, run by the real workflow."""

    def __init__(self, folder: Path):
        self.folder = folder
        ignore = shutil.ignore_patterns("__pycache__", "chapters.yaml")
        shutil.copytree(ROOT / "workflow", folder / "workflow", ignore=ignore)
        self.write("workflow/chapters.yaml", yaml.safe_dump(TABLE, sort_keys=False))
        for module, text in {"__init__": "", "one": "", "two": "", "settings": SETTINGS, "records": RECORDS}.items():
            self.write(f"irlkit/{module}.py", text)
        for name, facts in TABLE["chapters"].items():
            self.notebook(name, f"name, writes = {name!r}, {facts['writes']!r}{BODY}")
        self.profile({})

    def write(self, path: str, text: str):
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text, encoding="utf-8")

    def notebook(self, name: str, body: str):
        head = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}, id="head")
        cells = [head, nbformat.v4.new_code_cell(body, id="body")]
        kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
        self.write(f"notebooks/{name}.ipynb", nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=kernel)))

    def profile(self, values: dict):
        self.write("profiles/tiny.yaml", yaml.safe_dump(values))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "workflow/run.py", "--profile", "tiny", *arguments]

    def run(self, *arguments: str) -> tuple[int, list[str], str]:
        """Exit code, the notebooks that ran (sorted), everything printed."""
        ran = self.folder / "runs/tiny/cache/ran.txt"
        ran.unlink(missing_ok=True)
        done = subprocess.run(self.command(*arguments), cwd=self.folder, capture_output=True, text=True, timeout=120)
        return done.returncode, sorted(self.started()), done.stdout + done.stderr

    def started(self) -> list[str]:
        ran = self.folder / "runs/tiny/cache/ran.txt"
        return ran.read_text().splitlines() if ran.exists() else []

    def read(self, path: str) -> str:
        return (self.folder / "runs/tiny" / path).read_text(encoding="utf-8")


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree(tmp_path / "a tree")   # a space in the path must not matter


def test_only_what_is_old_runs(tree):
    code, ran, printed = tree.run()
    assert code == 0, printed
    assert ran == ["01-alpha 1", "02-beta 1", "03-gamma 2"]
    assert '"profile": "tiny"' in tree.read("summary.json")

    assert tree.run()[:2] == (0, []), "an unchanged tree runs nothing"

    tree.profile({"03-gamma": {"seed": 7}})
    assert tree.run()[:2] == (0, ["03-gamma 2"]), "a changed parameter runs its notebook"
    assert '"03-gamma": 7' in tree.read("summary.json")

    tree.profile({"03-gamma": {"seed": 7}, "02-beta": {"seed": 3}})
    assert tree.run()[:2] == (0, ["02-beta 1", "03-gamma 2"]), "… and those that read from it, no other"
    assert tree.read("artifacts/b.txt") == "02-beta 3"

    tree.write("irlkit/one.py", "changed = True")
    assert tree.run()[1][0] == "01-alpha 1", "a changed module runs the notebooks that list it"

    os.utime(tree.folder / "notebooks/01-alpha.ipynb")
    assert tree.run()[:2] == (0, []), "a new date alone runs nothing"

    (tree.folder / "runs/tiny/rows/01-alpha.csv").unlink()
    assert "01-alpha 1" in tree.run()[1], "a missing intermediate is made again"


def test_small_floats_arrive_as_numbers(tree):
    tree.profile({"01-alpha": {"wait": 1e-05}})
    code, ran, printed = tree.run("--notebook", "01")
    assert (code, ran) == (0, ["01-alpha 1"]), printed


def test_killed_run_goes_on(tree):
    tree.profile({"02-beta": {"wait": 30.0}})
    process = subprocess.Popen(tree.command(), cwd=tree.folder, start_new_session=True, stdout=subprocess.DEVNULL)
    wait_until(lambda: "02-beta 1" in tree.started() and "1 of 5 steps" in (tree.folder / "runs/log.txt").read_text())
    second = subprocess.run(tree.command(), cwd=tree.folder, capture_output=True, text=True, timeout=60)
    assert second.returncode == 2 and "another run is at work" in second.stderr

    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert tree.read("artifacts/b.txt") == "half"

    tree.profile({})
    code, ran, printed = goes_on(tree)
    assert code == 0, printed
    assert "a run was killed here" in printed
    assert ran == ["02-beta 1", "03-gamma 2"], "what was finished stays, what was half-written runs again"
    assert tree.read("artifacts/b.txt") == "02-beta 0"


def test_stopped_run_ends_its_notebooks(tree):
    tree.profile({"02-beta": {"wait": 60.0}})
    process = subprocess.Popen(tree.command(), cwd=tree.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: "02-beta 1" in tree.started())
    process.terminate()
    printed = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and printed.strip() == "stopped; the same command goes on from what is finished"
    tree.profile({})
    assert goes_on(tree)[0] == 0


def wait_until(holds, seconds: float = 60.0):
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.2)


def goes_on(tree) -> tuple[int, list[str], str]:
    """Run again; a kernel needs a moment to see that its parent was killed."""
    for _ in range(20):
        code, ran, printed = tree.run()
        if code != 2:
            break
        time.sleep(0.5)
    return code, ran, printed


def test_failed_notebook_stays_readable_and_is_not_done(tree):
    tree.profile({"01-alpha": {"fail": True}})
    code, ran, printed = tree.run()
    assert code != 0
    assert ran == ["01-alpha 1", "02-beta 1"], "what does not need the failed notebook goes on"
    assert "ValueError: the reward went missing" in printed
    assert '"cells"' not in printed and len(printed.splitlines()) < 40
    assert "the reward went missing" in tree.read("logs/01-alpha.ipynb")
    assert not (tree.folder / "runs/tiny/notebooks/01-alpha.ipynb").exists()
    assert not (tree.folder / "runs/tiny/artifacts/a.txt").exists()


@pytest.mark.parametrize(("values", "arguments", "message"), [
    ({"01-alpha": {"sed": 3}}, [], "profiles/tiny.yaml, 01-alpha: unknown parameter 'sed'; allowed: fail, seed, wait"),
    ({"01-alfa": {}}, [], "names no notebook with '01-alfa'; allowed: 01-alpha, 02-beta, 03-gamma"),
    ({}, ["--notebook", "09"], "no notebook '09'; allowed: 01-alpha, 02-beta, 03-gamma"),
    ({}, ["--profile", "huge"], "no profile 'huge'; allowed: laptop, tiny"),
    ({}, ["--profile", "a/b"], "a name has letters, digits, - and _ only"),
])
def test_mistakes_are_refused_before_anything_runs(tree, values, arguments, message):
    tree.profile(values)
    code, ran, printed = tree.run(*arguments)
    assert (code, ran) == (2, [])
    assert message in printed and len(printed.strip().splitlines()) == 1


def test_profiles_are_accepted_by_the_package():
    sys.path.insert(0, str(ROOT / "workflow"))
    import run

    for path in (ROOT / "profiles").glob("*.yaml"):
        run.check_parameters(path.stem)   # raises with the reason


def test_table_matches_the_project():
    table = yaml.safe_load((ROOT / "workflow/chapters.yaml").read_text(encoding="utf-8"))
    made: set[str] = set()
    for name, facts in table["chapters"].items():
        assert (ROOT / f"notebooks/{name}.ipynb").exists()
        assert set(facts["reads"]) <= made, f"{name} reads a file that no earlier notebook writes"
        made |= set(facts["writes"])
        missing = [module for module in facts["modules"] if not (ROOT / f"irlkit/{module}.py").exists()]
        assert not missing, f"{name} lists modules that are not there"


def test_table_lists_what_the_notebooks_import():
    table = yaml.safe_load((ROOT / "workflow/chapters.yaml").read_text(encoding="utf-8"))
    for name, facts in table["chapters"].items():
        used = imported(ROOT / f"notebooks/{name}.ipynb")
        listed = {module.removesuffix("/__init__") for module in [*facts["modules"], *table["presentation"]]}
        assert used <= listed, f"{name} imports modules that its entry in chapters.yaml lacks"


def imported(path: Path) -> set[str]:
    """Modules of irlkit that a notebook imports, like {"settings", "irl/max_margin"}."""
    cells = nbformat.read(path, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "irlkit":
            folder = node.module.split(".")[1:]
            names = [[*folder, alias.name] for alias in node.names]
            found |= {"/".join(parts if is_module(parts) else folder) for parts in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".", 1)[1].replace(".", "/") for alias in node.names if alias.name.startswith("irlkit.")}
    return found


def is_module(parts: list[str]) -> bool:
    path = ROOT / "irlkit" / "/".join(parts)
    return path.with_suffix(".py").exists() or path.is_dir()
