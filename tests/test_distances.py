"""Distances between rewards: what they must not see, what they must, and how they hang together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays

from irlkit import distances, tabular

PROMPTS = np.repeat(np.arange(5), [2, 3, 4, 2, 3])[np.random.default_rng(0).permutation(14)]
NUMBERS = some.floats(-5, 5).map(lambda value: round(value, 3))
REWARDS = arrays(float, (3, len(PROMPTS)), elements=NUMBERS, unique=True)
KINDS = pytest.mark.parametrize("distance", [distances.epic, distances.starc])


def between(distance, rewards):
    return distance(distances.canonical(np.asarray(rewards), PROMPTS))


@KINDS
@given(REWARDS, some.floats(0.01, 100), arrays(float, 5, elements=NUMBERS))
def test_scale_and_shaping_are_not_seen(distance, rewards, scale, shift):
    """Behaviour tells neither: a distance that saw one would call the same reward two."""
    twins = scale * rewards + shift[PROMPTS]
    np.testing.assert_allclose(between(distance, twins), between(distance, rewards), atol=1e-6)
    np.testing.assert_allclose(between(distance, [rewards[0], twins[0]])[0, 1], 0, atol=1e-6)


@KINDS
@given(REWARDS, arrays(float, 5, elements=NUMBERS))
def test_opposite_rewards_are_at_one(distance, rewards, shift):
    """Exactly one, whatever the shaping: the unit of the scale."""
    np.testing.assert_allclose(between(distance, [rewards[0], shift[PROMPTS] - 3 * rewards[0]])[0, 1], 1, atol=1e-6)


@KINDS
@given(REWARDS)
def test_a_distance_is_symmetric_and_obeys_the_triangle_inequality(distance, rewards):
    """Both are distances of vectors of norm one; a wrong square root breaks the triangle."""
    found = between(distance, rewards)
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    assert (found >= 0).all() and (found <= 1 + 1e-12).all()
    assert found[0, 2] <= found[0, 1] + found[1, 2] + 1e-7


@given(REWARDS)
def test_starc_with_the_euclidean_norm_is_epic(rewards):
    """A fact of this setting, which the book states: the two differ in the norm alone."""
    canonicals = distances.canonical(rewards, PROMPTS)
    np.testing.assert_allclose(distances.starc(canonicals, norm=2), distances.epic(canonicals), atol=1e-6)


def test_epic_by_hand():
    """Uncorrelated rewards are at √½, whichever texts come in between."""
    canonicals = distances.canonical(np.array([[1.0, -1.0, 0.0, 0.0], [5.0, 5.0, 2.0, 0.0]]), ["a", "a", "b", "b"])
    np.testing.assert_allclose(canonicals, [[1, -1, 0, 0], [0, 0, 1, -1]])
    np.testing.assert_allclose(distances.epic(canonicals), [[0, 0.5**0.5], [0.5**0.5, 0]], atol=1e-7)
    np.testing.assert_allclose(distances.starc(canonicals, canonicals[:1]), [[0], [1]])


@given(arrays(float, 16, elements=NUMBERS), some.floats(0, 0.95))
def test_a_potential_shaped_twin_is_at_zero(potential, discount):
    """In a gridworld shaping is not a number for each state: the canonical form must take γ Φ(s') off as well."""
    land = tabular.gridworld(4, 0.1, discount, 1)
    plain = np.random.default_rng(0).normal(size=(16, 5, 16))
    twin = 2 * (plain + tabular.shaped(land, np.zeros(16), potential))
    canonicals = np.stack([distances.canonical_tabular(reward, discount).ravel() for reward in (plain, twin)])
    np.testing.assert_allclose(canonicals[1], 2 * canonicals[0], atol=1e-8)
    assert distances.epic(canonicals)[0, 1] < 1e-6


def test_agreement_counts_pairs_of_one_prompt():
    """Pairs of two prompts would bring in what no behaviour tells."""
    pairs = distances.same_prompt(np.array([0, 1, 0, 1, 0]))
    assert sorted(map(tuple, pairs)) == [(0, 2), (0, 4), (1, 3), (2, 4)]
    rewards = np.array([[3.0, 2.0, 2.0, 1.0, 1.0], [3.0, 1.0, 1.0, 1.0, 2.0]])
    np.testing.assert_allclose(distances.agreement(rewards, pairs), [[1, (1 + 1 + 0.5 + 0) / 4], [2.5 / 4, 3.5 / 4]])


def test_to_others_leaves_the_zero_to_itself_out():
    """With it the median of few seeds would be too small."""
    np.testing.assert_allclose(distances.to_others(np.array([[0.0, 1, 3], [1, 0, 5], [3, 5, 0]])), [2, 3, 4])
