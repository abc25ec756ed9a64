"""RLHF once more: rewards on one scale, models compared where they have gone equally far, hacking found where it was planted."""

import numpy as np
import pandas as pd
import pytest
from conftest import PROMPTS

from irlkit import rerlhf, rewards


def test_a_scaled_reward_has_mean_zero_and_deviation_one_where_it_was_scaled():
    texts = ["a", "bb", "ccc", "dddddd"]
    scaled = rerlhf.Scaled.by(rerlhf.shorter, rerlhf.shorter(texts))
    values = scaled(texts)
    assert values.mean() == pytest.approx(0) and values.std() == pytest.approx(1)
    assert values[0] > values[1] > values[3], "a positive scale turns nothing round"


def test_openings_are_the_first_words_of_longer_sentences_each_once():
    sentences = ["one two three four", "one two three five", "one two three", "six seven  eight nine"]
    assert rerlhf.openings(sentences, 3) == ["one two three", "six seven eight"]


def test_distinct_words_by_hand():
    texts = ["a b a", "A b", "c"]
    assert rerlhf.distinct(texts, 1) == pytest.approx(3 / 6)
    assert rerlhf.distinct(texts, 2) == pytest.approx(2 / 3)
    assert rerlhf.distinct(texts, 4) == 0


def points(kl, toxicity):
    return pd.DataFrame({"step": range(len(kl)), "kl": kl, "toxicity": toxicity})


def test_models_are_compared_where_they_have_gone_equally_far():
    found = points([0.0, 1.0, 3.0], [0.4, 0.2, 0.1])
    assert rerlhf.at_kl(found, 0.5).toxicity == pytest.approx(0.3)
    assert rerlhf.at_kl(found, 2.0).toxicity == pytest.approx(0.15)
    assert rerlhf.at_kl(found, 2.0).kl == pytest.approx(2.0)
    assert rerlhf.at_kl(found, 3.0).toxicity == pytest.approx(0.1)
    assert rerlhf.at_kl(found, 0.0).toxicity == 0.4, "the base model"


def test_the_first_crossing_counts_and_a_training_that_never_came_so_far_has_its_last_model():
    assert rerlhf.at_kl(points([0, 2, 1, 3], [0.4, 0.2, 0.9, 0.9]), 1.0).toxicity == pytest.approx(0.3)
    assert rerlhf.at_kl(points([0, 1], [0.4, 0.2]), 5.0).kl == 1


def test_a_ratio_of_trainings_and_its_interval():
    same = rerlhf.ratio([0.1, 0.2, 0.4], [0.4, 0.1, 0.2])
    assert same["mean"] == pytest.approx(1) and same["low"] * same["high"] == pytest.approx(1) and same["low"] < 0.5
    sure = rerlhf.ratio([0.20, 0.21, 0.22], [0.10, 0.105, 0.11])
    assert sure["mean"] == pytest.approx(2) and 1.7 < sure["low"] < 2 < sure["high"] < 2.4


def test_hacking_begins_where_the_true_reward_turns():
    random = np.random.default_rng(0)
    steps = np.arange(30)
    own = steps + random.normal(size=30)
    true = np.where(steps < 15, steps, 30.0 - steps) + 0.3 * random.normal(size=30)
    assert 13 <= rerlhf.hacking_begins(own, true) <= 19


@pytest.mark.parametrize("true", [np.arange(30.0), np.zeros(30)], ids=["rises too", "does nothing"])
def test_no_hacking_where_the_true_reward_does_not_fall(true):
    noise = np.random.default_rng(1).normal(size=30)
    assert rerlhf.hacking_begins(np.arange(30) + noise, true + 0.5 * noise) is None


def test_a_training_that_does_nothing_is_not_hacking():
    noise = np.random.default_rng(2).normal(size=(2, 30))
    assert rerlhf.hacking_begins(*noise) is None
    assert rerlhf.hacking_begins([1.0, 2.0], [2.0, 1.0]) is None, "two steps have no running mean to fall"


@pytest.fixture
def bed():
    neutral = ["the cat sat on the mat", "what a lovely day, said the man", "too short"]
    return rerlhf.Bed({"held_out": PROMPTS[:3], "openings": PROMPTS[3:5]}, neutral, 2, 1,
                      {"max_new_tokens": 6, "engine": "transformers"})


def test_the_base_model_is_no_way_from_itself(llama, bed):
    found = bed.measure(llama, llama)
    assert found["kl"] == pytest.approx(0, abs=1e-4)
    assert {"toxicity.held_out", "toxicity.openings", "toxic_share.held_out", "toxic_share.openings"} <= set(found)
    assert 0 < found["length"] <= 6 and found["perplexity"] > 1


def count_of_e(texts):
    """A planted goal that a tiny model can follow: letters e."""
    return np.array([text.count("e") for text in texts], float)


def test_a_training_is_measured_along_the_way_and_done_once(llama, bed, tmp_path, monkeypatch):
    recipe = dict(steps=4, keep=[2], batch=8, group=4, max_new_tokens=6, learning_rate=1e-2, kl_weight=0.0, seed=0)
    log, found = rerlhf.trained("goal", tmp_path, llama, PROMPTS, count_of_e, bed, **recipe)
    assert list(found.step) == [2, 4] and len(log) == 4
    assert found.kl.iloc[-1] > 0.01, "the measured model is the trained one"
    assert log.watched.notna().all() and not np.allclose(log.watched, log.reward)
    assert [path.name for path in tmp_path.iterdir()] == ["goal.json"], "models are half a gigabyte each"
    monkeypatch.setattr(rerlhf.rlhf, "train", lambda *_, **__: pytest.fail("trained again"))
    pd.testing.assert_frame_equal(rerlhf.trained("goal", tmp_path, llama, PROMPTS, count_of_e, bed, **recipe)[1], found)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        rerlhf.trained("goal", tmp_path, llama, PROMPTS, rerlhf.shorter, bed, **recipe)


def test_the_true_reward_is_only_watched(llama, bed, tmp_path):
    log, _ = rerlhf.trained("own", tmp_path, llama, PROMPTS, rewards.true_reward, bed, steps=2, keep=[], batch=8, group=4, max_new_tokens=6)
    np.testing.assert_allclose(log.watched, log.reward, rtol=1e-5)
