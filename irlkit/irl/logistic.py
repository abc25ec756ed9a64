"""Logistic regression of expert against base texts, without pairing them (book, eq. logistic).

Each side weighs one half. The offset is fitted with the weights and dropped, for it changes no choice. What depends on
the prompt does not cancel here: that is what the methods on pairs and choice sets gain.
"""

import torch
from torch.nn.functional import softplus

from irlkit.irl.common import lbfgs, tensors


def loss(weights, features, expert, base):
    """Mean negative log likelihood [S] (nats) of weights and offset [S, p + 1] for shares expert, base [S, T] of the texts."""
    scores = weights[:, :-1] @ features.T + weights[:, -1:]
    return (expert * softplus(-scores) + base * softplus(scores)).sum(1) / 2


def mean_loss(weights, choices):
    """Mean loss [S] of given weights [S, p], under the offset that suits each best."""
    features, expert, base = _shares(choices)
    scores = torch.as_tensor(weights, dtype=torch.float32) @ features.T
    fitted = lbfgs(lambda offset: (expert * softplus(-scores - offset) + base * softplus(scores + offset)).sum(1) / 2,
                   torch.zeros(len(weights), 1), 50)
    return loss(torch.cat([torch.as_tensor(weights, dtype=torch.float32), torch.as_tensor(fitted)], 1), features, expert, base).numpy()


def fit(choices, penalty=3e-3, epochs=100, on_epoch=None):
    """Weights [S, p] that minimise the loss plus (penalty / 2) ‖w‖², by L-BFGS from zero."""
    features, expert, base = _shares(choices)
    start = torch.zeros(choices.seeds, features.shape[1] + 1)
    note = on_epoch and (lambda epoch, weights: on_epoch(epoch, weights[:, :-1]))
    return lbfgs(lambda w: loss(w, features, expert, base) + penalty / 2 * (w[:, :-1] ** 2).sum(1), start, epochs, note)[:, :-1]


def _shares(choices):
    """Features [T, p], and the share [S, T] that each text has in the expert's picks and in the base model's texts."""
    features, sets, base, picks = tensors(choices)
    valid = sets >= 0
    shown = picks.sum(2, keepdim=True) * base
    expert, base = (torch.zeros(len(picks), len(features)).index_add_(1, sets[valid], counts[:, valid]) for counts in (picks, shown))
    return features, expert / expert.sum(1, keepdim=True), base / base.sum(1, keepdim=True)
