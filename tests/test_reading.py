"""Texts of a run, each once: scores find their way back to completions and pairs; the linear fit picks its penalty without the truth."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from irlkit.evaluation import normalise
from irlkit.features import Projection, Readings
from irlkit.irl import choose, max_entropy
from irlkit.parameters import ParameterError
from irlkit.reading import Texts, best_linear, features_at
from irlkit.records import Run


@pytest.fixture
def run(tmp_path):
    """Artifacts of 60 prompts with four base completions and an expert's, and six pairs; some texts stand there twice."""
    random = np.random.default_rng(0)
    rows = [{"prompt": p, "sample": s, "source": "base", "completion": f"text {p % 50} {s}", "toxicity": random.uniform(0.01, 0.99),
             "split": ("train", "calibration", "test")[p % 3]} for p in range(60) for s in range(4)]
    rows += [{"prompt": p, "sample": 0, "source": "expert", "completion": "A nice text", "toxicity": 0.01,
              "split": ("train", "calibration", "test")[p % 3]} for p in range(60)]
    pairs = pd.DataFrame({"toxic": ["Bad one .", "Bad two", "bad three"] * 2, "neutral": ["a nice text", "Good", "text 0 0"] * 2})
    for side in ("neutral", "toxic"):
        pairs[f"{side}_normalised"] = pairs[side].map(normalise)
    (tmp_path / "artifacts").mkdir()
    pd.DataFrame(rows).to_parquet(tmp_path / "artifacts/demonstrations.parquet")
    pairs.to_parquet(tmp_path / "artifacts/preferences.parquet")
    return Run("x", SimpleNamespace(inputs=str(tmp_path), outputs=str(tmp_path)))


def test_every_text_stands_there_once_and_is_found_again(run):
    """A score of another text would still look like a result."""
    texts = Texts.load(run)
    assert len(set(texts.texts)) == len(texts.texts) < 300
    assert [texts.texts[i] for i in texts.place["own"]] == list(texts.table.completion)
    for side in ("neutral", "toxic", "neutral_normalised", "toxic_normalised"):
        assert [texts.texts[i] for i in texts.place[side]] == list(texts.pairs[side])
    expert = texts.choices("rlhf")
    assert {texts.texts[i] for i in expert.sets[:, 0]} == {"A nice text"}


def test_limits_keep_the_first_prompts_and_pairs(run):
    few = Texts.load(run, prompt_limit=6, preference_limit=2)
    assert set(few.table.prompt) == set(range(6)) and len(few.pairs) == 2 and len(few.true_reward) == len(few.table)
    assert len(few.truth.reward_test) == 8 and set(few.texts) < set(Texts.load(run).texts)


def test_the_true_reward_as_a_score_is_perfect(run):
    """Scores of calibration, test and pairs must each be judged against their own truth."""
    texts = Texts.load(run)
    scores = np.zeros((1, len(texts.texts)))
    rows = np.r_[texts.rows("calibration"), texts.rows("test")]
    unique = texts.table.iloc[np.r_[np.flatnonzero((texts.table.split != "train") & (texts.table.source == "base"))]]
    unique = unique.drop_duplicates("completion", keep=False).index
    scores[0, texts.place["own"][unique]] = texts.true_reward[unique]
    scores[0, [texts.texts.index(text) for text in ("good", "a nice text")]] = 20
    scores[0, [texts.texts.index(text) for text in ("bad one", "bad two", "bad three")]] = -20
    found = texts.metrics(scores)
    assert found["pair_accuracy"][0] == 1.0 and len(rows) == 160
    clean = np.isin(np.flatnonzero((texts.table.split == "test") & (texts.table.source == "base")), unique)
    test = scores[0, texts.rows("test")]
    assert spearmanr(test[clean], texts.truth.reward_test[clean]).statistic == pytest.approx(1.0)


def test_seeds_are_those_of_chapter_05(run):
    """One seed is all the data; more are bootstrap samples of the prompts, or new picks on all prompts."""
    texts = Texts.load(run)
    assert (texts.choices("rlhf").picks[:, :, 0] == 1).all() and (texts.choices("rlhf", seeds=3).picks[:, :, 0] != 1).any()
    exact = texts.choices("exact", seeds=3, picks=5)
    assert (exact.picks.sum(2) == 5).all() and (exact.picks[0] != exact.picks[1]).any()
    np.testing.assert_allclose(texts.choices("exact", picks=None).picks.sum(2), 1)


def test_reading_choices_keeps_the_texts_of_the_sets_alone(run):
    """The fit must not be slowed by texts it never sees, nor see another text than was picked."""
    texts = Texts.load(run)
    choices, phi = texts.choices("rlhf", "calibration"), np.arange(len(texts.texts), dtype=np.float32)[:, None]
    read = choices.read(phi)
    assert len(read.features) == len(np.unique(choices.sets[choices.sets >= 0]))
    np.testing.assert_array_equal(np.where(read.sets >= 0, read.features[read.sets, 0], -1), choices.sets)


def test_the_linear_fit_is_that_of_the_penalty_with_the_lowest_calibration_loss(run):
    texts, random = Texts.load(run), np.random.default_rng(1)
    phi = random.normal(size=(len(texts.texts), 5)).astype(np.float32)
    train, calibration, seeds = texts.choices("exact"), texts.choices("exact", "calibration"), texts.choices("exact", seeds=2)
    weights, loss = best_linear(phi, train, calibration, seeds)
    how = choose("max_entropy", train.with_features(phi), calibration.with_features(phi))
    whole = max_entropy.fit(train.with_features(phi), **how)
    assert loss == pytest.approx(max_entropy.mean_loss(whole, calibration.with_features(phi))[0], rel=1e-4)
    np.testing.assert_allclose(weights, max_entropy.fit(seeds.with_features(phi), **how), atol=2e-3)


def test_a_number_of_prompts_is_that_of_every_seed(run):
    """Few demonstrations must be few for both experts, and each seed's own."""
    texts = Texts.load(run)
    few = texts.choices("rlhf", seeds=4, size=7)
    assert (few.picks.sum((1, 2)) == 7).all() and len({tuple(picks[:, 0]) for picks in few.picks}) == 4
    assert (texts.choices("exact", seeds=4, size=7, picks=3).picks.sum((1, 2)) == 21).all()


def test_the_ceiling_finds_a_linear_truth(run):
    """Fitted on training completions alone: on the others it must hold as well."""
    texts = Texts.load(run)
    phi = np.zeros((len(texts.texts), 3), np.float32)
    phi[texts.place["own"]] = np.random.default_rng(2).normal(size=(len(texts.table), 3))
    truth = replace(texts, true_reward=(phi[texts.place["own"]] @ [1.0, -2.0, 0.5]).astype(np.float32))
    np.testing.assert_allclose(truth.ceiling(phi), [[1.0, -2.0, 0.5]], atol=0.05)


def test_a_place_is_its_pooling_and_layers():
    """“last 1” read as another layer or pooling would move every figure of the chapter and look as good."""
    random = np.random.default_rng(0)
    states = {name: random.normal(size=(30, 2, 4)).astype(np.float16) for name in ("mean", "max", "last")}
    readings = Readings((0, 1), **states, length=np.full(30, 9))
    phi = features_at(readings, "last 1", np.arange(20), None)
    np.testing.assert_allclose(phi, Projection.fit(states["last"][:20, 1].astype(np.float32))(states["last"][:, 1]), rtol=1e-5)
    assert features_at(readings, "root 0 1", np.arange(20), 5).shape == (30, 5)


def test_a_missing_artifact_is_named(tmp_path):
    with pytest.raises(ParameterError, match="demonstrations.parquet does not exist"):
        Texts.load(Run("x", SimpleNamespace(inputs=str(tmp_path), outputs=str(tmp_path))))
