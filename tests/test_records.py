"""Records: one schema of rows, dotted keys in the summary, and clear errors for what is missing."""

import json
import types

import numpy as np
import pandas as pd
import pytest

from irlkit import records
from irlkit.records import ROW_COLUMNS, ParameterError, Run


@pytest.fixture
def run(tmp_path):
    return Run("05-reward-accuracy", types.SimpleNamespace(inputs=str(tmp_path / "in"), outputs=str(tmp_path / "out")))


def test_rows_have_one_schema(run, tmp_path):
    """Figures and tables read these columns; a seed that a single value does not have must be empty, not zero."""
    run.add({"auroc": np.array([0.5, 0.75]), "kl": 1.0}, experiment="accuracy", method="max_entropy", epoch=3)
    run.save()
    table = pd.read_csv(tmp_path / "out/rows/05-reward-accuracy.csv")
    assert list(table.columns) == ROW_COLUMNS
    assert table.metric.tolist() == ["auroc", "auroc", "kl"] and table.value.tolist() == [0.5, 0.75, 1.0]
    assert table.seed[:2].tolist() == [0, 1] and pd.isna(table.seed[2]) and (table.epoch == 3).all()
    assert table.expert.isna().all()
    assert "0,3,auroc,0.5" in (tmp_path / "out/rows/05-reward-accuracy.csv").read_text(), "seeds and epochs are whole numbers"


def test_a_chapter_without_rows_writes_them_all_the_same(run, tmp_path):
    """The workflow waits for the file."""
    run.save()
    assert list(pd.read_csv(tmp_path / "out/rows/05-reward-accuracy.csv").columns) == ROW_COLUMNS
    assert json.loads((tmp_path / "out/summary/05-reward-accuracy.json").read_text()) == {}


def test_summaries_are_flattened_to_dotted_keys():
    """Prose names numbers by these keys."""
    assert records.flat({"a": {"median": 1, "by": {"x": 2}}, "b.c": 3}) == {"a.median": 1, "a.by.x": 2, "b.c": 3}


def test_saving_glues_every_number(run, monkeypatch):
    """A key that is not glued breaks the page that shows it."""
    glued = {}
    monkeypatch.setattr(records, "_glue", glued.__setitem__)
    run.summary = {"irl.max_entropy.auroc": {"median": 0.8, "n_seeds": 20}, "rlhf.kl": 1.5}
    run.save()
    assert glued == {"irl.max_entropy.auroc.median": 0.8, "irl.max_entropy.auroc.n_seeds": 20, "rlhf.kl": 1.5}


def test_the_summary_merges_all_chapters(run, tmp_path):
    """One file for whoever checks, with what the numbers were made by; saving a chapter again replaces its part."""
    for chapter, part in {"01-a": {"x": 1}, "02-b": {"y": {"median": 2.0}}}.items():
        records._write(run.output(f"{chapter}.json", "summary"), part)
    records.merge_summaries(tmp_path / "out", "smoke")
    merged = json.loads((tmp_path / "out/summary.json").read_text())
    assert (merged["x"], merged["y"], merged["profile"]) == (1, {"median": 2.0}, "smoke")
    assert merged["versions"]["torch"] == "2.13.0" and "python" in merged["versions"] and "cores" in merged["machine"]
    assert not list(tmp_path.rglob("*.partial"))


def test_a_missing_artifact_is_named(run, tmp_path):
    """A chapter run before the one that feeds it: which file, and what to do."""
    with pytest.raises(ParameterError, match="inputs: .*in/artifacts/features.safetensors does not exist; run the chapter that makes it"):
        run.artifact("features.safetensors")
    (tmp_path / "in/artifacts").mkdir(parents=True)
    (tmp_path / "in/artifacts/features.safetensors").touch()
    assert run.artifact("features.safetensors") == tmp_path / "in/artifacts/features.safetensors"


def test_outputs_make_their_folder(run, tmp_path):
    """A fresh run folder is empty."""
    assert run.output("x.parquet") == tmp_path / "out/artifacts/x.parquet" and (tmp_path / "out/artifacts").is_dir()
