"""Token head: a small network looks at the state of each token, and what it finds makes up the reward (book, eq. token-head).

Many heads (seeds) are trained as one batch, on the choice-set loss of maximum entropy IRL or, for a ceiling, on the true
reward itself. The language model stays frozen. Each seed has its own start, dropout and picks; all share the order of prompts.
"""

from dataclasses import dataclass

import numpy as np
import torch

from irlkit import assets
from irlkit.irl.common import loss_of_texts, shared_batches, texts_in
from irlkit.irl.reward import check_fit, read_folder, write_folder
from irlkit.machine import device
from irlkit.parameters import ParameterError
from irlkit.progress import bar
from irlkit.token_states import token_states

POOLINGS = ("root", "softmin", "attention")


def rewards(heads, states, mask, pooling, kept=None):
    """Rewards [S, n] of S heads for token states [n, T, d] with a mask [n, T].

    heads: w1 [S, d, u], b1 [S, 1, u], w2 [S, u, 2], b2 [S, 1, 2]; kept [S, tokens, u]: what dropout multiplies the units by.
    """
    hidden = torch.nn.functional.gelu(torch.einsum("md,sdu->smu", states[mask], heads["w1"]) + heads["b1"])
    found = (hidden if kept is None else hidden * kept) @ heads["w2"] + heads["b2"]
    value, weight = (torch.full((len(found), *mask.shape), fill, device=found.device) for fill in (0.0, -torch.inf))
    value[:, mask], weight[:, mask] = found[..., 0], found[..., 1]
    if pooling == "root":
        return value.sum(2) / mask.sum(1).sqrt()
    if pooling == "softmin":
        return mask.sum(1).log() - (-value).masked_fill(~mask, -torch.inf).logsumexp(2)
    return (weight.softmax(2) * value).sum(2)


def score(heads, states, pooling, rows=None, batch=256):
    """Rewards [S, n] (numpy) of the texts `rows`, or all, of `states` (TokenStates)."""
    rows = np.arange(len(states)) if rows is None else rows
    heads = {name: values.to(device()) for name, values in heads.items()}
    with torch.inference_mode():
        parts = np.split(rows, range(batch, len(rows), batch))
        found = [rewards(heads, *_placed(*states.padded(part)), pooling) for part in parts]
        return torch.cat(found, 1).cpu().numpy()


def fit(states, choices, calibration, target=None, pooling="root", units=64, epochs=15, learning_rate=1e-3, weight_decay=0.05,
        dropout=0.2, batch=16, seed=0):
    """Heads {name: tensor [S, ...]}, each seed's from its epoch with the lowest loss on `calibration`; and these losses [S].

    states: TokenStates in which the choices number the texts. The loss is that of eq. max-entropy or, with `target` [n], the
    mean squared error to it. AdamW, `batch` prompts a step. ParameterError for an unknown pooling.
    """
    if pooling not in POOLINGS:
        raise ParameterError(f"pooling: '{pooling}' is unknown; allowed: {', '.join(POOLINGS)}")
    random = [torch.Generator().manual_seed(int(np.random.SeedSequence([seed, s]).generate_state(1)[0])) for s in range(choices.seeds)]
    mean, scale = _placed(*states.moments(texts_in(choices.sets)))
    raw = _start(states.states.shape[1], units, random)
    optimizer = torch.optim.AdamW(raw.values(), lr=learning_rate, weight_decay=weight_decay)
    order, held_out = np.random.default_rng([seed, 0]), texts_in(calibration.sets)
    best, lowest = _fold(raw, mean, scale), torch.full((choices.seeds,), torch.inf)
    for _ in bar(range(epochs), description=f"token heads, {pooling}", unit="epoch"):
        for rows in shared_batches(choices.sets, batch, order):
            texts = texts_in(choices.sets[rows])
            x, mask = _placed(*states.padded(texts))
            shape = (int(mask.sum()), units)
            kept, = _placed(torch.stack([torch.rand(shape, generator=r) >= dropout for r in random]) / (1 - dropout))
            optimizer.zero_grad()
            found = rewards(raw, (x - mean) / scale, mask, pooling, kept)
            loss_of_texts(found.cpu(), texts, choices, rows, target).sum().backward()
            optimizer.step()
        heads = _fold(raw, mean, scale)
        loss = loss_of_texts(torch.as_tensor(score(heads, states, pooling, held_out)), held_out, calibration, target=target)
        better = loss < lowest
        best = {name: torch.where(better.view(-1, 1, 1), heads[name], best[name]) for name in heads}
        lowest = torch.where(better, loss, lowest)
    return best, lowest.numpy()


def _start(width, units, random):
    """The start that torch gives linear layers: uniform in ±1/√inputs."""
    def uniform(*shape, inputs):
        start, = _placed(torch.stack([(torch.rand(shape, generator=r) * 2 - 1) / inputs**0.5 for r in random]))
        return start.requires_grad_()
    return {"w1": uniform(width, units, inputs=width), "b1": uniform(1, units, inputs=width),
            "w2": uniform(units, 2, inputs=units), "b2": uniform(1, 2, inputs=units)}


def _placed(*tensors):
    """The tensors where models run; random ones are drawn on the CPU, so that a seed means the same everywhere."""
    return [tensor.to(device()) for tensor in tensors]


def _fold(raw, mean, scale):
    """Heads (on the CPU) for states as they are, from heads for z-scored ones."""
    with torch.no_grad():
        w1 = raw["w1"] / scale[:, None]
        folded = {"w1": w1, "b1": raw["b1"] - (mean @ w1)[:, None], "w2": raw["w2"].clone(), "b2": raw["b2"].clone()}
        return {name: values.cpu() for name, values in folded.items()}


@dataclass(frozen=True)
class TokenReward:
    """One head on the token states of one layer of a model: scores texts, and serves TRL as it is."""

    heads: dict
    model: str
    layer: int
    pooling: str

    @classmethod
    def of_seed(cls, heads, number, model, layer, pooling):
        """The head of one seed out of those that `fit` returned."""
        return cls({name: values[number:number + 1] for name, values in heads.items()}, model, layer, pooling)

    def score(self, states):
        """Rewards [n] of texts read as TokenStates; ParameterError if they are of another width."""
        if states.states.shape[1] != self.heads["w1"].shape[1]:
            raise ParameterError(f"the reward reads states of {self.heads['w1'].shape[1]} dimensions, but the texts were read in "
                                 f"{states.states.shape[1]}: these two do not belong together")
        return score(self.heads, states, self.pooling)[0]

    def __call__(self, completions, **_):
        """Rewards [n] of texts, each read through the model; other arguments of TRL are not looked at."""
        check_fit(self.model, [self.layer], self.heads["w1"].shape[1])
        return self.score(token_states(assets.model(self.model), list(completions), self.layer))

    def save_pretrained(self, folder):
        """Write reward.safetensors and reward.json into `folder`, which is made."""
        arrays = {name: values.numpy() for name, values in self.heads.items()}
        write_folder(folder, arrays, {"model": self.model, "layer": self.layer, "pooling": self.pooling})

    @classmethod
    def from_pretrained(cls, folder):
        """Load what save_pretrained wrote; ParameterError names a file that is missing."""
        arrays, note = read_folder(folder)
        return cls({name: torch.as_tensor(values) for name, values in arrays.items()}, **note)
