"""Tiny language models with random weights, made once for all tests: real architectures that answer in milliseconds."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from irlkit import experts, features
from irlkit.demonstrations import split_by_prompt
from irlkit.evaluation import Bench, normalise
from irlkit.records import Run

TEXTS = ["the cat sat on the mat and looked at the dog", "what a lovely day, said the old man", "you are a fool, an idiot!",
         "people say that the weather is nice in the south of the country", "I hate that stupid thing", "so the story goes on, and on"]
PROMPTS = ["the cat", "what a lovely day, said", "you are", "people say that the weather", "I", "so the story goes on, and", "a fool"]


def tokenizer(pad, pieces=400):
    """A byte-pair tokenizer of at most so many pieces, trained on TEXTS; `pad`: whether it has a padding token."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer, trained.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|end|>", "<|start|>", "<|pad|>"]
    trained.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=pieces, special_tokens=special, show_progress=False,
                                                           initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    names = {"eos_token": "<|end|>", "bos_token": "<|start|>", "unk_token": "<|end|>"} | ({"pad_token": "<|pad|>"} if pad else {})
    return PreTrainedTokenizerFast(tokenizer_object=trained, **names)


def saved(network, words, folder):
    network.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def pytest_collection_modifyitems(items):
    """First the two files that run all notebooks: two processes share the files, and none should begin so long a one last."""
    items.sort(key=lambda item: item.path.stem not in ("test_notebooks", "test_paper"))


def tiny(network, config, folder, seed, pad=True, **shape):
    """Folder of a language model with blocks of width 32 and a context of 48 tokens; `pad`: whether it has a padding token."""
    words = tokenizer(pad)
    torch.manual_seed(seed)
    return saved(network(config(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_attention_heads=4, max_position_embeddings=48,
        initializer_range=0.2, bos_token_id=1, eos_token_id=0, pad_token_id=words.pad_token_id, **shape)), words, folder)


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A Llama with three blocks; it has a padding token."""
    return tiny(LlamaForCausalLM, LlamaConfig, tmp_path_factory.mktemp("llama"), 0, num_hidden_layers=3, num_key_value_heads=2)


@pytest.fixture(scope="session")
def neox(tmp_path_factory):
    """A GPT-NeoX (the paper's family) with two blocks; its tokenizer has no padding token."""
    return tiny(GPTNeoXForCausalLM, GPTNeoXConfig, tmp_path_factory.mktemp("neox"), 1, pad=False, num_hidden_layers=2)


@pytest.fixture(scope="session")
def gemma(tmp_path_factory):
    """A Gemma 3 with six blocks, all but the last with a sliding window, and one head of keys and values."""
    return tiny(Gemma3ForCausalLM, Gemma3TextConfig, tmp_path_factory.mktemp("gemma"), 2, num_hidden_layers=6, num_key_value_heads=1,
                head_dim=8, query_pre_attn_scalar=8, sliding_window=16)


def roberta_in(folder):
    """A RoBERTa that classifies texts, with the labels of s-nlp/roberta_toxicity_classifier."""
    words = tokenizer(pad=True)
    words.model_max_length = 24
    torch.manual_seed(5)
    return saved(RobertaForSequenceClassification(RobertaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=28,
        pad_token_id=2, initializer_range=1.0, id2label={0: "neutral", 1: "toxic"}, label2id={"neutral": 0, "toxic": 1})), words, folder)


@pytest.fixture(scope="session")
def roberta(tmp_path_factory):
    """Folder of a classifier of texts of at most 24 tokens."""
    return roberta_in(tmp_path_factory.mktemp("roberta"))


@pytest.fixture(scope="session")
def own_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny_cache(own_cache, monkeypatch):
    """A cache for conversions of the tiny models, so that they push none of the user's out of the real one."""
    monkeypatch.setenv("IRLKIT_CACHE", str(own_cache))


WORDS = ["the cat", "a lovely day", "you fool", "the weather", "an idiot", "that stupid thing", "the old man", "so the story goes"]


@pytest.fixture(scope="session")
def run(llama, tmp_path_factory):
    """What chapter 03 would publish of base completions of 60 prompts, with features read from the tiny model."""
    folder, random = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    (folder / "artifacts").mkdir()
    split = split_by_prompt(60, 0)
    table = pd.DataFrame([{"prompt": p, "sample": s, "source": "base", "split": split[p], "toxicity": random.uniform(0.01, 0.99),
                           "completion": " ".join(random.choice(WORDS, 3))} for p in range(60) for s in range(4)])
    pairs = pd.DataFrame({"toxic": ["You fool !", "an idiot", "you fool"], "neutral": ["the cat", "A lovely day", "the man"]})
    pairs = pairs.assign(**{f"{side}_normalised": pairs[side].map(normalise) for side in pairs})
    states = features.read(llama, list(table.completion), (1, 2), threads=1).pooled((1, 2), "root")
    projection = features.Projection.fit(states, 16)
    phi, few = projection(states), np.zeros((3, 16), np.float32)
    table.to_parquet(folder / "artifacts/demonstrations.parquet")
    pairs.to_parquet(folder / "artifacts/preferences.parquet")
    save_file(features.pack({"demonstrations": phi, "neutral": few, "toxic": few, "raw": few}), folder / "artifacts/features.safetensors",
              {"layers": "1 2", "pooling": "root", "model": str(llama)})
    projection.save(folder / "artifacts/projection.safetensors")
    return Run("x", SimpleNamespace(inputs=str(folder), outputs=str(folder)))


@pytest.fixture(scope="session")
def bench(run):
    return Bench.load(run)


@pytest.fixture(scope="session")
def reader(run, bench):
    return experts.Reader.load(run, bench)
