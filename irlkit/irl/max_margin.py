"""Max-margin IRL, well posed: a margin of one and a bounded norm (book, eq. max-margin; after Abbeel and Ng, 2004).

min_w mean_i max(0, 1 − w·(φ(expert_i) − φ(base_i))) subject to ‖w‖ ≤ bound. The margin fixes the unit of the reward and
the bound its scale, so that the loss has a minimum; it is convex and solved to a certified gap, many seeds as one batch.
"""

import numpy as np
import torch


def loss(margins):
    """Hinge loss of margins d = r(expert) − r(base): max(0, 1 − d), elementwise."""
    return torch.relu(1 - margins)


def mean_loss(weights, choices, seed=0):
    """Mean hinge loss [S] of given weights [S, p] on pairs of `choices`."""
    expert, base = choices.pairs(seed=seed)
    difference = choices.features[expert] - choices.features[base]
    return loss(torch.einsum("smp,sp->sm", *(torch.as_tensor(a, dtype=torch.float32) for a in (difference, weights)))).mean(1).numpy()


def fit(choices, bound=10.0, tolerance=0.01, size=None, seed=0, epochs=3000, on_epoch=None):
    """Weights [S, p] on all (or `size`) pairs, to within `tolerance` of the least mean hinge loss.

    Accelerated projected gradient (Nesterov, 2005; begun anew where it overshoots: O'Donoghue and Candès, 2015) on a hinge
    that is rounded over a width, which shrinks to `tolerance`. It ends when the duality gap of every seed is below
    `tolerance`, a proof of how near the optimum is, or after `epochs` steps.
    """
    problem = _Problem(choices, bound, size, seed)
    weights = previous = torch.zeros(choices.seeds, choices.features.shape[1])
    curvature, width, age = problem.curvature()[:, None], 1.0, torch.zeros(choices.seeds, 1)
    for epoch in range(1, epochs + 1):
        ahead = weights + age / (age + 3) * (weights - previous)
        previous, weights = weights, _project(ahead + width / curvature * problem.pull(ahead, width), bound)
        overshot = ((ahead - weights) * (weights - previous)).sum(1, keepdim=True) > 0
        age = torch.where(overshot, 0, age + 1)
        if on_epoch:
            on_epoch(epoch, weights.numpy().copy())
        if epoch % 10 == 0 and (problem.gap(weights, width) < width).all():
            if width <= tolerance:
                break
            width, age = max(width / 2, tolerance), torch.zeros_like(age)
    return weights.numpy()


def gap(weights, choices, bound, tolerance=0.01, size=None, seed=0):
    """Duality gap [S] of given weights [S, p]: their loss is at most this far above the least one."""
    return _Problem(choices, bound, size, seed).gap(torch.as_tensor(weights), tolerance).numpy()


class _Problem:
    """The pairs of S seeds: rows expert, base [m, S] of features [T, p]."""

    def __init__(self, choices, bound, size, seed):
        pairs = np.stack(choices.pairs(size, seed))
        used, pairs = np.unique(pairs, return_inverse=True)
        self.features = torch.as_tensor(choices.features[used], dtype=torch.float32)
        self.expert, self.base = torch.as_tensor(pairs).reshape(2, choices.seeds, -1).transpose(1, 2)
        self.bound = bound

    def margins(self, weights):
        scores = self.features @ weights.T
        return scores.gather(0, self.expert) - scores.gather(0, self.base)

    def combine(self, shares):
        """Σ_i α_i (φ(expert_i) − φ(base_i)) [S, p] for shares α [m, S]."""
        zeros = torch.zeros(len(self.features), shares.shape[1])
        return zeros.scatter_add(0, self.expert, shares).scatter_add(0, self.base, -shares).T @ self.features

    def shares(self, weights, width):
        """Dual variables α [m, S]: how much each pair still pulls, at most 1 / m."""
        return ((1 - self.margins(weights)) / width).clamp(0, 1) / len(self.expert)

    def pull(self, weights, width):
        return self.combine(self.shares(weights, width))

    def gap(self, weights, width):
        shares = self.shares(weights, width)
        dual = shares.sum(0) - self.bound * self.combine(shares).norm(dim=1)
        return loss(self.margins(weights)).mean(0) - dual

    def curvature(self, rounds=30):
        """Largest eigenvalue [S] of the mean outer product of the differences, by power iteration, with 10 % to spare."""
        weights = torch.randn(self.expert.shape[1], self.features.shape[1], generator=torch.Generator().manual_seed(0))
        for _ in range(rounds):
            weights = weights / weights.norm(dim=1, keepdim=True)
            weights = self.combine(self.margins(weights) / len(self.expert))
        return 1.1 * weights.norm(dim=1)


def _project(weights, bound):
    return weights * (bound / weights.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp(max=1)
