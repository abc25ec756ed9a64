"""What the machine decides and no experiment: where models run, and how much is in memory at once.

IRLKIT_AT_ONCE, a number in the environment, is the most texts that are in memory at once, wherever texts are worked on in batches. It
alters no recipe: a step of RLHF is the same size, in more parts. (Sampling in smaller parts draws other texts from the same model.)
"""

import os
from contextlib import contextmanager

import torch

from irlkit.parameters import ParameterError

AT_ONCE = "IRLKIT_AT_ONCE"
SIGNS = ("out of memory", "not enough memory", "can't allocate memory")  # of CUDA, and of torch on a CPU


def device():
    """Where models run: "cuda" where there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def has_bfloat16():
    """Whether there is a GPU that computes in bfloat16 itself."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def at_once(most):
    """How many texts to have in memory at once: `most`, or fewer where IRLKIT_AT_ONCE says so; ParameterError if that is no number."""
    value = os.environ.get(AT_ONCE, str(most))
    if not value.isdigit() or int(value) < 1:
        raise ParameterError(f"{AT_ONCE} = {value!r} in the environment: it should be a number from 1 upwards")
    return min(most, int(value))


@contextmanager
def in_memory(texts, what):
    """Turn running out of memory at `what`, with so many `texts` at once, into a ParameterError that says what to try."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # CUDA's own error is a RuntimeError
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in SIGNS):
            raise
        less = f"try {AT_ONCE}={texts // 2} in the environment" if texts > 1 else "a machine with more memory is needed"
        raise ParameterError(f"memory ran out at {what}, with {texts} texts at once: {less}; what is finished is kept") from error
