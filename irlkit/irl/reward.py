"""The recovered reward: what an IRL method hands on. It scores texts or features, and serves TRL as it is."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from irlkit import assets
from irlkit.features import Projection, read
from irlkit.settings import ParameterError


@dataclass(frozen=True)
class RecoveredReward:
    """r_w(y) = w·φ(y) (book, eq. reward): weights [p] over the features of one model, layers and pooling."""

    weights: np.ndarray
    projection: Projection
    model: str
    layers: tuple
    pooling: str

    def __post_init__(self):
        if len(self.weights) != self.projection.axes.shape[1]:
            raise ParameterError(f"the reward has {len(self.weights)} weights, but its features have "
                                 f"{self.projection.axes.shape[1]} dimensions: these two do not belong together")

    def score(self, features):
        """Rewards [n] of features [n, p]."""
        return features @ self.weights

    def __call__(self, texts, **_):
        """Rewards [n] of texts, each read through the feature model; other arguments of TRL are not looked at."""
        readings = read(assets.model(self.model), list(texts), self.layers)
        return self.score(self.projection(readings.pooled(self.layers, self.pooling)))

    def save_pretrained(self, folder):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: getattr(self.projection, name) for name in ("mean", "scale", "axes")}
        save_file({"weights": np.ascontiguousarray(self.weights, np.float32),
                   **{k: np.ascontiguousarray(v, np.float32) for k, v in arrays.items()}}, folder / "reward.safetensors")
        note = {"model": self.model, "layers": list(self.layers), "pooling": self.pooling}
        (folder / "reward.json").write_text(json.dumps(note, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, folder):
        """Load what save_pretrained wrote; ParameterError names a file that is missing."""
        folder = Path(folder)
        for name in ("reward.json", "reward.safetensors"):
            if not (folder / name).exists():
                raise ParameterError(f"{folder / name} does not exist; a folder written by save_pretrained is needed")
        note = json.loads((folder / "reward.json").read_text())
        arrays = load_file(folder / "reward.safetensors")
        weights = arrays.pop("weights")
        return cls(weights, Projection(**arrays), note["model"], tuple(note["layers"]), note["pooling"])
