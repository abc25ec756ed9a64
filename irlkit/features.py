"""Features φ: pooled hidden states of a frozen language model (book, equations for φ).

A text is read once: `read` runs it through the first blocks of the model and keeps, for every layer asked for, the
mean, the maximum and the last of its token states. Everything later (which layers, which pooling, z-scores, the
projection) is arithmetic on what was kept.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import AutoModel

from irlkit.generation import checked_ids, fingerprint, named_blocks, network_of, tokenizer_of
from irlkit.machine import at_once, device, in_memory
from irlkit.parameters import ParameterError
from irlkit.progress import bar

POOLINGS = ("root", "mean", "max", "last")


@dataclass(frozen=True)
class Readings:
    """Pooled token states of n texts: mean, max and last, each [n, L, d] (float16), of the L `layers`; length [n]."""

    layers: tuple
    mean: np.ndarray
    max: np.ndarray
    last: np.ndarray
    length: np.ndarray

    def pooled(self, layers, pooling):
        """Features [n, len(layers)·d] (float32) of the given layers; `root` is Σ_t h_t / √T, with T tokens in the text."""
        if pooling not in POOLINGS:
            raise ParameterError(f"pooling: '{pooling}' is unknown; allowed: {', '.join(POOLINGS)}")
        missing = [layer for layer in layers if layer not in self.layers]
        if missing:
            raise ParameterError(f"layers: {missing} were not read; these were: {list(self.layers)}")
        states = getattr(self, "mean" if pooling == "root" else pooling)
        states = states[:, [self.layers.index(layer) for layer in layers]].astype(np.float32)
        if pooling == "root":
            states *= np.sqrt(self.length)[:, None, None]
        return states.reshape(len(states), -1)

    def save(self, path):
        arrays = {"mean": self.mean, "max": self.max, "last": self.last, "length": self.length}
        keep(arrays, Path(path), {"layers": " ".join(map(str, self.layers))})

    @classmethod
    def load(cls, path):
        with safe_open(path, "numpy") as file:
            layers = tuple(int(layer) for layer in file.metadata()["layers"].split())
        return cls(layers, **load_file(path))


def read(model, texts, layers, *, prompts=None, batch_tokens=2048, threads=None, finished=None, description="reading"):
    """Read each text once through the model in folder `model`, up to the highest of `layers` and no further.

    Layer l is the state after l blocks (0: the embeddings). A beginning-of-text token stands before each text and is
    left out of the pooling, since the first position of such models holds an attention sink and no meaning. With
    `prompts` (one a text) the text is read after its prompt, and only its own tokens are pooled.
    `finished` names a folder that keeps what was read, so that the same texts are not read again.
    Returns Readings. Raises ParameterError for a layer that the model does not have.
    """
    texts, prompts = list(texts), prompts and list(prompts)
    kept = finished and Path(finished) / f"{fingerprint(model, texts, prompts, layers)}.safetensors"
    if kept and kept.exists():
        return Readings.load(kept)
    readings = _read(model, texts, layers, prompts, batch_tokens, threads, description)
    if kept:
        readings.save(kept)
    return readings


def _read(model, texts, layers, prompts, batch_tokens, threads, description):
    passes = Passes(model, texts, layers, prompts, batch_tokens, threads, description)
    kept = {name: np.zeros((len(texts), len(layers), passes.width), np.float16) for name in ("mean", "max", "last")}
    for rows, states, mask in passes:
        for name, values in pool(states, mask).items():
            kept[name][rows] = values.clamp(-65000, 65000).numpy()
    return Readings(tuple(layers), **kept, length=passes.length)


class Passes:
    """The texts' way through the first blocks of a model: yields (rows, states [batch, L, T, d], mask [batch, T]) by batch.

    length [n] are the texts' own numbers of tokens, width is d. The mask is of a text's own tokens, and with `start`
    of all that the model sees: the beginning-of-text token, too.
    """

    def __init__(self, model, texts, layers, prompts, batch_tokens, threads, description, start=False):
        tokenizer = tokenizer_of(model)
        self.network = network_of(model, AutoModel)
        self.layers, self.blocks, self.batch_tokens = layers, cut(self.network, layers), batch_tokens
        if threads:
            torch.set_num_threads(threads)
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        before = [[begin]] * len(texts) if prompts is None else [[begin, *ids] for ids in checked_ids(model, tokenizer, prompts)]
        own = [ids or [tokenizer.eos_token_id] for ids in checked_ids(model, tokenizer, texts, add_special_tokens=False)]
        self.sequences = [b + o for b, o in zip(before, own, strict=True)]
        self.length = np.array([len(ids) for ids in (self.sequences if start else own)])
        self.width, self.description = self.network.config.hidden_size, description

    def __iter__(self):
        with bar(total=len(self.sequences), description=self.description, unit="text") as progress:
            for rows in _batches([len(ids) for ids in self.sequences], self.batch_tokens):
                with in_memory(len(rows), self.description):
                    found = _states(self.network, self.blocks, self.layers, [self.sequences[i] for i in rows], self.length[rows])
                yield rows, *found
                progress.update(len(rows))


def keep(arrays, path, note=None):
    """Write safetensors so that a file that stands there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, path.with_suffix(".partial"), note)
    os.replace(path.with_suffix(".partial"), path)


def cut(network, layers, below=0):
    """Drop the first `below` blocks and those above the highest of `layers`; returns the list of the blocks that are left."""
    count = network.config.num_hidden_layers
    wrong = [layer for layer in layers if not 0 <= layer <= count]
    if wrong or not layers:
        raise ParameterError(f"layers: {wrong or 'none'} asked for; the model has layers 0 to {count}")
    name, blocks = named_blocks(network)
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, blocks[below:max(layers)])
    return list(blocks[below:max(layers)])


def _batches(lengths, batch_tokens):
    """Rows sorted by length, cut where the padded batch would hold more than `batch_tokens` tokens."""
    batch, most = [], at_once(batch_tokens)
    for row in np.argsort(lengths, kind="stable"):
        if batch and (len(batch) == most or (len(batch) + 1) * lengths[row] > batch_tokens):
            yield np.array(batch)
            batch = []
        batch.append(row)
    if batch:
        yield np.array(batch)


def _states(network, blocks, layers, sequences, own_length):
    """States [batch, L, T, d] of the layers and a mask [batch, T] of each sequence's last `own_length` tokens."""
    longest = max(len(ids) for ids in sequences)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in sequences])
    ends = torch.tensor([len(row) for row in sequences])[:, None]
    position = torch.arange(longest)[None]
    found = {}
    hooks = [block.register_forward_hook(lambda _, __, out, layer=number + 1: found.update(
        {layer: out[0] if isinstance(out, tuple) else out})) for number, block in enumerate(blocks)]
    hooks.append(network.get_input_embeddings().register_forward_hook(lambda _, __, out: found.update({0: out})))
    with torch.inference_mode():
        network(input_ids=ids.to(device()), attention_mask=(position < ends).long().to(device()), use_cache=False)
    for hook in hooks:
        hook.remove()
    own = (position < ends) & (position >= ends - torch.as_tensor(own_length)[:, None])
    return torch.stack([found[layer] for layer in layers], 1).cpu(), own


def pool(states, mask):
    """Mean, max and last, each [n, L, d], over the masked tokens of states [n, L, T, d]."""
    mask = mask[:, None, :, None]
    count = mask.sum(2)
    last = (mask * torch.arange(mask.shape[2], device=mask.device)[None, None, :, None]).argmax(2, keepdim=True)
    return {"mean": (states * mask).sum(2) / count,
            "max": states.masked_fill(~mask, -torch.inf).amax(2),
            "last": states.gather(2, last.expand(-1, states.shape[1], -1, states.shape[3]))[:, :, 0]}


def pack(arrays):
    """Float arrays {name: [n, p]} as int8 with a scale [p] each, a quarter of float32; for safetensors."""
    packed = {}
    for name, values in arrays.items():
        scale = np.abs(values).max(0) / 127 + 1e-12
        packed |= {name: np.round(values / scale).astype(np.int8), f"{name}.scale": scale.astype(np.float32)}
    return packed


def unpack(path):
    """What `pack` made of {name: [n, p]}, read from the safetensors file `path`, as float32."""
    arrays = load_file(path)
    return {name: arrays[name] * arrays[f"{name}.scale"] for name in arrays if not name.endswith(".scale")}


@dataclass(frozen=True)
class Projection:
    """z-scores, then the leading principal axes of the training base completions: φ = ((x − mean) / scale) @ axes.

    mean, scale [D]; axes [D, p], orthogonal columns divided by √D, so that ‖φ‖ is near 1 whatever D is.
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray

    @classmethod
    def fit(cls, features, dimension=None):
        """Fit on `features` [n, D] (training base completions only); `dimension` None keeps all D axes as they are."""
        mean, scale = features.mean(0), features.std(0) + 1e-6
        width = features.shape[1]
        axes = np.eye(width, dtype=np.float32)
        if dimension is not None and dimension < width:
            z = torch.as_tensor((features - mean) / scale)
            axes = torch.linalg.eigh(z.T @ z).eigenvectors.flip(1)[:, :dimension].contiguous().numpy()
        return cls(mean, scale, (axes / np.sqrt(width)).astype(np.float32))

    def __call__(self, features):
        return ((features - self.mean) / self.scale) @ self.axes

    def save(self, path):
        """Write to a safetensors file; the axes in float16."""
        save_file({"mean": self.mean, "scale": self.scale, "axes": np.ascontiguousarray(self.axes, np.float16)}, path)

    @classmethod
    def load(cls, path):
        return cls(**{name: values.astype(np.float32) for name, values in load_file(path).items()})
