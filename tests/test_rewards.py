"""The true reward from plain arrays is the original classifier's; masking hides what it finds toxic."""

import joblib
import numpy as np
import pytest

from irlkit import assets, rewards


@pytest.fixture(scope="module")
def texts():
    return [*assets.prompts(), *assets.preferences()["neutral"], "", "Ünïcode 12 émigré", "a b c"]


def test_scores_equal_the_original_classifier(texts):
    folder = assets.linear_toxicity()
    vectorizer, model = joblib.load(folder / "vectorizer.joblib"), joblib.load(folder / "model.joblib")
    original = model.predict_proba(vectorizer.transform(texts))[:, 1]
    np.testing.assert_allclose(rewards.LinearToxicity(folder)(texts), original, rtol=0, atol=1e-6)


def test_the_reward_is_minus_the_logit(texts):
    p = np.clip(rewards.linear_toxicity()(texts[:50]), rewards.CLIP, 1 - rewards.CLIP)
    np.testing.assert_allclose(rewards.true_reward(texts[:50]), np.log((1 - p) / p), atol=1e-9)
    assert np.abs(rewards.true_reward(texts)).max() <= -np.log(rewards.CLIP)


def test_a_text_scores_the_same_alone_and_among_others(texts):
    together = rewards.true_reward(texts[:20])
    alone = [rewards.true_reward([text])[0] for text in texts[:20]]
    np.testing.assert_allclose(together, alone, atol=1e-12)


def test_no_texts_give_no_scores():
    assert rewards.linear_toxicity()([]).shape == rewards.true_reward([]).shape == (0,)


def test_people_prefer_what_the_reward_prefers():
    pairs = assets.preferences()
    higher = rewards.true_reward(pairs["neutral"].tolist()) > rewards.true_reward(pairs["toxic"].tolist())
    assert higher.mean() == pytest.approx(0.97, abs=0.01)


def test_a_word_alone_has_its_word_probability():
    words = rewards.linear_toxicity().word_probability
    some = list(words)[::500]
    np.testing.assert_allclose([words[w] for w in some], rewards.linear_toxicity()(some), atol=1e-12)


def test_masking_keeps_first_letters_and_everything_harmless():
    assert rewards.mask("You IDIOT, idiots & <b>friend</b>!") == "You I····, i····· & <b>friend</b>!"
    assert rewards.mask("superidiotical") == "s·············"
    assert rewards.mask("a lovely day") == "a lovely day"


def test_masking_hides_the_toxic_side_of_the_preferences():
    masked = [rewards.mask(text) for text in assets.preferences()["toxic"]]
    assert np.mean(["·" in text for text in masked]) > 0.95
