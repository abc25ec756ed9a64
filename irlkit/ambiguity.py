"""How far apart can two rewards be that fit the demonstrations equally well? Found by optimisation, not by luck (book, eq. widest-pair).

The rewards in question form a convex set around the best fit ŵ: {w : L(w) ≤ L(ŵ) + ε}, with L the loss of maximum entropy IRL in nats
a choice. Everything is in double precision, since ε is small.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.optimize import minimize
from scipy.sparse import csr_array

from irlkit.irl import max_entropy
from irlkit.irl.common import choice_scores, lbfgs, tensors
from irlkit.parameters import ParameterError


@dataclass(frozen=True)
class Fits:
    """The loss L of one seed's demonstrations around its minimum.

    features [T, p] (of the texts in a set), sets [n, C], picks [1, n, C]: as in Choices, as tensors; penalty λ; best: ŵ [p];
    hessian [p, p] of L at ŵ.
    """

    features: torch.Tensor
    sets: torch.Tensor
    picks: torch.Tensor
    penalty: float
    best: torch.Tensor
    hessian: np.ndarray

    @classmethod
    def around(cls, choices, penalty=0.0):
        """Find ŵ for the first seed of `choices`; ParameterError if L has no minimum, as without a penalty it may not."""
        choices = choices.first().read(choices.features)
        arrays = (np.asarray(choices.features, float), choices.sets, np.asarray(choices.picks, float), penalty)
        fits = cls(*map(torch.as_tensor, arrays[:3]), penalty, None, None)
        start = max_entropy.fit(choices, penalty)[0].astype(float)
        found = minimize(lambda w: float(fits.loss(torch.as_tensor(w[None]))), start, jac=lambda w: gradient(w, *arrays),
                         hess=lambda w: hessian(w, *arrays), method="trust-exact", options={"gtol": 1e-7})
        step = np.linalg.lstsq(found.hess, found.jac, rcond=None)[0]
        if np.linalg.norm(step) < 1e-3 and np.linalg.cond(found.hess) < 1e12:
            return replace(fits, best=torch.as_tensor(found.x - step), hessian=hessian(found.x - step, *arrays))
        raise ParameterError(f"penalty = {penalty}: these demonstrations leave the reward without bound; a larger penalty sets one")

    def loss(self, points):
        """L [S] at weights [S, p] (tensor)."""
        return max_entropy.loss(points, self.features, self.sets, self.picks) + self.penalty / 2 * (points**2).sum(1)

    def excess(self, weights):
        """L(w) − L(ŵ) [S] in nats a choice, for weights [S, p] (array)."""
        with torch.no_grad():
            return (self.loss(torch.as_tensor(weights)) - self.loss(self.best[None])).numpy()

    def edge(self, directions, tolerance):
        """Points [S, p] at which the rays from ŵ along `directions` [S, p] leave the set; differentiable by the directions.

        Newton's steps on one number a ray, which a convex loss lets not fail; the last step carries the gradient.
        """
        bound = self.loss(self.best[None]).detach() + tolerance
        curvature = ((directions @ torch.as_tensor(self.hessian)) * directions).sum(1, keepdim=True)
        step = (2 * tolerance / curvature).sqrt().detach()
        for last in (False, False, False, False, True):
            step.requires_grad_()
            above = self.loss(self.best + step * (directions if last else directions.detach())) - bound
            slope, = torch.autograd.grad(above.sum(), step, retain_graph=last)
            step = step.detach() - above[:, None] / slope
            step = step if last else step.detach()
        return self.best + step * directions


def probabilities(weights, features, sets):
    """Chance [n, C] of each text in its choice set under weights [p]; 0 where a set is filled up."""
    scores = choice_scores(*(torch.as_tensor(a) for a in (weights[None], features, sets)))[0]
    return torch.softmax(scores, -1).numpy()


def gradient(weights, features, sets, picks, penalty):
    """Gradient [p] of L: features expected of the reward minus features picked, a choice, plus λ w."""
    total = picks[0].sum(1, keepdims=True)
    surplus = probabilities(weights, features, sets) * total - picks[0]
    return np.bincount(sets[sets >= 0], surplus[sets >= 0], len(features)) @ features / total.sum() + penalty * weights


def hessian(weights, features, sets, picks, penalty):
    """Second derivatives [p, p] of L: the covariance of the features within a choice set, averaged over choices, plus λ on the diagonal."""
    share, count = probabilities(weights, features, sets), picks[0].sum(1)
    texts, kept = sets[sets >= 0], np.nonzero(sets >= 0)
    expected = csr_array((share[sets >= 0], (kept[0], texts)), (len(sets), len(features))) @ features
    weight = np.bincount(texts, (share * count[:, None])[sets >= 0], len(features))
    covariance = (features.T * weight) @ features - (expected.T * count) @ expected
    return covariance / count.sum() + penalty * np.eye(len(weights))


def ellipsoid_pair(best, hessian, gram, tolerance):
    """Widest pair [2, p] in {w : (w − ŵ)ᵀ H (w − ŵ) / 2 ≤ ε}, and its EPIC distance, in closed form (book, eq. widest-ellipsoid).

    gram [p, p], the `covariance` of the canonical features, turns weights into correlations of rewards.
    """
    pull = hessian @ best
    values, vectors = eigh(np.outer(pull, pull) - (best @ pull - 2 * tolerance) * hessian, gram)
    top, next_one = values[-1], min(values[-2], -1e-9 * values[-1])
    rays = vectors[:, -1] + np.outer([1, -1], np.sqrt(top / -next_one) * vectors[:, -2])
    nearest = np.abs(rays @ pull) / ((rays @ hessian) * rays).sum(1) * np.sign(vectors[:, -1] @ pull)
    return rays * nearest[:, None], float(np.sqrt(top / (top - next_one)))


def covariance(texts):
    """G [p, p] of canonical features [n, p]; a trace of a ridge keeps it invertible where texts are few."""
    found = texts.T.astype(float) @ texts / len(texts)
    return found + 1e-9 * np.trace(found) / len(found) * np.eye(len(found))


def random_members(fits, tolerance, count, seed=0):
    """Weights [count, p] on the edge of the set, in directions drawn evenly in the metric of its Hessian: what luck finds."""
    root = np.linalg.cholesky(np.linalg.inv(fits.hessian))
    directions = np.random.default_rng([seed, 5]).normal(size=(count, len(root))) @ root.T
    return fits.edge(torch.as_tensor(directions), tolerance).detach().numpy()


def widest_pair(fits, texts, tolerance, starts=3, iterations=40, seed=0):
    """The two rewards of the set that disagree most on texts (canonical features [n, p]): (pair [2, p], distances [starts + 1]).

    From the closed form and from `starts` random pairs at once, by L-BFGS over the directions in which to leave ŵ. `distances` are the
    EPIC distances that each start came to; the members of the pair returned are within the tolerance exactly.
    """
    gram = covariance(texts)
    root = np.linalg.cholesky(np.linalg.inv(fits.hessian))
    closed = ellipsoid_pair(fits.best.numpy(), fits.hessian, gram, tolerance)[0] - fits.best.numpy()
    first = np.concatenate([closed @ np.linalg.inv(root).T, np.random.default_rng([seed, 6]).normal(size=(2 * starts, len(root)))])
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    gram, root = torch.as_tensor(gram), torch.as_tensor(root)

    def correlation(directions):
        pairs = fits.edge(directions.reshape(-1, len(root)) @ root.T, tolerance).reshape(-1, 2, len(root))
        products = pairs @ gram @ pairs.transpose(1, 2)
        return products[:, 0, 1] / (products[:, 0, 0] * products[:, 1, 1]).sqrt()

    found = torch.as_tensor(lbfgs(correlation, torch.as_tensor(first.reshape(starts + 1, -1)), iterations))
    correlations = correlation(found).detach().numpy()
    pair = fits.edge(found[correlations.argmin()].reshape(2, -1) @ root.T, tolerance).detach().numpy()
    return inside(fits, pair, tolerance), np.sqrt((1 - correlations) / 2)


def joint(first, second, penalty=0.0, iterations=200):
    """Choices of two experts of one reward, the second's at the scale that suits both best, and that scale.

    The scale is fitted together with the weights; afterwards it is held.
    """
    (phi, sets, _, picks), (other_phi, other_sets, _, other_picks) = tensors(first), tensors(second)
    share = float(picks.sum() / (picks.sum() + other_picks.sum()))

    def objective(values):
        weights, scale = values[:, :-1], values[:, -1:].exp()
        mine = max_entropy.loss(weights, phi, sets, picks)
        other = max_entropy.loss(scale * weights, other_phi, other_sets, other_picks)
        return share * mine + (1 - share) * other + penalty / 2 * (weights**2).sum(1)

    scale = float(np.exp(lbfgs(objective, torch.zeros(1, phi.shape[1] + 1), iterations)[0, -1]))
    return first.beside(second, scale), scale


def losses(weights, choices):
    """Mean negative log likelihood [S, n] (nats a choice) of each choice set's picks under weights [S, p]."""
    found = choice_scores(*(torch.as_tensor(a, dtype=torch.float64) for a in (weights, choices.features)), torch.as_tensor(choices.sets))
    picks = torch.as_tensor(choices.picks)
    return (-(picks * torch.log_softmax(found, -1).masked_fill(picks == 0, 0)).sum(2) / picks.sum(2)).numpy()


def inside(fits, weights, tolerance):
    """Weights [S, p] drawn towards ŵ where they are out of the set, by as much as convexity says is enough."""
    best = fits.best.numpy()
    share = np.minimum(1, tolerance / np.maximum(fits.excess(weights), tolerance * 1e-9))
    return best + share[:, None] * (weights - best)
