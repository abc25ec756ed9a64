"""What the methods share: scores of choice sets, and an optimiser that fits all seeds as one batch."""

import torch


def choice_scores(weights, features, sets):
    """Rewards [S, n, C] of the texts in the choice sets; −∞ where a set is filled up (index −1)."""
    scores = (features @ weights.T).T
    return scores[:, sets].masked_fill(sets < 0, -torch.inf)


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
