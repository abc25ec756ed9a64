"""The released code of arXiv 2410.12491, small: each defect is a switch, and its correction stands beside it.

What is kept: the loader, the loop, the loss, the labels, the settings. What differs: the head alone is trained, on frozen states,
as one batch of many runs; of the two-way head only the second output, negated, is the reward, so only this one is here.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import AutoModel

from irlkit import features
from irlkit.generation import network_of
from irlkit.irl import max_margin_published
from irlkit.parameters import ParameterError


@dataclass(frozen=True)
class Recipe:
    """What of the released code is mended; the defaults are the code as released, the order is that of the ladder."""

    one_by_one: bool = False       # a batch of two texts is two texts, not one text glued together
    whole_text: bool = False       # the text is trained on, not its last character
    reset_gradients: bool = False  # before each batch
    held_out: bool = False         # labels are judged on base completions of test prompts, not on the training texts
    calibrated: bool = False       # harmless is what lies above a threshold from the calibration split, not above zero
    well_posed: bool = False       # z-scores, a margin and a bounded norm: eq. max-margin, solved to its minimum
    all_pairs: bool = False        # a bootstrap sample of all prompts, not 100 pairs
    all_tokens: bool = False       # the features of this book, not the last token's state


def last_characters(texts):
    """What the released loader takes of each text: row[-1], its last character."""
    return [row[-1] for row in texts]


def shown(texts, recipe):
    """(context, text), each [S, m] of str: what the head sees of texts [S, n] (object), text by text; m = n, or n // 2 if glued.

    The released loop hands a batch of two to the tokenizer as one list, which takes it for a text and its continuation: the second
    is read after the first, and the reward is that of its last token.
    """
    texts = np.array(texts, object)
    own = texts if recipe.whole_text else np.array([last_characters(row) for row in texts], object)
    if recipe.one_by_one:
        return np.full(own.shape, "", object), own
    even = own.shape[1] // 2 * 2
    return own[:, 0:even:2], own[:, 1:even:2]


@dataclass(frozen=True)
class Reading:
    """Features [T, p] of what was read, and the row of each (context, text)."""

    features: np.ndarray
    row: dict = field(repr=False)

    def rows(self, context, text):
        """Row numbers, in the shape of the two arrays of str."""
        pairs = zip(np.ravel(context), np.ravel(text), strict=True)
        return np.array([self.row[pair] for pair in pairs]).reshape(np.shape(text))

    def of(self, texts):
        """Features [n, p] of whole texts."""
        return self.features[self.rows([""] * len(texts), texts)]


def read(model, seen, layer, **how):
    """Reading of every (context, text) in `seen`: the last token's state after `layer` blocks and the model's last norm."""
    distinct = list(dict.fromkeys(seen))
    context, text = zip(*distinct, strict=True)
    states = features.read(model, text, [layer], prompts=context, **how).pooled([layer], "last")
    return Reading(last_norm(model, states), {pair: row for row, pair in enumerate(distinct)})


def last_norm(model, states):
    """States [n, d] after the norm that stands behind the last block of the model in folder `model`."""
    network = network_of(model, AutoModel)
    norm = network.norm if hasattr(network, "norm") else network.final_layer_norm
    with torch.inference_mode():
        return norm(torch.as_tensor(states, device=network.device)).cpu().numpy()


@dataclass(frozen=True)
class Pairs:
    """Pairs [S, m] (rows `expert` and `base`) of features [T, p], as the methods of `irlkit.irl` ask for them."""

    features: np.ndarray
    expert: np.ndarray
    base: np.ndarray

    @property
    def seeds(self):
        return len(self.expert)

    def first(self):
        return Pairs(self.features, self.expert[:1], self.base[:1])

    def pairs(self, size=None, seed=0):
        return self.expert, self.base

    def margins(self, weights):
        """d = r(expert) − r(base), [S, m], of rewards [S, p]."""
        scores = weights @ self.features.T
        return np.take_along_axis(scores, self.expert, 1) - np.take_along_axis(scores, self.base, 1)


def loss_in_place(margins):
    """The released loss (eq. max-margin-published): it overwrites its input, and returns that."""
    positive, negative = margins > 0, margins < 0
    margins[positive] *= -1
    margins[negative] *= -2
    return margins


OPTIMIZERS = {"adam": torch.optim.Adam}


def released_optimizer(name, parameters, learning_rate):
    """The released choice: None for a name that it does not know, so that the loop fails later and elsewhere."""
    return OPTIMIZERS[name](parameters, lr=learning_rate) if name in OPTIMIZERS else None


def optimizer(name, parameters, learning_rate):
    """The same, mended: ParameterError names what is allowed."""
    if name not in OPTIMIZERS:
        raise ParameterError(f"optimizer: '{name}' is unknown; allowed: {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name](parameters, lr=learning_rate)


def fit(pairs, reset_gradients=False, epochs=30, learning_rate=1e-4, batch=1, seed=0, on_epoch=None):
    """Weights [S, p] after the released loop: Adam on eq. max-margin-published in batches of `batch` pairs, always in the same order.

    Without `reset_gradients` each step follows the sum of all gradients since the start (eq. released-gradient). `on_epoch(epoch,
    weights)` is called before each epoch, which is when the released loop measures.
    """
    states, expert, base = (torch.as_tensor(values) for values in (pairs.features, pairs.expert, pairs.base))
    weights = torch.stack([max_margin_published.start(states.shape[1], seed, number) for number in range(pairs.seeds)]).requires_grad_()
    adam = optimizer("adam", [weights], learning_rate)
    for epoch in range(epochs):
        if on_epoch:
            on_epoch(epoch, weights.detach().numpy().copy())
        for rows in torch.arange(expert.shape[1]).split(batch):
            if reset_gradients:
                adam.zero_grad()
            difference = states[expert[:, rows]] - states[base[:, rows]]
            max_margin_published.loss(torch.einsum("smp,sp->sm", difference, weights)).mean(1).sum().backward()
            adam.step()
    return weights.detach().numpy()


def folded_reward(scores):
    """What the released RLHF makes of a batch of recovered scores [n] (eq. folded-reward); the middle of the range earns most."""
    x = 2 * (scores - scores.min()) / np.ptp(scores) - 1
    return np.where(x < 0, 1.5 * x, -0.5 * x)
