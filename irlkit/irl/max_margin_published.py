"""Max-margin IRL with the loss of arXiv 2410.12491 as it was released (book, eq. max-margin-published).

With d = r(expert) − r(base): −d where d > 0, −2d where d < 0. The loss has no margin and is unbounded below: it falls
for ever with the scale of r, so that the number of epochs and the learning rate decide where training stops.
"""

import numpy as np
import torch


def loss(margins):
    """−d where d > 0, −2d where d < 0, elementwise."""
    return torch.where(margins > 0, -margins, -2 * margins)


def fit(choices, sample_size=100, epochs=30, learning_rate=1e-4, batch=2, seed=0, on_epoch=None):
    """Weights [S, p] after `epochs` of Adam over `sample_size` pairs in batches of `batch`, from a random start.

    The paper's settings: 100 pairs, 30 epochs, Adam, batches of 2, learning rate 1e-4 (in its results). Departures:
    a linear head on frozen features instead of the whole model, and a seed.
    """
    expert, base = (torch.as_tensor(index) for index in choices.pairs(sample_size, seed))
    features = torch.as_tensor(choices.features, dtype=torch.float32)
    weights = torch.stack([start(features.shape[1], seed, number) for number in range(choices.seeds)]).requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=learning_rate)
    order = [np.random.default_rng([seed, number, 2]) for number in range(choices.seeds)]
    for epoch in range(1, epochs + 1):
        shuffled = torch.as_tensor(np.stack([random.permutation(expert.shape[1]) for random in order]))
        for rows in shuffled.split(batch, dim=1):
            difference = features[expert.gather(1, rows)] - features[base.gather(1, rows)]
            optimizer.zero_grad()
            loss(torch.einsum("smp,sp->sm", difference, weights)).mean(1).sum().backward()
            optimizer.step()
        if on_epoch:
            on_epoch(epoch, weights.detach().numpy().copy())
    return weights.detach().numpy()


def start(width, seed, number):
    """The start that torch gives a linear layer: uniform in ±1/√width."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
    return (torch.rand(width, generator=generator) * 2 - 1) / width**0.5
