"""Squared hinge on pairs of the same prompt (book, eq. hinge; Cortes and Vapnik, 1995, for the L2 form).

max(0, 1 − d)², the mean over a pick's margins to all base texts of its prompt. Squared, because that is smooth: L-BFGS
reaches its minimum. The unsquared hinge under a bound is `max_margin`.
"""

import torch

from irlkit.irl.common import fit_pairwise, mean_pairwise


def loss(margins):
    """max(0, 1 − d)², elementwise."""
    return torch.relu(1 - margins) ** 2


def mean_loss(weights, choices):
    """Mean loss [S] of given weights [S, p]."""
    return mean_pairwise(loss, weights, choices)


def fit(choices, penalty=3e-3, epochs=100, on_epoch=None):
    """Weights [S, p] that minimise the mean loss plus (penalty / 2) ‖w‖², by L-BFGS from zero."""
    return fit_pairwise(loss, choices, penalty, epochs, on_epoch)
