"""The lock, the conda file and the package agree; a set-up that was cut short is mended; documented commands exist."""

import ast
import importlib.metadata as metadata
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow"))
import readme_table  # noqa: E402
import set_up  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in here}


def declared() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(text) for text in (*PROJECT["dependencies"], *(one for extra in extras for one in extra))]


def test_the_lock_holds_every_declared_package_in_an_allowed_version():
    pins = locked()
    wrong = [str(r) for r in declared() if not r.specifier.contains(pins.get(canonicalize_name(r.name), "0"))]
    assert wrong == []


def test_the_lock_pins_what_its_packages_require_here():
    pins, missing = locked(), set()
    for name in pins:
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                missing |= {canonicalize_name(needed.name)} - set(pins)
    assert {name for name in missing if not name.startswith(("nvidia", "cuda", "triton"))} == set()


def test_this_environment_is_the_locked_one():
    wrong = {name: metadata.version(name) for name, version in locked().items() if metadata.version(name).split("+")[0] != version}
    assert wrong == {}


def test_conda_installs_the_lock():
    python, pip, inner = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    assert Requirement("python" + PROJECT["requires-python"]).specifier.contains(python.removeprefix("python="))
    assert (pip, inner) == ("pip", {"pip": ["-r requirements.lock", "-e ."]})


def imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module and not n.level]
    return {name.split(".")[0] for name in names}


def test_everything_imported_is_declared():
    files = [*ROOT.glob("irlkit/**/*.py"), *ROOT.glob("workflow/*.py"), *ROOT.glob("tests/*.py"), *ROOT.glob("book/ext/*.py")]
    own = {"irlkit"} | {path.stem for path in files}
    used = set().union(*map(imports, files)) - own - set(sys.stdlib_module_names)
    providers = metadata.packages_distributions()
    names = {canonicalize_name(r.name) for r in declared()}
    assert sorted(m for m in used if not names & {canonicalize_name(d) for d in providers.get(m, ["?"])}) == []


def test_the_ci_and_the_readme_run_the_same_commands():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().endswith("\nmake test")
    documented = [
        README,
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"),
    ]
    for text in documented:
        assert set(re.findall(r"(?:`|run: |^)make (\w+)", text, re.MULTILINE)) <= targets
    assert {"book", "test", "html"} <= set(re.findall(r"make (\w+)", README))


def test_each_path_in_the_readmes_tree_exists():
    tree = README.split("## What is where")[1].split("```")[1]
    folder, missing = "", []
    for line in tree.strip().splitlines():
        for name in re.findall(r"^ *[\w./]+(?: [\w/]+\.\w+)?", line)[0].split():
            path = folder + name if line.startswith(" ") else name
            missing += [] if (ROOT / path).exists() or name in ("results/", "runs/") else [path]
        folder = name if not line.startswith(" ") and name.endswith("/") else folder
    assert missing == []


def test_the_readmes_results_are_the_published_ones():
    assert readme_table.updated(README, ROOT / "results" / "summary.json") == README


def test_the_readmes_table_shows_medians_and_spread():
    figure = {"median": 0.98, "min": 0.976, "max": 0.986, "n_seeds": 20}
    summary = {"rlhf.mean_toxicity.base": 0.2, "rlhf.mean_toxicity.expert": 0.04, "rlhf.kl": 5.5, "profile": "full"}
    summary |= {"irl.max_entropy.pair_accuracy": figure, "baseline.text_length.pair_accuracy": 0.5}
    text = readme_table.block(summary)
    assert "from 0.200 to 0.040, 5.5 nats" in text and "over 20 seeds" in text
    assert "| maximum entropy, RLHF expert | 0.980 [0.976, 0.986] | – | – |" in text
    assert "| baseline: text length | 0.500 | – | – |" in text and "At equal KL" not in text
    again = readme_table.block(summary | {"rerlhf.ratio": {"mean": 1.064, "low": 0.71, "high": 1.6}})
    assert "the recovered reward leaves 1.06 times (95 % interval 0.71 to 1.60) the toxicity" in again


def test_an_old_python_is_refused_by_name(tmp_path):
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text("")
    done = subprocess.run(["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and f"error: Python 3.11 or newer, with venv, is needed; {old} is not that" in done.stderr


def test_a_package_that_was_half_installed_is_found(tmp_path, monkeypatch):
    venv.EnvBuilder(symlinks=True).create(tmp_path / "env")
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    for name in ("whole", "half"):
        (site / f"{name}-1.0.dist-info").mkdir()
        (site / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (site / f"{name}-1.0.dist-info" / "RECORD").write_text(f"{name}.py,,\n")
    (site / "whole.py").write_text("")
    (tmp_path / "lock").write_text("# a comment\nwhole==1.0\nhalf==1.0\nabsent==1.0\n")
    monkeypatch.setattr(set_up, "PYTHON", tmp_path / "env" / "bin" / "python")
    monkeypatch.setattr(set_up, "LOCK", tmp_path / "lock")
    assert set_up.broken_packages() == ["half==1.0"]


def test_the_stamp_is_written_last(tmp_path, monkeypatch, capsys):
    stamp = tmp_path / ".ready"
    stamp.touch()
    monkeypatch.setattr(set_up, "STAMP", stamp)

    def stop(torch_index):
        assert not stamp.exists()
        raise OSError("no space left")

    monkeypatch.setattr(set_up, "set_up", stop)
    assert set_up.main(None) == 1 and not stamp.exists()
    assert "run the same command again" in capsys.readouterr().err
    monkeypatch.setattr(set_up, "set_up", lambda torch_index: None)
    assert set_up.main(None) == 0 and stamp.exists()


def test_the_code_is_as_ruff_wants_it():
    """CONTRIBUTING asks for it; a rule that nobody checks is broken by the next change."""
    command = [sys.executable, "-m", "ruff", "check", "irlkit", "tests", "workflow", "book/ext"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
