"""What the machine decides: where models run, how much is in memory at once, and what is said when it runs out."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TEXTS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from irlkit import features, generation, machine, rewards
from irlkit.irl import reward_model, token_head
from irlkit.parameters import ParameterError


def test_without_a_gpu_models_run_on_the_cpu(monkeypatch):
    """bfloat16 is for hardware that has it: elsewhere it is slow, or training fails."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert machine.device() == "cpu" and not machine.has_bfloat16()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for has in (True, False):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation, has=has: has)
        assert machine.device() == "cuda" and machine.has_bfloat16() == has


class OneDevice(TorchDispatchMode):
    """Refuses what a GPU would, an operation on tensors of two devices; what is copied from "meta" to the CPU is zeros."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, str(function).split(".")[1]
        values = tree_leaves((args, kwargs))
        devices = {value.device.type for value in values if isinstance(value, torch.Tensor) and value.dim()}
        assert len(devices) < 2 or "copy" in name, f"{function} met tensors of {devices}"
        if name in ("item", "is_nonzero", "_local_scalar_dense") and args[0].device.type == "meta":
            return True
        if name in ("to", "_to_copy") and args[0].device.type == "meta" and torch.device("cpu") in values:
            return torch.zeros(args[0].shape, dtype=next((value for value in values if isinstance(value, torch.dtype)), args[0].dtype))
        return function(*args, **kwargs)


@pytest.mark.parametrize("place", ["sampling", "log_probs", "features", "classifier", "reward model", "token head"])
def test_models_and_what_they_read_meet_on_the_device(place, neox, roberta, monkeypatch):
    """A forgotten tensor fails on a GPU alone, where no test runs. The device "meta", of shapes without values, stands in for it."""
    for module in (generation, features, rewards, reward_model, token_head):
        monkeypatch.setattr(module, "device", lambda: "meta")
    words = generation.tokenizer_of(neox)
    states, mask = torch.zeros(2, 3, 32), torch.ones(2, 3, dtype=torch.bool)
    heads = {"w1": torch.zeros(1, 32, 4), "b1": torch.zeros(1, 1, 4), "w2": torch.zeros(1, 4, 2), "b2": torch.zeros(1, 1, 2)}
    call = {
        "sampling": lambda: generation._transformers(neox, words, 1)(
            TEXTS[:2], tokenizer=words, samples=1, max_new_tokens=2, temperature=1.0, seed=0),
        "log_probs": lambda: generation.log_probs(neox, TEXTS[:2], [[5], [6]], engine="transformers", threads=1),
        "features": lambda: features.read(neox, TEXTS[:2], [1]).mean,
        "classifier": lambda: rewards.SequenceClassifier(roberta)(TEXTS[:2]),
        "reward model": lambda: reward_model.RewardModel(neox, 0, 2)(states, mask).cpu(),
        "token head": lambda: token_head.score(heads, SimpleNamespace(padded=lambda rows: (states, mask)), "softmin", np.arange(2)),
    }[place]
    with OneDevice():
        if place == "token head":  # which picks its tokens by a mask, and how many these are "meta" cannot say
            with pytest.raises(NotImplementedError, match="nonzero"):
                call()
        else:
            assert len(call()) == 2


def test_fewer_texts_at_once_read_the_same(llama, roberta, monkeypatch):
    """IRLKIT_AT_ONCE alters how much memory is needed, not what is read."""
    whole, judged = features.read(llama, TEXTS, [1, 2]), rewards.SequenceClassifier(roberta)(TEXTS)
    monkeypatch.setenv(machine.AT_ONCE, "2")
    seen = []
    states = features._states
    monkeypatch.setattr(features, "_states", lambda *args: seen.append(len(args[3])) or states(*args))
    np.testing.assert_allclose(features.read(llama, TEXTS, [1, 2]).mean, whole.mean, atol=2e-3)
    assert max(seen) == 2
    np.testing.assert_allclose(rewards.SequenceClassifier(roberta)(TEXTS), judged, atol=1e-6)


@pytest.mark.parametrize("value", ["0", "many", "-3", "2.5"])
def test_a_number_of_texts_that_is_none_is_refused(value, monkeypatch):
    """A misspelt number would be ignored, and memory run out again."""
    monkeypatch.setenv(machine.AT_ONCE, value)
    with pytest.raises(ParameterError, match=f"IRLKIT_AT_ONCE = '{value}' in the environment: it should be a number from 1"):
        machine.at_once(64)


@pytest.mark.parametrize("error", [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")])
def test_running_out_of_memory_says_what_to_try(error):
    """A CUDA traceback names neither what was done nor how to do it in less."""
    with pytest.raises(ParameterError, match="memory ran out at sampling, with 64 texts at once: try IRLKIT_AT_ONCE=32 in the environment"):
        with machine.in_memory(64, "sampling"):
            raise error
    with pytest.raises(ParameterError, match="with 1 texts at once: a machine with more memory is needed"):
        with machine.in_memory(1, "sampling"):
            raise error


def test_memory_that_really_is_not_there(monkeypatch):
    """The words by which torch tells it may change with a version."""
    with pytest.raises(ParameterError, match="memory ran out at a test"):
        with machine.in_memory(2, "a test"):
            torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_stay_what_they_are():
    """Any RuntimeError taken for lack of memory would hide a mistake."""
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        with machine.in_memory(64, "sampling"):
            torch.zeros(2, 3) @ torch.zeros(2, 3)
