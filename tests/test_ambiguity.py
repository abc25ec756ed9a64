"""The widest pair: closed forms on ellipsoids, exact feasibility, and an ambiguity that was planted."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from irlkit import ambiguity, distances
from irlkit.demonstrations import Choices
from irlkit.irl import max_entropy
from irlkit.parameters import ParameterError


def toy(width=4, sets=60, candidates=5, picks=4, seed=0, scale=1.0):
    """Choices of an expert with known weights; the last set has one candidate fewer."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(sets * candidates, width))
    places = np.arange(sets * candidates).reshape(sets, candidates)
    places[-1, -1] = -1
    weights = scale * np.linspace(-1, 1, width)
    chance = np.where(places >= 0, np.exp(features @ weights)[places], 0)
    drawn = np.stack([random.multinomial(picks, row / row.sum()) for row in chance])[None].astype(float)
    return Choices(features, places, places >= 0, drawn)


@pytest.fixture(scope="module")
def case():
    choices = toy()
    texts = distances.canonical(choices.features[:200].T, np.repeat(np.arange(40), 5)).T
    return SimpleNamespace(choices=choices, fits=ambiguity.Fits.around(choices), texts=texts)


def epic(pair, texts):
    return distances.epic(pair @ texts.T)[0, 1]


def test_slope_and_curvature_are_the_derivatives_of_the_loss(case):
    """A wrong Hessian would still give a pair, only not the widest."""
    fits, weights = case.fits, torch.tensor([0.3, -1.0, 0.2, 0.7], dtype=torch.float64)
    arrays = (case.choices.features, case.choices.sets, case.choices.picks, 0.1)
    penalised = ambiguity.Fits(fits.features, fits.sets, fits.picks, 0.1, fits.best, fits.hessian)
    loss = lambda w: penalised.loss(w[None])[0]  # noqa: E731
    np.testing.assert_allclose(ambiguity.gradient(weights.numpy(), *arrays), torch.func.grad(loss)(weights), atol=1e-12)
    np.testing.assert_allclose(ambiguity.hessian(weights.numpy(), *arrays), torch.autograd.functional.hessian(loss, weights), atol=1e-12)


def test_the_best_fit_is_the_minimum(case):
    """Excesses are counted from ŵ: from any other point the set would be another."""
    nearby = case.fits.best.numpy() + 1e-3 * np.random.default_rng(0).normal(size=(20, 4))
    assert (case.fits.excess(nearby) > 0).all()
    np.testing.assert_allclose(case.fits.best, max_entropy.fit(case.choices, 0.0)[0], atol=1e-3)


def test_separable_demonstrations_are_refused_without_a_penalty():
    """There the reward grows for ever, and no set around a best fit exists."""
    choices = Choices(np.array([[1.0], [0.0]]), np.array([[0, 1]]), np.array([[True, True]]), np.array([[[1.0, 0.0]]]))
    with pytest.raises(ParameterError, match="penalty = 0.0: .* without bound"):
        ambiguity.Fits.around(choices)
    assert 0 < ambiguity.Fits.around(choices, 0.1).best[0] < 5


def test_a_feature_that_no_choice_tells_is_refused_without_a_penalty(case):
    """Its weight is free: the set has no end in that direction."""
    with pytest.raises(ParameterError, match="without bound"):
        ambiguity.Fits.around(case.choices.with_features(np.hstack([case.choices.features, np.ones((300, 1))])))


@pytest.mark.parametrize("tolerance", [1e-4, 0.01, 0.3])
def test_the_edge_is_where_the_tolerance_is_used_up(case, tolerance):
    """All members that are compared sit exactly on the bound, random ones too."""
    np.testing.assert_allclose(case.fits.excess(ambiguity.random_members(case.fits, tolerance, 30)), tolerance, rtol=1e-6)


def test_the_edge_has_the_right_slope(case):
    """The optimiser follows it: the implicit derivative against finite differences."""
    direction = torch.tensor([[1.0, 0.5, -0.2, 0.1]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: case.fits.edge(d, 0.05), direction, atol=1e-5)


def ellipsoid(seed, width=3):
    random = np.random.default_rng(seed)
    roots = random.normal(size=(2, 2 * width, width))
    return random.normal(size=width) * 3, roots[0].T @ roots[0], roots[1].T @ roots[1]


@pytest.mark.parametrize("seed", range(5))
def test_no_pair_in_an_ellipsoid_is_wider_than_the_closed_form(seed):
    """It is reached by a pair on the edge, and by no pair of many random ones, which come near."""
    best, curvature, gram = ellipsoid(seed)
    tolerance = 0.2 * best @ curvature @ best / 2
    pair, widest = ambiguity.ellipsoid_pair(best, curvature, gram, tolerance)
    np.testing.assert_allclose([(w - best) @ curvature @ (w - best) / 2 for w in pair], tolerance)
    root = np.linalg.cholesky(gram)
    assert epic(pair, root.T) == pytest.approx(widest)
    sphere = np.random.default_rng(seed).normal(size=(1500, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    found = best + np.sqrt(2 * tolerance) * sphere @ np.linalg.cholesky(np.linalg.inv(curvature)).T
    assert 0.97 * widest < distances.epic(found @ root).max() <= widest + 1e-9


def test_opposite_rewards_fit_where_no_reward_at_all_does():
    """Where zero lies in the set, the data do not even tell a reward from its opposite."""
    best, curvature, gram = ellipsoid(0)
    assert ambiguity.ellipsoid_pair(best, curvature, gram, 1.1 * best @ curvature @ best / 2)[1] == pytest.approx(1, abs=1e-6)


def test_with_a_small_tolerance_the_widest_pair_is_the_closed_form(case):
    """Near its minimum the loss is its quadratic approximation: the optimiser has to come to the same."""
    closed = ambiguity.ellipsoid_pair(case.fits.best.numpy(), case.fits.hessian, ambiguity.covariance(case.texts), 1e-5)[1]
    pair, found = ambiguity.widest_pair(case.fits, case.texts, 1e-5, starts=3, iterations=60)
    assert epic(pair, case.texts) == pytest.approx(closed, rel=0.01)
    np.testing.assert_allclose(found, closed, rtol=0.01)


@pytest.mark.parametrize("tolerance", [0.01, 0.1])
def test_the_widest_pair_fits_and_is_wider_than_luck_finds(case, tolerance):
    """Out of the set any pair is wider; from every start the optimiser should come to the same."""
    pair, found = ambiguity.widest_pair(case.fits, case.texts, tolerance, starts=3, iterations=60)
    assert (case.fits.excess(pair) <= tolerance * (1 + 1e-9)).all()
    lucky = distances.epic(ambiguity.random_members(case.fits, tolerance, 200) @ case.texts.T).max()
    assert epic(pair, case.texts) > lucky
    assert found.min() > 0.97 * found.max()


def test_a_planted_ambiguity_is_found(case):
    """A feature that never varies within a choice set is told by no choice: the pair must use it, one for and one against."""
    constant = np.repeat(np.random.default_rng(1).normal(size=60), 5)[:, None]
    choices = case.choices.with_features(np.hstack([case.choices.features, constant]))
    texts = np.hstack([case.texts, np.random.default_rng(2).normal(size=(200, 1))])
    pair, _ = ambiguity.widest_pair(ambiguity.Fits.around(choices, 1e-4), texts, 0.01, iterations=60)
    assert epic(pair, texts) > 0.9 and pair[0, 4] * pair[1, 4] < 0
    assert epic(pair[:, :4], case.texts) < 0.3


def test_what_is_out_of_the_set_is_drawn_in(case):
    """A member a hair too far would make the ambiguity larger than stated."""
    far = case.fits.best.numpy() + np.array([[2.0, 0, 0, 0], [1e-4, 0, 0, 0]])
    near = ambiguity.inside(case.fits, far, 0.01)
    assert (case.fits.excess(near) <= 0.01).all()
    np.testing.assert_array_equal(near[1], far[1])


def test_the_scale_of_a_second_expert_is_found():
    """Two temperatures are one reward at two scales; at the wrong one the experts would contradict each other."""
    both, scale = ambiguity.joint(toy(sets=400, picks=8), toy(sets=400, picks=8, seed=1, scale=3.0))
    assert scale == pytest.approx(3, rel=0.1)
    np.testing.assert_allclose(ambiguity.Fits.around(both).best, np.linspace(-1, 1, 4), atol=0.15)


def test_losses_of_choice_sets_average_to_the_loss(case):
    """The standard error over prompts is of this very loss."""
    weights = np.random.default_rng(3).normal(size=(2, 4))
    found = np.average(ambiguity.losses(weights, case.choices), axis=1, weights=case.choices.picks[0].sum(1))
    np.testing.assert_allclose(found, max_entropy.mean_loss(weights, case.choices), rtol=1e-5)
