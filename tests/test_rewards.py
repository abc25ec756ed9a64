"""The true reward from plain arrays is the original classifier's; masking hides what it finds toxic."""

import joblib
import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from irlkit import assets, rewards
from irlkit.parameters import ParameterError


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


def test_a_classifier_of_transformers_gives_its_own_probability(roberta):
    """The wrong label's probability, or one that depends on who else is in the batch, is another reward."""
    texts = ["you fool", "a lovely day, said the old man", "so it goes", ""]
    words, network = AutoTokenizer.from_pretrained(roberta), AutoModelForSequenceClassification.from_pretrained(roberta)
    own = [network(**words(text, return_tensors="pt")).logits.softmax(1)[0, 1].item() for text in texts[:3]]
    found = rewards.toxicity(texts, str(roberta))
    np.testing.assert_allclose(found[:3], own, atol=1e-5)
    assert found.shape == (4,) and np.ptp(found) > 0.01
    np.testing.assert_allclose(rewards.true_reward(texts, str(roberta)), np.log(1 - found) - np.log(found), atol=1e-6)
    assert rewards.toxicity([], str(roberta)).shape == (0,)


def test_a_text_too_long_for_the_classifier_is_cut_off(roberta):
    """One completion of 128 tokens would end the run with an index out of range."""
    long = "the cat sat on the mat " * 30
    assert rewards.toxicity([long], str(roberta)) == rewards.toxicity([long + "you fool"], str(roberta))


def test_labels_of_their_own_are_probabilities_of_their_own(roberta, tmp_path):
    """A classifier that gives several labels at once has a sigmoid for each; a softmax would let the others decide."""
    network, words = AutoModelForSequenceClassification.from_pretrained(roberta), AutoTokenizer.from_pretrained(roberta)
    network.config.problem_type, network.config.id2label = "multi_label_classification", {0: "insult", 1: "Toxic"}
    network.save_pretrained(tmp_path / "many")
    words.save_pretrained(tmp_path / "many")
    logit = network(**words("you fool", return_tensors="pt")).logits[0, 1].item()
    assert rewards.toxicity(["you fool"], str(tmp_path / "many"))[0] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)


def test_a_classifier_without_a_toxic_label_is_refused(roberta, tmp_path):
    """LABEL_1 may be either."""
    network, words = AutoModelForSequenceClassification.from_pretrained(roberta), AutoTokenizer.from_pretrained(roberta)
    network.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    network.save_pretrained(tmp_path / "unnamed")
    words.save_pretrained(tmp_path / "unnamed")
    with pytest.raises(ParameterError, match="true_reward: the classifier in .* has the labels label_0, label_1; one called 'toxic' is"):
        rewards.toxicity(["you fool"], str(tmp_path / "unnamed"))
