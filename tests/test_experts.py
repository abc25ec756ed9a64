"""From an expert to a reward: texts are looked up or read alike, and a planted goal is found."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import PROMPTS
from safetensors.numpy import save_file

from irlkit import experts, features
from irlkit.demonstrations import split_by_prompt
from irlkit.evaluation import Bench, normalise
from irlkit.generation import log_probs, sample
from irlkit.parameters import ParameterError
from irlkit.records import Run

pytestmark = pytest.mark.usefixtures("tiny_cache")
WORDS = ["the cat", "a lovely day", "you fool", "the weather", "an idiot", "that stupid thing", "the old man", "so the story goes"]


@pytest.fixture(scope="module")
def run(llama, tmp_path_factory):
    """What chapter 03 would publish of base completions of 60 prompts, with features read from the tiny model."""
    folder, random = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    (folder / "artifacts").mkdir()
    split = split_by_prompt(60, 0)
    table = pd.DataFrame([{"prompt": p, "sample": s, "source": "base", "split": split[p], "toxicity": random.uniform(0.01, 0.99),
                           "completion": " ".join(random.choice(WORDS, 3))} for p in range(60) for s in range(4)])
    pairs = pd.DataFrame({"toxic": ["You fool !", "an idiot", "you fool"], "neutral": ["the cat", "A lovely day", "the man"]})
    pairs = pairs.assign(**{f"{side}_normalised": pairs[side].map(normalise) for side in pairs})
    states = features.read(llama, list(table.completion), (1, 2), threads=1).pooled((1, 2), "root")
    projection = features.Projection.fit(states, 16)
    phi, few = projection(states), np.zeros((3, 16), np.float32)
    table.to_parquet(folder / "artifacts/demonstrations.parquet")
    pairs.to_parquet(folder / "artifacts/preferences.parquet")
    save_file(features.pack({"demonstrations": phi, "neutral": few, "toxic": few, "raw": few}), folder / "artifacts/features.safetensors",
              {"layers": "1 2", "pooling": "root", "model": str(llama)})
    projection.save(folder / "artifacts/projection.safetensors")
    return Run("x", SimpleNamespace(inputs=str(folder), outputs=str(folder)))


@pytest.fixture(scope="module")
def bench(run):
    return Bench.load(run)


@pytest.fixture(scope="module")
def reader(run, bench):
    return experts.Reader.load(run, bench)


def test_what_is_read_stands_where_what_is_published_stands(bench, reader):
    """Another layer, pooling or projection for new texts: the fit would tell experts from base texts by how they were read."""
    known = list(bench.table.completion[:20])
    np.testing.assert_array_equal(reader(known), bench.features[:20])
    error = np.linalg.norm(reader._read(known) - bench.features[:20]) / np.linalg.norm(bench.features[:20])
    assert error < 0.02, "only the rounding to 8 bits differs"
    mixed = reader([known[3], "a new text", known[5], "a new text"])
    np.testing.assert_array_equal(mixed[[0, 2]], bench.features[[3, 5]])
    np.testing.assert_array_equal(mixed[1], mixed[3])
    assert np.abs(mixed[1] - mixed[0]).max() > 0.01


def picked(bench, prefer):
    """An expert that takes the first base completion for which `prefer` is largest, and says it in words of its own."""
    best = bench.table.assign(score=bench.table.completion.map(prefer)).sort_values("score", ascending=False).groupby("prompt").head(1)
    return best.sort_values("prompt").assign(sample=0, completion=best.completion + ".")


def test_a_planted_goal_is_found(bench, reader):
    """Splits, choice sets or features of other prompts would leave nothing of it."""
    def goal(text):
        return text.count("cat") - text.count("fool")
    split = bench.table.groupby("prompt").split.first()
    table, phi = experts.demonstrations(bench.table, picked(bench, goal), split, reader)
    assert len(table) == len(phi) and set(table.source) == {"base", "expert"} and (table.split == split[table.prompt].to_numpy()).all()
    test = bench.rows("test")
    truth = bench.table.completion.iloc[test].map(goal)
    found = [np.corrcoef(bench.features[test] @ w, truth)[0, 1] for w in experts.recover(table, phi, 5)]
    assert len(found) == 5 and min(found) > 0.5 and len(set(found)) == 5
    null = [np.corrcoef(bench.features[test] @ w, truth)[0, 1] for w in experts.recover_null(bench.table, bench.features, 1, 5)]
    assert abs(np.median(null)) < np.median(found) - 0.3


def test_an_expert_that_is_the_base_model_is_refused(bench, reader):
    """Greedy texts of a weak expert are the base model's own: the fit would fail on an empty array, far from the cause."""
    split = bench.table.groupby("prompt").split.first()
    same = bench.table[bench.table["sample"] == 0]
    with pytest.raises(ParameterError, match="on the calibration and train prompts the expert writes what the base model writes"):
        experts.demonstrations(bench.table, same, split, reader)


def test_fewer_texts_are_judged_as_those_texts(bench):
    """A truth of all texts beside scores of some would pair each score with another text."""
    some = experts.fewer(bench, 2, 2)
    assert len(some.pairs) == len(some.neutral) == len(some.truth.weights) == 2
    kept = bench.table["sample"] < 2
    pd.testing.assert_frame_equal(some.table, bench.table[kept].reset_index(drop=True))
    np.testing.assert_array_equal(some.features, bench.features[kept])
    np.testing.assert_array_equal(some.truth.reward_test, bench.true_reward[kept & (bench.table.split == "test")])
    assert len(experts.fewer(bench, 99, 0).table) == len(bench.table)
    assert set(experts.fewer(bench, 99, 0, prompts=2).table.prompt) == {0, 1}


def test_the_effect_is_measured_on_the_experts_own_completions(llama, neox, monkeypatch):
    """KL of the wrong direction, or against the expert itself, is small or negative."""
    monkeypatch.setattr(experts, "linear_toxicity", lambda: lambda texts: np.array([len(text) for text in texts]))
    rows = sample(llama, PROMPTS, samples=3, max_new_tokens=6, engine="transformers", threads=1).to_pandas()
    assert experts.effect(llama, llama, PROMPTS, rows, engine="transformers", threads=1)["kl"] == 0
    found = experts.effect(llama, neox, PROMPTS, rows, engine="transformers", threads=1)
    ours, theirs = (np.array([values.sum() for values in log_probs(
        model, [PROMPTS[i] for i in rows.prompt], list(rows.tokens), engine="transformers", threads=1)]) for model in (llama, neox))
    assert found["kl"] == pytest.approx((ours - theirs).mean()) and found["kl"] > 0
    assert found["toxicity"] == pytest.approx(rows.completion.str.len().mean())
