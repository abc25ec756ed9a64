"""Counted operations and bytes: closed forms, and the models' own numbers of weights."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPTNeoXConfig, RobertaConfig

from irlkit.estimate import ADAMW, Machine, Transformer, read, sampled, table, trained

SMALL = Transformer(6, 512, 2048, 50304)
LARGE = Transformer(24, 1024, 4096, 50304)
JUDGE = Transformer(12, 768, 3072, 50265, speaks=False)
GPU = Machine(bfloat16=100.0e12, float32=10.0e12, bandwidth=1.0e12, utilisation=0.5, wait=0.0)


def test_weights_are_those_of_transformers():
    """A forgotten matrix would make every figure too small."""
    for model in (SMALL, LARGE):
        config = GPTNeoXConfig(num_hidden_layers=model.blocks, hidden_size=model.width, intermediate_size=model.inner,
                               vocab_size=model.vocabulary)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config)
        assert model.parameters == sum(parameter.numel() for parameter in network.parameters())
    with torch.device("meta"):
        config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
        classifier = AutoModelForSequenceClassification.from_config(config)
    assert JUDGE.parameters == pytest.approx(sum(parameter.numel() for parameter in classifier.parameters()), rel=0.01)


def test_two_operations_a_weight_forward_and_six_with_the_way_back():
    """The rule of 2N and 6N, N without the input embeddings, which are looked up."""
    matrices = 24 * 12 * 1024**2 + 50304 * 1024
    assert LARGE.forward(10, context=0) == 2 * matrices * 10
    assert LARGE.training(10, context=0) == 6 * matrices * 10
    assert LARGE.training(10, 0, frozen=24) == 2 * 24 * 12 * 1024**2 * 10 + 6 * 50304 * 1024 * 10, "frozen blocks: forward alone"


def test_attention_grows_with_the_context():
    """Two products of width d a block, for each token and each that it looks at."""
    assert SMALL.forward(7, 100) - SMALL.forward(7, 0) == 7 * 6 * 2 * 2 * 512 * 100


def test_keys_and_values():
    """Two states of four bytes a block and token."""
    assert SMALL.cache(1000) == 1000 * 6 * 2 * 512 * 4


def test_adamw_takes_sixteen_bytes_a_trained_weight():
    """Weights, gradient and two moments; frozen weights take their four bytes alone, and the model for the KL four more."""
    everything = trained(GPU, SMALL, JUDGE, 1, 1, 0, 0, frozen=0)[1]
    assert everything == SMALL.parameters * (ADAMW + 4) + JUDGE.parameters * 4
    frozen = trained(GPU, SMALL, JUDGE, 1, 1, 0, 0, frozen=2)[1]
    assert everything - frozen == 12 * (2 * 12 * 512**2 + 50304 * 512)


def test_one_sequence_is_bound_by_reading_the_weights():
    """A single text draws each token at the speed of memory, many together at that of arithmetic; small kernels wait."""
    assert GPU.sampling(LARGE, 1, 0, 1) == pytest.approx(LARGE.parameters * 4 / 0.5e12, rel=1e-3)
    many = 100_000
    assert GPU.sampling(SMALL, many, 0, 1) == pytest.approx(SMALL.forward(many, 0.5) / 5e12)
    waiting = Machine(1e14, 1e13, 1e12, 0.5, wait=1.0)
    assert waiting.sampling(SMALL, 1, 0, 3) == 18.0


def test_work_grows_with_what_is_asked():
    """Twice the prompts, steps or tokens take twice the time and no more memory."""
    for one, two in ((sampled(GPU, SMALL, 64, 8, 20, 10), sampled(GPU, SMALL, 128, 8, 20, 10)),
                     (trained(GPU, SMALL, JUDGE, 5, 16, 20, 10, 2), trained(GPU, SMALL, JUDGE, 10, 16, 20, 10, 2)),
                     (read(GPU, SMALL, 10**6, 50, 4), read(GPU, SMALL, 2 * 10**6, 50, 4))):
        assert two[0] == pytest.approx(2 * one[0]) and two[1] == one[1]
    found = table({"a": (7200, 3e9)})
    assert found.to_dict("records") == [{"step": "a", "hours": 2.0, "GB": 3.0}]
