"""What the methods share: scores of choice sets, and an optimiser that fits all seeds as one batch."""

import numpy as np
import torch


def choice_scores(weights, features, sets):
    """Rewards [S, n, C] of the texts in the choice sets; −∞ where a set is filled up (index −1)."""
    scores = (features @ weights.T).T
    return scores[:, sets].masked_fill(sets < 0, -torch.inf)


def cross_entropy(scores, picks):
    """Mean negative log likelihood [S] (nats) of picks [S, n, C] under scores of their choice sets (book, eq. max-entropy)."""
    log_share = torch.log_softmax(scores, -1)
    return -(picks * log_share.masked_fill(picks == 0, 0)).sum((1, 2)) / picks.sum((1, 2)).clamp_min(1e-9)


def texts_in(sets):
    """The texts that stand in choice sets, each once, in ascending order."""
    return np.unique(sets[sets >= 0])


def loss_of_texts(found, texts, choices, rows=slice(None), target=None):
    """Loss [S] of rewards `found` [S, n] of `texts` [n] on some rows of the choices; squared error where there is a target [T]."""
    if target is not None:
        return ((found - torch.as_tensor(target[texts], dtype=torch.float32)) ** 2).mean(1)
    sets = choices.sets[rows]
    scores = found[:, np.searchsorted(texts, sets.clip(0))].masked_fill(torch.as_tensor(sets < 0), -torch.inf)
    return cross_entropy(scores, torch.as_tensor(choices.picks[:, rows], dtype=torch.float32))


def shared_batches(sets, size, random):
    """Rows of choice sets [n, C] in random order, `size` groups a batch; sets that share their first base text stay together.

    Texts of one prompt are then read once a batch.
    """
    _, group = np.unique(np.where(sets < 0, np.iinfo(sets.dtype).max, sets).min(1), return_inverse=True)
    order = random.permutation(group.max() + 1)
    return [np.flatnonzero(np.isin(group, order[start:start + size])) for start in range(0, len(order), size)]


def lbfgs(objective, start, epochs, on_epoch=None):
    """Minimise `objective(weights) -> [S]`, summed over the seeds, from `start` [S, p]; returns a numpy array [S, p].

    The seeds do not share weights, so the sum has its minimum where each term has. `on_epoch(epoch, weights)` is
    called after each of the `epochs` iterations.
    """
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=1 if on_epoch else epochs, line_search_fn="strong_wolfe",
                                  tolerance_grad=1e-6, tolerance_change=1e-10, history_size=20)

    def closure():
        optimizer.zero_grad()
        total = objective(weights).sum()
        total.backward()
        return total

    for epoch in range(1, epochs + 1 if on_epoch else 2):
        optimizer.step(closure)
        if on_epoch:
            on_epoch(epoch, weights.detach().numpy().copy())
    return weights.detach().numpy()


def pairwise(loss, weights, features, sets, base, picks):
    """Mean [S] of `loss(margins)` over picks, each against all other base texts of its set (picks without one are left out).

    weights [S, p], features [T, p], sets [n, C], base [n, C] (bool), picks [S, n, C]; margins are r(pick) − r(base text).
    """
    scores = choice_scores(weights, features, sets)
    total = count = 0
    for column in picks.sum((0, 1)).nonzero()[:, 0]:
        others = base.clone()
        others[:, column] = False
        rows = others.any(1) & (sets[:, column] >= 0)
        margins = (scores[:, rows, column, None] - scores[:, rows]).masked_fill(~others[rows], 0)
        mean = (loss(margins) * others[rows]).sum(2) / others[rows].sum(1)
        total = total + (picks[:, rows, column] * mean).sum(1)
        count = count + picks[:, rows, column].sum(1)
    return total / count


def fit_pairwise(loss, choices, penalty, epochs, on_epoch=None):
    """Weights [S, p] that minimise `pairwise(loss)` plus (penalty / 2) ‖w‖², by L-BFGS from zero."""
    features, sets, base, picks = tensors(choices)
    start = torch.zeros(choices.seeds, features.shape[1])
    return lbfgs(lambda w: pairwise(loss, w, features, sets, base, picks) + penalty / 2 * (w**2).sum(1), start, epochs, on_epoch)


def mean_pairwise(loss, weights, choices):
    """Mean loss [S] of given weights [S, p] over the pairs of `choices`."""
    return pairwise(loss, torch.as_tensor(weights, dtype=torch.float32), *tensors(choices)).numpy()


def tensors(choices):
    """Features (float), sets, base and picks (float) of `choices`."""
    return (torch.as_tensor(choices.features, dtype=torch.float32), torch.as_tensor(choices.sets),
            torch.as_tensor(choices.base), torch.as_tensor(choices.picks, dtype=torch.float32))
