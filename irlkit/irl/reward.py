"""The recovered reward: what an IRL method hands on. It scores texts or features, and serves TRL as it is."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig

from irlkit import assets
from irlkit.features import read
from irlkit.parameters import ParameterError


@dataclass(frozen=True)
class RecoveredReward:
    """r_w(y) = w·h(y) + offset (book, eq. reward): weights [D] on the pooled states h [D] of one model.

    The z-scores and the projection of the features φ are linear, so that they are folded into the weights.
    """

    weights: np.ndarray
    offset: float
    model: str
    layers: tuple
    pooling: str

    @classmethod
    def of_features(cls, weights, projection, model, layers, pooling):
        """From weights [p] on φ = projection(h). ParameterError if their dimensions do not fit."""
        if len(weights) != projection.axes.shape[1]:
            raise ParameterError(f"the reward has {len(weights)} weights, but its features have "
                                 f"{projection.axes.shape[1]} dimensions: these two do not belong together")
        raw = projection.axes @ weights / projection.scale
        return cls(raw.astype(np.float32), float(-projection.mean @ raw), model, tuple(layers), pooling)

    def score(self, states):
        """Rewards [n] of pooled states [n, D]; ParameterError if they are of another dimension."""
        if states.shape[1] != len(self.weights):
            raise ParameterError(f"the reward has {len(self.weights)} weights, but the texts were read in "
                                 f"{states.shape[1]} dimensions: these two do not belong together")
        return states @ self.weights + self.offset

    def __call__(self, completions, **_):
        """Rewards [n] of texts, each read through the feature model; other arguments of TRL are not looked at."""
        check_fit(self.model, self.layers, len(self.weights))
        readings = read(assets.model(self.model), list(completions), self.layers)
        return self.score(readings.pooled(self.layers, self.pooling))

    def save_pretrained(self, folder):
        """Write reward.safetensors and reward.json into `folder`, which is made."""
        note = {"model": self.model, "layers": list(self.layers), "pooling": self.pooling, "offset": self.offset}
        write_folder(folder, {"weights": self.weights}, note)

    @classmethod
    def from_pretrained(cls, folder):
        """Load what save_pretrained wrote; ParameterError names a file that is missing."""
        arrays, note = read_folder(folder)
        return cls(arrays["weights"], note["offset"], note["model"], tuple(note["layers"]), note["pooling"])


def check_fit(model, layers, dimensions):
    """ParameterError for a reward on states in so many dimensions that the named model does not have at these layers."""
    config = AutoConfig.from_pretrained(assets.model(model)).get_text_config()
    if max(layers) > config.num_hidden_layers or dimensions != len(layers) * config.hidden_size:
        raise ParameterError(f"the reward reads layers {' '.join(map(str, layers))} in {dimensions} dimensions, but the model {model} "
                             f"has layers 0 to {config.num_hidden_layers} of width {config.hidden_size}: these two do not belong together")


def write_folder(folder, arrays, note):
    """Write arrays (float32) to reward.safetensors and `note` to reward.json in `folder`, which is made."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(values, np.float32) for name, values in arrays.items()}, folder / "reward.safetensors")
    (folder / "reward.json").write_text(json.dumps(note, indent=1) + "\n")


def read_folder(folder):
    """(arrays, note) that write_folder wrote; ParameterError names a file that is missing."""
    folder = Path(folder)
    for name in ("reward.json", "reward.safetensors"):
        if not (folder / name).exists():
            raise ParameterError(f"{folder / name} does not exist; a folder written by save_pretrained is needed")
    return load_file(folder / "reward.safetensors"), json.loads((folder / "reward.json").read_text())
