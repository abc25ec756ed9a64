"""States of single tokens, for rewards that read each token by itself (book, eq. token-head)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from irlkit.features import Passes, keep
from irlkit.generation import fingerprint


@dataclass(frozen=True)
class TokenStates:
    """States of all tokens of n texts at one layer, text after text: states [ΣT, d] (float16); starts [n + 1].

    The tokens of text i are the rows starts[i] to starts[i + 1] − 1.
    """

    states: np.ndarray
    starts: np.ndarray

    def __len__(self):
        return len(self.starts) - 1

    def padded(self, rows):
        """Of the texts `rows` [n] (int): states [n, T, d] (float32 tensor, zeros behind a text's end) and mask [n, T]."""
        first, length = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        place = np.arange(length.max(initial=1))
        mask = place < length[:, None]
        found = torch.as_tensor(self.states[np.where(mask, first[:, None] + place, 0)]).float()
        return found * torch.as_tensor(mask)[:, :, None], torch.as_tensor(mask)

    def moments(self, rows, most=1000):
        """Mean and standard deviation [d] (tensors) over the tokens of the texts `rows`, or of `most` evenly chosen ones."""
        states, mask = self.padded(rows[::-(-len(rows) // most)])
        return states[mask].mean(0), states[mask].std(0) + 1e-6


def token_states(model, texts, layer, *, start=False, batch_tokens=2048, threads=None, finished=None, description="reading tokens"):
    """TokenStates of each text at one layer of the model in folder `model`, read as `read` does: alone, up to that layer.

    With `start` the beginning-of-text token comes first in each text: whoever runs further blocks on the states needs
    it. `finished` names a folder that keeps what was read. Raises ParameterError for a layer that the model does not have.
    """
    texts = list(texts)
    kept = finished and Path(finished) / f"{fingerprint(model, texts, 'tokens', layer, start)}.safetensors"
    if kept and kept.exists():
        return TokenStates(**load_file(kept))
    passes = Passes(model, texts, [layer], None, batch_tokens, threads, description, start)
    starts = np.r_[0, np.cumsum(passes.length)]
    states = np.zeros((starts[-1], passes.width), np.float16)
    for rows, found, mask in passes:
        states[np.concatenate([np.arange(starts[i], starts[i + 1]) for i in rows])] = found[:, 0][mask].clamp(-65000, 65000).numpy()
    if kept:
        keep({"states": states, "starts": starts}, kept)
    return TokenStates(states, starts)
