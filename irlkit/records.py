"""Records: tidy rows in one schema, each chapter's part of the summary, and where its numbers come from.

A run folder holds artifacts/, rows/, summary/ and notebooks/; `Run` reads from one and writes to another (or the same).
"""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import psutil

from irlkit.parameters import ParameterError

ROW_COLUMNS = ["experiment", "expert", "method", "features", "seed", "epoch", "metric", "value"]
PACKAGES = ("torch", "transformers", "trl", "ctranslate2", "scikit-learn", "numpy", "papermill")


class Run:
    """Where a notebook reads and writes: `settings.inputs` and `settings.outputs` are run folders."""

    def __init__(self, chapter, settings):
        self.chapter, self.settings = chapter, settings
        self.read_from, self.write_to = Path(settings.inputs), Path(settings.outputs)
        self.rows, self.summary = [], {}

    def artifact(self, name):
        """Path of an artifact of an earlier chapter; ParameterError if it is not there."""
        path = self.read_from / "artifacts" / name
        if not path.exists():
            raise ParameterError(f"inputs: {path} does not exist; run the chapter that makes it, or use inputs='results'")
        return path

    def output(self, name, folder="artifacts"):
        """Path of a file to write, in a folder that exists."""
        path = self.write_to / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add(self, values, **columns):
        """Add rows for {metric: value or [S] values over seeds}; `columns` are others of ROW_COLUMNS."""
        for metric, value in values.items():
            over_seeds = value if hasattr(value, "__len__") else [value]
            self.rows += [{**columns, "metric": metric, "value": float(v), **({"seed": s} if len(over_seeds) > 1 else {})}
                          for s, v in enumerate(over_seeds)]

    def save(self):
        """Write the chapter's rows and summary, and glue each number of the summary under its dotted name."""
        table = pd.DataFrame(self.rows, columns=ROW_COLUMNS).astype({"seed": "Int64", "epoch": "Int64"})
        table.to_csv(self.output(f"{self.chapter}.csv", "rows"), index=False, float_format="%.6g")
        _write(self.output(f"{self.chapter}.json", "summary"), self.summary)
        for key, value in flat(self.summary).items():
            _glue(key, value)


def flat(summary):
    """Nested entries as dotted keys: {"a": {"median": 1}} becomes {"a.median": 1}."""
    pairs = {}
    for key, value in summary.items():
        pairs |= {f"{key}.{k}": v for k, v in flat(value).items()} if isinstance(value, dict) else {key: value}
    return pairs


def _glue(key, value):
    from myst_nb import glue  # the book's own tool; imported here so that a run without the book needs none of it
    glue(key, value, display=False)


def _write(path, content):
    scratch = Path(f"{path}.partial")
    scratch.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(scratch, path)


def machine():
    """The machine in words: processor, number of cores, memory in GiB."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{platform.machine()}, {psutil.cpu_count()} cores, {memory:.0f} GiB"


def versions():
    return {"python": platform.python_version()} | {name: version(name).split("+")[0] for name in PACKAGES}


def merge_summaries(run, profile):
    """Write run/summary.json from run/summary/*.json, with the profile, the versions and the machine."""
    run = Path(run)
    merged = {"profile": profile, "versions": versions(), "machine": machine()}
    for part in sorted((run / "summary").glob("*.json")):
        merged |= json.loads(part.read_text(encoding="utf-8"))
    _write(run / "summary.json", merged)
