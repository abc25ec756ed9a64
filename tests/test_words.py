"""Word features: only the words of the training texts count."""

import numpy as np
import pytest

from irlkit.parameters import ParameterError
from irlkit.words import Words, side_by_side

TRAINING = ["the cat sat", "the cat ran", "a dog sat", "one dog alone"]


def test_words_outside_the_training_vocabulary_are_ignored():
    """Words of test texts in the vocabulary would be a leak; words of one training text alone are noise."""
    words = Words.fit(TRAINING)
    assert sorted(words.vectorizer.vocabulary_) == ["cat", "dog", "sat", "the"]
    found = words(["the cat", "the zebra cat", "zebras", ""])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2:], 0)
    assert found.shape == (4, 4) and found.dtype == np.float32


def test_known_texts_have_length_one():
    np.testing.assert_allclose(np.linalg.norm(Words.fit(TRAINING)(TRAINING), axis=1), 1, rtol=1e-6)


def test_no_common_word_is_refused():
    with pytest.raises(ParameterError, match="least: no word stands in 3 of the 4 texts"):
        Words.fit(TRAINING, least=3)


def test_a_penalty_for_each_block_is_one_penalty_on_scaled_blocks():
    """Ridge with λ_b on block b, in closed form, predicts the same as ridge with λ = 1 on the blocks side by side."""
    random = np.random.default_rng(0)
    blocks, penalties, target = [random.normal(size=(40, p)) for p in (3, 2)], [0.5, 8.0], random.normal(size=40)
    both, scaled = np.concatenate(blocks, 1), side_by_side(blocks, penalties)
    by_hand = both @ np.linalg.solve(both.T @ both + np.diag([0.5] * 3 + [8.0] * 2), both.T @ target)
    np.testing.assert_allclose(scaled @ np.linalg.solve(scaled.T @ scaled + np.eye(5), scaled.T @ target), by_hand, rtol=1e-5)


@pytest.mark.parametrize("penalties", [[1.0], [1.0, 0.0], [1.0, 2.0, 3.0]])
def test_penalties_that_do_not_fit_are_refused(penalties):
    with pytest.raises(ParameterError, match="2 are needed, one a block, each above 0"):
        side_by_side([np.ones((2, 1)), np.ones((2, 1))], penalties)
