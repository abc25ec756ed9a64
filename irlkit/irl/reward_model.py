"""Reward model: the last blocks of a shortened copy of the language model are trained with a linear head (book, eq. reward).

The blocks below stay frozen, so that texts enter as their states at the layer where training begins (`token_states` with
start=True). Training starts from the linear reward on the untrained copy, with the loss of maximum entropy IRL; or, to hold
it against the paper, from a random head with the paper's loss.
"""

import numpy as np
import torch
from transformers import AutoModel

from irlkit.features import POOLINGS, Projection, cut, pool
from irlkit.generation import network_of
from irlkit.irl import max_entropy, max_margin_published
from irlkit.irl.common import loss_of_texts, shared_batches, texts_in
from irlkit.machine import device
from irlkit.parameters import ParameterError
from irlkit.progress import bar


class RewardModel(torch.nn.Module):
    """Blocks `below` + 1 to `depth` of the model in folder `model`, and a linear head on their pooled output.

    Reads states [n, T, d] at layer `below` with a mask [n, T]; the first token is the one at the beginning of a text and is
    left out of the pooling. ParameterError for an unknown pooling, or if no block lies between `below` and `depth`.
    """

    def __init__(self, model, below, depth, pooling="root"):
        super().__init__()
        if pooling not in POOLINGS or not 0 <= below < depth:
            raise ParameterError(f"reward model: pooling '{pooling}' with blocks above {below} up to {depth} asked for; "
                                 f"allowed: {', '.join(POOLINGS)}, with 0 <= below < depth")
        self.network = network_of(model, AutoModel)
        self.blocks, self.pooling = torch.nn.ModuleList(cut(self.network, [depth], below)), pooling
        width = self.network.config.hidden_size
        self.network.requires_grad_(False)
        self.blocks.requires_grad_(True)
        self.head = torch.nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.to(device())

    def pooled(self, states, mask):
        """Pooled output [n, d] of the last block."""
        states, mask, found = states.to(self.head.device), mask.to(self.head.device), []
        hook = self.blocks[-1].register_forward_hook(lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out))
        self.network(inputs_embeds=states, attention_mask=mask.long(), use_cache=False)
        hook.remove()
        own = mask.clone()
        own[:, 0] = False
        pooled = pool(found[0][:, None], own)["mean" if self.pooling == "root" else self.pooling][:, 0]
        return pooled * own.sum(1, keepdim=True).sqrt() if self.pooling == "root" else pooled

    def forward(self, states, mask):
        """Rewards [n]."""
        return (self.pooled(states, mask) - self.mean) / (self.scale * len(self.head) ** 0.5) @ self.head

    def score(self, states, rows=None, batch=64, part="forward"):
        """Rewards [n] (numpy) of the texts `rows`, or all, of `states` (TokenStates with start); or what another `part` gives."""
        rows = np.arange(len(states)) if rows is None else rows
        with torch.inference_mode():
            found = [getattr(self, part)(*states.padded(rows[i:i + batch])) for i in range(0, len(rows), batch)]
        return torch.cat(found).cpu().numpy()


def fit(network, states, choices, calibration, epochs=3, learning_rate=3e-5, penalty=2e-3, batch=8, seed=0):
    """Train a RewardModel on the choices of one seed; it keeps the epoch with the lowest calibration loss, which is returned.

    The head starts at the linear maximum entropy reward (penalty λ) on the untrained blocks: epoch 0. AdamW, `batch` prompts a step.
    """
    texts, held_out = texts_in(choices.sets), texts_in(calibration.sets)
    phi = np.zeros((len(states), len(network.head)), np.float32)
    phi[texts] = _z_score(network, states, texts)
    network.head.data[:] = torch.as_tensor(max_entropy.fit(choices.read(phi), penalty)[0])
    order, lowest, best = np.random.default_rng([seed, 3]), np.inf, []
    optimizer = torch.optim.AdamW(_trained(network), lr=learning_rate, weight_decay=0.0)
    for epoch in bar(range(epochs + 1), description="reward model", unit="epoch"):
        for rows in shared_batches(choices.sets, batch, order) if epoch else ():
            batch_texts = texts_in(choices.sets[rows])
            _step(optimizer, loss_of_texts(network(*states.padded(batch_texts)).cpu()[None], batch_texts, choices, rows).sum())
        found = torch.as_tensor(network.score(states, held_out))[None]
        loss = float(loss_of_texts(found, held_out, calibration)[0])
        if loss < lowest:
            lowest, best = loss, [parameter.detach().clone() for parameter in _trained(network)]
    for parameter, kept in zip(_trained(network), best, strict=True):
        parameter.data[:] = kept
    return lowest


def fit_published(network, states, choices, sample_size=100, epochs=30, learning_rate=1e-4, batch=2, seed=0):
    """Train a RewardModel by Adam on the paper's loss (eq. max-margin-published), with pairs of the choices' first seed.

    Pairs, random head and settings are those of `max_margin_published.fit`, to which this adds the blocks.
    """
    expert, base = (index[0] for index in choices.pairs(sample_size, seed))
    _z_score(network, states, np.unique([expert, base]))
    network.head.data[:] = max_margin_published.start(len(network.head), seed, 0)
    optimizer, order = torch.optim.Adam(_trained(network), lr=learning_rate), np.random.default_rng([seed, 4])
    for _ in bar(range(epochs), description="reward model, published loss", unit="epoch"):
        shuffled = order.permutation(len(expert))
        for rows in np.split(shuffled, range(batch, len(shuffled), batch)):
            better, worse = network(*states.padded(np.r_[expert[rows], base[rows]])).chunk(2)
            _step(optimizer, max_margin_published.loss(better - worse).mean())


def _trained(network):
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _z_score(network, states, texts):
    """Let the head read z-scores of the untrained blocks' output on `texts`; returns them, divided by √d [n, d]."""
    pooled = network.score(states, texts, part="pooled")
    projection = Projection.fit(pooled)
    network.mean[:], network.scale[:] = torch.as_tensor(projection.mean), torch.as_tensor(projection.scale)
    return projection(pooled)
