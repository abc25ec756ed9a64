"""What the heavy steps would take on one GPU, from counted operations and bytes: an estimate, nothing is run (chapter 14).

A weight costs two operations a token forward and four backward, so that training N weights costs 6N a token; attention costs 4·d a
block for each pair of tokens. What the hardware reaches of its peak is assumed, and so is what a small kernel waits for its launch.
"""

from dataclasses import dataclass

import pandas as pd

FLOAT = 4  # bytes of a float32: weights, states that are kept, logits
ADAMW = 16  # bytes of a trained weight: itself, its gradient and two moments


@dataclass(frozen=True)
class Transformer:
    """blocks, width d, inner width of the feed-forward part, vocabulary; `speaks`: it has an output layer, with weights of its own."""

    blocks: int
    width: int
    inner: int
    vocabulary: int
    speaks: bool = True

    @property
    def block(self):
        """Weights of a block's matrices."""
        return 4 * self.width**2 + 2 * self.width * self.inner

    @property
    def parameters(self):
        """All weights, with biases, norms, and the embeddings."""
        small = 9 * self.width + self.inner  # biases of four and two matrices, two norms
        return self.blocks * (self.block + small) + (1 + self.speaks) * self.vocabulary * self.width + 2 * self.width

    def forward(self, tokens, context, blocks=None, output=True):
        """Operations for so many tokens, each of which looks at `context` others, through `blocks` blocks (all) and the output layer."""
        blocks = self.blocks if blocks is None else blocks
        output_layer = output * self.speaks * self.vocabulary * self.width
        return tokens * (2 * (blocks * self.block + output_layer) + 4 * blocks * self.width * context)

    def training(self, tokens, context, frozen=0):
        """Operations forward and backward: three times the forward ones, once through the frozen blocks."""
        lower = self.forward(tokens, context, frozen, output=False)
        return 3 * self.forward(tokens, context) - 2 * lower

    def cache(self, tokens):
        """Bytes of the keys and values of so many tokens."""
        return 2 * self.blocks * self.width * tokens * FLOAT

    def trained(self, frozen=0):
        """Weights that are trained: with frozen blocks the input embeddings are frozen as well."""
        return self.parameters - (frozen * self.block + self.vocabulary * self.width if frozen else 0)


@dataclass(frozen=True)
class Machine:
    """One GPU: peak operations a second in bfloat16 and in float32, bytes a second, the share of a peak that is reached, and the seconds
    that a block waits for its kernels to be launched."""

    bfloat16: float
    float32: float
    bandwidth: float
    utilisation: float
    wait: float

    def seconds(self, operations, peak):
        """For so many operations at a peak, of which `utilisation` is reached."""
        return operations / (self.utilisation * peak)

    def sampling(self, model, sequences, start, new):
        """Seconds to draw `new` tokens after `start` ones in each of so many sequences at once, in float32.

        A token's time is that of its operations or of reading all weights and the cache, whichever is longer, but at least the waiting.
        """
        middle = start + new / 2
        operations = self.seconds(model.forward(sequences, middle), self.float32)
        reading = (model.parameters * FLOAT + model.cache(sequences * middle)) / (self.utilisation * self.bandwidth)
        token = max(operations, reading, model.blocks * self.wait)
        return self.seconds(model.forward(sequences * start, start), self.float32) + new * token


def sampled(machine, model, prompts, samples, start, new, at_once=64):
    """(seconds, bytes) to draw completions, `at_once` prompts at a time."""
    parts = -(-prompts // at_once)
    sequences = min(prompts, at_once) * samples
    size = model.parameters * FLOAT + model.cache(sequences * (start + new)) + 2 * sequences * model.vocabulary * FLOAT
    return parts * machine.sampling(model, sequences, start, new), size


def trained(machine, model, judge, steps, batch, start, new, frozen):
    """(seconds, bytes) of RLOO: draw, judge, two readings for the KL, and the training itself, in bfloat16 but for the drawing.

    Bytes: weights and AdamW, the second model for the KL, the judge, the logits three times over, some twenty states a token and block.
    """
    tokens, length = batch * (start + new), start + new
    work = (2 * model.forward(tokens, length) + model.training(tokens, length, frozen)) / machine.bfloat16
    judging = judge.forward(batch * new, new) / machine.float32
    step = machine.sampling(model, batch, start, new) + (work + judging) / machine.utilisation + 5 * model.blocks * machine.wait
    learned = model.trained(frozen)
    weights = learned * ADAMW + (model.parameters - learned) * FLOAT + model.parameters * FLOAT + judge.parameters * FLOAT
    kept = tokens * (model.blocks - frozen) * 20 * model.width * FLOAT + 3 * batch * new * model.vocabulary * FLOAT
    return steps * step, weights + kept


def read(machine, model, tokens, length, blocks, at_once=2048):
    """(seconds, bytes) to read texts of so many tokens in all through the first blocks, `at_once` tokens at a time."""
    work = machine.seconds(model.forward(tokens, length, blocks, output=False), machine.float32)
    waiting = -(-tokens // at_once) * blocks * machine.wait
    return max(work, waiting), model.parameters * FLOAT + (blocks + 20) * at_once * model.width * FLOAT


def table(rows):
    """{step: (seconds, bytes)} as columns step, hours, GB."""
    return pd.DataFrame([{"step": step, "hours": seconds / 3600, "GB": size / 1e9} for step, (seconds, size) in rows.items()])
