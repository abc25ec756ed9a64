"""Max-margin IRL, well posed: a margin of one and a bounded norm (book, eq. max-margin; after Abbeel and Ng, 2004).

min_w mean_i max(0, 1 − w·(φ(expert_i) − φ(base_i))) subject to ‖w‖ ≤ bound. The margin fixes the unit of the reward and
the bound its scale, so that the loss has a minimum; it is convex, and many seeds are one batch.
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


def fit(choices, bound=10.0, epochs=300, size=None, seed=0, on_epoch=None):
    """Weights [S, p] by projected subgradient steps on all (or `size`) pairs; returns the average of the second half's iterates.

    With steps bound / (G √t), G the norm of the current subgradient, the average's excess loss falls as 1 / √epochs.
    """
    pairs = np.stack(choices.pairs(size, seed))
    used, pairs = np.unique(pairs, return_inverse=True)
    features = torch.as_tensor(choices.features[used], dtype=torch.float32)
    expert, base = torch.as_tensor(pairs).reshape(2, choices.seeds, -1).transpose(1, 2)
    weights = torch.zeros(choices.seeds, features.shape[1])
    average, averaged = torch.zeros_like(weights), 0
    for epoch in range(1, epochs + 1):
        gradient = _subgradient(weights, features, expert, base)
        step = bound / (gradient.norm(dim=1, keepdim=True).clamp_min(1e-12) * epoch**0.5)
        weights = _project(weights - step * gradient, bound)
        if epoch > epochs // 2 or on_epoch:
            averaged += 1
            average += (weights - average) / averaged
        if on_epoch:
            on_epoch(epoch, average.numpy().copy())
    return average.numpy()


def _subgradient(weights, features, expert, base):
    """Subgradient [S, p] of the mean hinge loss; expert and base [m, S] index the rows of features [T, p]."""
    scores = features @ weights.T
    active = (scores.gather(0, expert) - scores.gather(0, base) < 1).float() / len(expert)
    return (torch.zeros_like(scores).scatter_add_(0, base, active).scatter_add_(0, expert, -active).T) @ features


def _project(weights, bound):
    return weights * (bound / weights.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp(max=1)
