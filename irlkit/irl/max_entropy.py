"""Maximum entropy IRL with the partition over base samples of the same prompt (book, eq. max-entropy).

After Ziebart et al. (2008): the expert's density at y is π₀(y|x) exp(r(y)) / Z(x). Samples of π₀ for the same prompt
turn Z(x) into a sum over the choice set, in which π₀ cancels: P(i | set) = exp r(y_i) / Σ_j exp r(y_j).
"""

import torch

from irlkit.irl.common import choice_scores, cross_entropy, lbfgs, tensors


def loss(weights, features, choices_sets, picks):
    """Mean negative log likelihood of the picks [S], in nats: weights [S, p], features [T, p], picks [S, n, C]."""
    return cross_entropy(choice_scores(weights, features, choices_sets), picks)


def mean_loss(weights, choices):
    """Mean negative log likelihood [S] (nats) of the picks in `choices` under given weights [S, p]."""
    features, sets, _, picks = tensors(choices)
    return loss(torch.as_tensor(weights, dtype=torch.float32), features, sets, picks).numpy()


def fit(choices, penalty=2e-3, epochs=100, on_epoch=None):
    """Weights [S, p] that minimise the negative log likelihood plus (penalty / 2) ‖w‖², by L-BFGS from zero."""
    features, sets, _, picks = tensors(choices)
    start = torch.zeros(choices.seeds, features.shape[1])
    return lbfgs(lambda w: loss(w, features, sets, picks) + penalty / 2 * (w**2).sum(1), start, epochs, on_epoch)
