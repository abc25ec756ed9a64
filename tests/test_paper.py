"""The paper's profiles: every notebook, with the values of paper.yaml, on tiny models and data that are built like the paper's."""

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import TEXTS, roberta_in, saved, tokenizer
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from irlkit import features, machine, records
from irlkit.settings import NOTEBOOKS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow"))
from chapters import CHAPTERS  # noqa: E402

# All that differs from profiles/paper.yaml, beside the hub ids: fewer and shorter. Layers, blocks and the rest are the profile's.
SHORT = {"max_new_tokens": 6}
TRAINING = {"steps": 2, "keep": [1], "learning_rate": 1e-3}
FEW = {"seeds": 3, "sample_size": 10}
SMALLER = {
    "00-tabular-irl": {"seeds": 2, "size": 4, "demonstrations": [10]},
    "01-data-and-true-reward": SHORT,
    "02-rlhf": {**SHORT, **TRAINING, "expert_samples": 2},
    "03-demonstrations": {**SHORT, "dimension": 16},
    "04-max-margin-irl": {**FEW, "epochs": 3},
    "05-reward-accuracy": {**FEW, "null_runs": 3, "sizes": [10], "noise": [0.4], "resamples": 20},
    "05b-reading-place": {**FEW, "layers": [0, 6], "model_seeds": 2, "model_epochs": 1, "head_layers": [2], "units": 4, "epochs": 1,
                          "preference_limit": 20},
    "05c-which-expert": {**SHORT, **TRAINING, "seeds": 3},
    "06-non-identifiability": {**FEW, "epochs": 3, "sizes": [10], "tolerances": [0.03], "penalties": [0.01], "fractions": [0.5],
                               "penalty": 0.001, "members": 3, "iterations": 2, "resamples": 20},
    "09-model-size": {**SHORT, **TRAINING, "sizes": [2, 6], "runs": 2, "seeds": 2, "distil_texts": 32, "prompt_limit": 40, "samples": 3,
                      "judge_prompts": 0, "preference_limit": 20},
    "10-rlhf-again": {**SHORT, **TRAINING, "seeds": 2, "held_out": 5, "neutral_texts": 5, "poor_of": 3},
    "11-released-code": {"seeds": 3, "runs": 5, "texts": 20, "held_out": 20, "preference_limit": 10, "sample_size": 10, "epochs": 2},
}


def neox(folder, blocks, seed):
    """A GPT-NeoX of width 16, its vocabulary larger than its tokenizer's, which has no padding token: as with Pythia."""
    words = tokenizer(pad=False, pieces=300)
    assert words.pad_token is None
    torch.manual_seed(seed)
    return saved(GPTNeoXForCausalLM(GPTNeoXConfig(
        vocab_size=len(words) + 27, hidden_size=16, intermediate_size=32, num_hidden_layers=blocks, num_attention_heads=2,
        max_position_embeddings=2048, initializer_range=0.3, bos_token_id=0, eos_token_id=0)), words, folder)


def gpt2(folder):
    """A model of another family, with learned positions, and output weights that are its embeddings."""
    words = tokenizer(pad=False)
    torch.manual_seed(6)
    return saved(GPT2LMHeadModel(GPT2Config(
        vocab_size=len(words), n_embd=16, n_layer=4, n_head=2, initializer_range=0.3, bos_token_id=0, eos_token_id=0)), words, folder)


def data_set(folder, rows):
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def sentences(count, seed):
    draw, words = random.Random(seed), " ".join(TEXTS).split()
    return [" ".join(draw.choices(words, k=draw.randint(4, 9))) for _ in range(count)]


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    """{hub id: local folder} of what the profiles name: models of the same architecture, data of the same columns."""
    folder = tmp_path_factory.mktemp("hub")
    jigsaw = [{"prompt": text, "original_output": "…"} for text in sentences(100, 1)]
    prompts = [{"filename": "a.txt", "challenging": False, "prompt": {"text": text, "toxicity": 0.1}, "continuation": {"text": "…"}}
               for text in sentences(9, 2)]
    rewritten = [{"en_toxic_comment": f"{text} fool", "en_neutral_comment": text} for text in sentences(40, 3)]
    return {
        "lomahony/eleuther-pythia70m-hh-sft": neox(folder / "70m", 6, 3),
        "lomahony/eleuther-pythia410m-hh-sft": neox(folder / "410m", 24, 4),
        "openai-community/gpt2": gpt2(folder / "gpt2"), "openai-community/gpt2-medium": folder / "gpt2",
        "s-nlp/roberta_toxicity_classifier": roberta_in(folder / "roberta"),
        "jaredjoss/jigsaw-long-2000": data_set(folder / "jigsaw", jigsaw),
        "allenai/real-toxicity-prompts": data_set(folder / "rtp", prompts), "s-nlp/paradetox": data_set(folder / "paradetox", rewritten)}


def tiny(profile, local):
    """A profile's values with local folders in place of hub ids, and SMALLER."""
    values = yaml.safe_load((ROOT / f"profiles/{profile}.yaml").read_text(encoding="utf-8"))
    named = {value for notebook in values.values() for value in notebook.values() if isinstance(value, str) and "/" in value}
    assert named <= set(local), "the fixture stands in for all that the profile fetches"
    both = {name: values.get(name, {}) | SMALLER.get(name, {}) for name in CHAPTERS if name in values or name in SMALLER}
    return {name: {key: str(local.get(value, value)) if isinstance(value, str) else value for key, value in own.items()}
            for name, own in both.items()}


@pytest.fixture(scope="session")
def paper_run(local, tmp_path_factory):
    """The run folder of all notebooks in a copy of the tree, by the workflow's own command."""
    tree = tmp_path_factory.mktemp("tree")
    for part in ("irlkit", "notebooks", "workflow", "data", "profiles"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "profiles/tiny.yaml").write_text(yaml.safe_dump(tiny("paper", local)))
    offline = {"HF_DATASETS_CACHE": str(tree / "datasets"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "workflow/run.py", "--profile", "tiny", "--cores", "1"]
    done = subprocess.run(command, cwd=tree, env={**os.environ, **offline}, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    records.merge_summaries(tree / "runs/tiny", "tiny")
    return tree / "runs/tiny"


def test_every_notebook_runs_with_the_papers_values(paper_run):
    """A layer, a number of blocks, a label or a column that only the laptop's models and data have would fail here."""
    for name in CHAPTERS:
        code = [cell for cell in nbformat.read(paper_run / f"notebooks/{name}.ipynb", as_version=4).cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code)
        rows = pd.read_csv(paper_run / f"rows/{name}.csv")
        assert list(rows.columns) == records.ROW_COLUMNS and len(rows) > 0 and rows.value.notna().all()


def test_its_summary_is_of_the_named_models_and_data(paper_run):
    """The notebooks' defaults taken for a value of the profile would fill the summary as well."""
    summary = json.loads((paper_run / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in the summary"))
    assert (summary["data.prompts"], summary["data.samples"], summary["data.preference_pairs"]) == (100, 8, 40)
    assert set(summary["features.layers"].split()) <= set("01234") and summary["rlhf.steps"] == 2
    of_each = {"irl.max_entropy.auroc", "rerlhf.ratio", "rerlhf.transfer.kl", "ablation.released.pair_accuracy", "experts.final.kl",
               "nonidentifiability.widest.epic", "reward_model.auroc", "size.equal_kl", "scale.70m.hours"}
    assert of_each <= set(summary)
    completions = pd.read_parquet(paper_run / "artifacts/base_completions.parquet")
    assert 0 < completions.toxicity.min() < 0.5 < completions.toxicity.max() < 1 and completions.toxicity.nunique() > 100


@pytest.fixture(scope="session")
def own_pair(llama, local, tmp_path_factory):
    """The run of a reader who brings a model with a chat template, an expert trained elsewhere, and a third model that reads."""
    folder = tmp_path_factory.mktemp("own")
    words, network = AutoTokenizer.from_pretrained(llama), AutoModelForCausalLM.from_pretrained(llama)
    words.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}answer:"
    for name in ("base", "expert"):
        saved(network, words, folder / name)
        network.model.embed_tokens.weight.data += 0.05  # the expert is another model
    (folder / "prompts.txt").write_text("\n".join(sentences(60, 7)))
    common = {"base_model": folder / "base", "prompts": folder / "prompts.txt", "engine": "transformers", "max_new_tokens": 6,
              "true_reward": local["s-nlp/roberta_toxicity_classifier"], "preferences": local["s-nlp/paradetox"]}
    steps = {"01-data-and-true-reward": {"chat": True}, "02-rlhf": {"chat": True, "expert_model": folder / "expert", "expert_samples": 3},
             "03-demonstrations": {"base_model": local["lomahony/eleuther-pythia70m-hh-sft"], "layers": "[1, 6]", "dimension": 8}}
    for name, own in steps.items():
        taken = NOTEBOOKS[name].model_fields
        values = {key: value for key, value in (common | own).items() if key in taken}
        values |= {"inputs": folder / "run", "outputs": folder / "run"}
        given = [("-y", f"{key}: {value}") if key == "layers" else ("-p", key, str(value)) for key, value in values.items()]
        command = [sys.executable, "-m", "papermill", f"notebooks/{name}.ipynb", str(folder / f"{name}.ipynb"), "--cwd", ".",
                   "-k", "python3", "--no-progress-bar", *[word for words in given for word in words]]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(folder / "datasets")},
                              capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run"


def test_an_expert_trained_elsewhere_is_taken_as_it_is(own_pair):
    """Nothing is trained, and what is shown is the expert's own writing, on prompts put as it was taught."""
    summary = json.loads((own_pair / "summary/02-rlhf.json").read_text())
    assert summary["rlhf.steps"] == 0 and abs(summary["rlhf.kl"]) > 0.01 and not (own_pair / "cache/expert").exists()
    prompts = pd.read_parquet(own_pair / "artifacts/prompts.parquet").text
    assert all(text.startswith("user: ") and text.endswith(" answer:") for text in prompts)
    assert len(pd.read_parquet(own_pair / "artifacts/expert_completions.parquet")) == 3 * len(prompts)


def test_texts_are_read_by_a_model_with_another_tokenizer(own_pair, llama, local):
    """Token numbers of the model that wrote, taken for those of the one that reads, would be other texts."""
    reader = local["lomahony/eleuther-pythia70m-hh-sft"]
    table = pd.read_parquet(own_pair / "artifacts/demonstrations.parquet")
    texts = list(table.completion)
    ids = [AutoTokenizer.from_pretrained(model)(texts).input_ids for model in (llama, reader)]
    assert ids[0] != ids[1]
    with safe_open(own_pair / "artifacts/features.safetensors", "numpy") as file:
        note = file.metadata()
    states = features.read(reader, texts, [int(layer) for layer in note["layers"].split()])
    phi = features.Projection.load(own_pair / "artifacts/projection.safetensors")(states.pooled(states.layers, note["pooling"]))
    np.testing.assert_allclose(features.unpack(own_pair / "artifacts/features.safetensors")["demonstrations"], phi, atol=0.02)


def test_the_larger_profile_fits_the_larger_model(local):
    """All values of 410M are checked by the settings; its layers and blocks must be those of a model with 24."""
    values = tiny("paper-410m", local)
    for name, own in values.items():
        NOTEBOOKS[name].checked(own)
    small = yaml.safe_load((ROOT / "profiles/paper.yaml").read_text(encoding="utf-8"))
    large = yaml.safe_load((ROOT / "profiles/paper-410m.yaml").read_text(encoding="utf-8"))
    assert {name: set(own) for name, own in small.items()} == {name: set(own) for name, own in large.items()}
    for profile, blocks, trained in ((small, 6, 4), (large, 24, 3)):
        model = local[profile["02-rlhf"]["base_model"]]
        assert AutoConfig.from_pretrained(model).num_hidden_layers == blocks == profile["11-released-code"]["layer"]
        assert profile["02-rlhf"]["frozen_blocks"] == blocks - trained
        assert profile["05b-reading-place"]["places"][0] == f"last {blocks}" and max(profile["05b-reading-place"]["layers"]) == blocks


@pytest.mark.parametrize("profile", ["paper", "paper-410m"])
def test_every_value_says_where_it_is_from(profile):
    """A number without its source would pass for the paper's."""
    lines = (ROOT / f"profiles/{profile}.yaml").read_text(encoding="utf-8").splitlines()
    values = [line for line in lines if line.startswith("  ")]
    assert len(values) > 50 and all(any(word in line.split("#", 1)[1] for word in ("the paper", "released", "ours")) for line in values)


def test_documented_commands_name_what_there_is():
    """A profile, a parameter or a variable that is not there would be found by the reader who types the command."""
    text = (ROOT / "book/how-to-run.md").read_text(encoding="utf-8")
    profiles = set(re.findall(r"make book PROFILE=([\w-]+)", text))
    assert {"paper", "paper-410m"} <= profiles <= {path.stem for path in (ROOT / "profiles").glob("*.yaml")} | {"laptop", "mine"}
    assert set(re.findall(r"IRLKIT_\w+", text)) == {machine.AT_ONCE, "IRLKIT_CACHE"}
    commands = re.findall(r"^papermill notebooks/([\w-]+)\.ipynb (.*)$", text, re.MULTILINE)
    assert len(commands) >= 5
    for name, rest in commands:
        words = shlex.split(rest)
        plain = {words[i + 1]: yaml.safe_load(words[i + 2]) for i, word in enumerate(words) if word == "-p"}
        given = [yaml.safe_load(words[i + 1]) for i, word in enumerate(words) if word == "-y"]
        NOTEBOOKS[name].checked(plain | {key: value for values in given for key, value in values.items()})
