"""Calibration of pair probabilities: closed forms, and invariance to the scale of a reward."""

import numpy as np
import pytest

from irlkit import calibration


@pytest.fixture
def gaps():
    """Gaps d whose true probability of being right is σ(2|d|)."""
    random = np.random.default_rng(0)
    size = random.exponential(1.0, 20_000)
    return np.where(random.random(20_000) < 1 / (1 + np.exp(-2 * size)), size, -size)


def test_the_scale_is_found(gaps):
    assert calibration.pair_scale(gaps[None])[0] == pytest.approx(2, rel=0.05)


def test_another_unit_of_reward_changes_no_probability(gaps):
    """The scale of a recovered reward is arbitrary: calibrated figures must not depend on it."""
    both = np.stack([gaps, 1000 * gaps])
    scale = calibration.pair_scale(both)
    assert scale[0] == pytest.approx(1000 * scale[1], rel=1e-2)
    error = calibration.calibration_error(both, scale)
    assert error[0] == pytest.approx(error[1], abs=2e-3) and error[0] < 0.02


def test_an_overconfident_reward_has_a_large_error(gaps):
    assert calibration.calibration_error(gaps[None], [50.0])[0] > 0.1


def test_error_of_a_case_by_hand():
    """Four gaps of |d| = ln 3, so P = ¾; two of them right: |½ − ¾| = ¼."""
    gaps = np.log(3) * np.array([1, 1, -1, -1])
    assert calibration.calibration_error(gaps[None], [1.0])[0] == pytest.approx(0.25)
    table = calibration.reliability(gaps, 1.0)
    assert table.share.tolist() == [1] and table.accuracy.tolist() == [0.5]


def test_rewrites_of_one_sentence_stay_together():
    """A sentence on both sides would let the calibration see the test."""
    sentence = np.repeat(np.arange(200), 3)
    chosen = calibration.split_pairs(sentence, 0.2, 1)
    assert (chosen.reshape(200, 3).sum(1) % 3 == 0).all() and 0.1 < chosen.mean() < 0.3
