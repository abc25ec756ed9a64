"""The notebooks: their sources, the smoke profile from prompts to summary, and each analysis by itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from irlkit import records, settings
from irlkit.irl import METHODS
from irlkit.records import merge_summaries

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow"))

import chapters  # noqa: E402

SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in SOURCES]
ANALYSES = ["00-tabular-irl", "04-max-margin-irl", "05-reward-accuracy", "06-non-identifiability"]
METRICS = ["pair_accuracy", "pair_accuracy_raw", "auroc", "spearman", "label_accuracy", "f1"]
QUIET = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}


def cells(name, kind="code"):
    return [cell for cell in nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4).cells if cell.cell_type == kind]


def tagged(name):
    return [cell for cell in cells(name) if "parameters" in cell.metadata.get("tags", [])]


def asked_for(name):
    """The parameters of a notebook: {name: value} of its parameters cell."""
    values = {}
    exec(tagged(name)[0].source, values)
    return {key: value for key, value in values.items() if not key.startswith("__")}


def test_there_is_a_notebook_for_each_settings_class():
    """A notebook without a class would take any parameter."""
    assert NAMES == list(settings.NOTEBOOKS)


@pytest.mark.parametrize("name", NAMES)
def test_sources_hold_no_outputs(name):
    """Stale outputs in the source would pass for results."""
    nbformat.validate(nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4))
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells(name))


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_and_explained(name):
    """Long cells are a package's work; a chapter opens with its question and ends with what it means."""
    assert max(len(cell.source.splitlines()) for cell in cells(name) if cell not in tagged(name)) <= 20
    prose = cells(name, "markdown")
    assert prose[0].source.startswith("# ") and "**" in prose[0].source and prose[-1].source.startswith("## What it means")


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_cell_is_what_the_settings_say(name):
    """Two places name the defaults: a notebook that runs with others than `check` knows would be refused or, worse, not."""
    cell, = tagged(name)
    lines = cell.source.splitlines()
    assert all(": " in line and " = " in line and "  # " in line for line in lines), "typed, with a comment that papermill shows"
    fields = settings.NOTEBOOKS[name].model_fields
    assert set(asked_for(name)) == set(fields) and len(lines) == len(fields)
    settings.NOTEBOOKS[name].checked(asked_for(name))


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_parameter_is_refused_by_the_first_cell(name):
    """Papermill only warns: a misspelt seed would publish the default seed's numbers."""
    head, first = cells(name)[:2]
    namespace = {}
    exec(head.source + "\nsed = 3", namespace)
    with pytest.raises(settings.ParameterError, match="unknown parameter 'sed'; allowed: inputs, outputs, seed"):
        exec(first.source, namespace)


def papermill(name, target, *parameters):
    command = [sys.executable, "-m", "papermill", str(ROOT / f"notebooks/{name}.ipynb"), str(target), "--cwd", str(ROOT), "-k", "python3",
               "--no-progress-bar", *parameters]
    return subprocess.run(command, cwd=ROOT, env=QUIET, capture_output=True, text=True, timeout=600)


def test_papermill_fails_at_once_with_an_unknown_parameter(tmp_path):
    """As a reader meets it: exit code not 0, the allowed names, and no cell after the first one run."""
    done = papermill("05-reward-accuracy", tmp_path / "out.ipynb", "-p", "sed", "3", "-p", "outputs", str(tmp_path / "run"))
    assert done.returncode != 0 and "unknown parameter 'sed'; allowed: inputs, outputs, seed, seeds" in done.stderr
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert sum(1 for cell in executed.cells if cell.cell_type == "code" and cell.execution_count) <= 4
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ANALYSES)
def test_an_analysis_runs_by_itself_from_the_published_artifacts(name, tmp_path):
    """A reader changes a number and needs none of the notebooks before: only results/ and this one."""
    run = tmp_path / "run"
    less = {"05-reward-accuracy": ("-p", "null_runs", "3", "-y", "{sizes: [50], noise: [0.4]}"),
            "06-non-identifiability": ("-y", "{sizes: [50], tolerances: [0.01], iterations: 2, starts: 0, members: 3,"
                                             " penalties: [0.001], fractions: [0.5]}")}
    done = papermill(name, tmp_path / "out.ipynb", "-p", "seeds", "3", "-p", "outputs", str(run), *less.get(name, ()))
    assert done.returncode == 0, done.stderr[-3000:]
    rows = pd.read_csv(run / f"rows/{name}.csv")
    assert list(rows.columns) == records.ROW_COLUMNS and sorted(rows.seed.dropna().unique()) == [0, 1, 2]
    summary = json.loads((run / f"summary/{name}.json").read_text())
    assert {value["n_seeds"] for value in summary.values() if isinstance(value, dict)} == {3}


def smoke(*arguments):
    command = [sys.executable, "workflow/run.py", "--profile", "smoke", "--cores", "1", *arguments]  # the other core runs other tests
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def smoke_run():
    """runs/smoke, brought up to date by the workflow: the real model and texts, few of each; then what a quick run leaves out."""
    smoke()
    smoke("--cores", "2", "--notebook", *sorted(set(chapters.CHAPTERS) - set(chapters.run_by("smoke"))))
    merge_summaries(ROOT / "runs/smoke", "smoke")
    return ROOT / "runs/smoke"


def test_the_smoke_profile_makes_every_chapter(smoke_run):
    """The same code as the published run, from prompts to a recovered reward; no cell failed or was left out."""
    for name in chapters.CHAPTERS:
        notebook = nbformat.read(smoke_run / f"notebooks/{name}.ipynb", as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code)
        assert not [out for cell in code for out in cell.outputs if out.output_type == "error"]
        rows = pd.read_csv(smoke_run / f"rows/{name}.csv")
        assert list(rows.columns) == records.ROW_COLUMNS
        assert len(rows) > 0 and rows.value.notna().all() and rows.metric.notna().all()


def test_the_smoke_profile_shows_no_unmasked_html(smoke_run):
    """A completion that is HTML would become part of the page."""
    for name in chapters.CHAPTERS:
        for cell in nbformat.read(smoke_run / f"notebooks/{name}.ipynb", as_version=4).cells:
            for output in cell.get("outputs", []):
                assert "<script" not in output.get("data", {}).get("text/html", "")


def test_the_summary_has_every_promised_number(smoke_run):
    """The README's table and whoever checks read these keys; a missing metric or a NaN would show up only there."""
    summary = json.loads((smoke_run / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in the summary"))
    assert {"profile", "versions", "machine", "rlhf.mean_toxicity.base", "rlhf.mean_toxicity.expert", "rlhf.kl"} <= set(summary)
    assert summary["profile"] == "smoke"
    for expert in ("irl", "irl_exact"):
        for key in (f"{expert}.{method}.{metric}" for method in METHODS for metric in METRICS):
            assert {"median", "min", "max", "n_seeds"} <= set(summary[key]), key
            assert summary[key]["min"] <= summary[key]["median"] <= summary[key]["max"] and summary[key]["n_seeds"] == 5
    assert summary["irl.best"] in METHODS and summary["irl_exact.best"] in METHODS
    readings = {"token_head", "worst_token", "words", "states_words"}
    for expert in ("irl", "irl_exact"):
        assert summary[f"{expert}.best_reading"] in {"max_entropy", *readings}
        wanted = [*METRICS, "calibration_error", "calibration_loss"]
        assert {f"{expert}.{name}.{metric}" for name in readings for metric in wanted} <= set(summary)
    assert {f"irl.implicit.{metric}" for metric in METRICS} <= set(summary)
    for start in ("nonidentifiability.epic.max_entropy", "nonidentifiability.widest.epic", "ablation.released.pair_accuracy",
                  "ablation.null.label_accuracy", "ablation.best_of_78.", "experts.final.kl", "experts.greedy.auroc",
                  "place.rlhf.paper.range"):
        assert any(key.startswith(start) for key in summary), start
    assert {"median", "min", "max", "best_of_78"} <= set(summary["null.pair_accuracy"])
    names = ["baseline.length", "baseline.majority", "ceiling.true_reward", "ceiling.same_features",
             "baseline.null_max_entropy", "baseline.null_max_margin_published"]
    assert {f"{name}.{metric}" for name in names for metric in METRICS} <= set(summary)
    assert summary["baseline.length.pair_accuracy"] == pytest.approx(0.5), "the weighting leaves length nothing"
    assert summary["ceiling.true_reward.auroc"] == 1.0


def test_the_recovered_reward_of_the_run_can_be_used(smoke_run):
    """What chapter 05 hands on: a folder that scores texts as its features did."""
    from irlkit.irl.reward import RecoveredReward

    reward = RecoveredReward.from_pretrained(smoke_run / "artifacts/recovered_reward")
    scores = reward(completions=["have a nice day", "you are an idiot"])
    assert scores.shape == (2,) and scores[0] != scores[1]


def test_a_second_run_does_nothing(smoke_run):
    """An unchanged tree runs nothing: nobody waits twice."""
    def state():
        return {path: path.stat().st_mtime_ns for path in smoke_run.rglob("*") if path.is_file() and "logs" not in path.parts}
    before = state()
    assert "is up to date" in smoke().stdout
    assert state() == before
