"""The implicit reward: an optimal expert's is the reward it was made for; scores find their way to the texts they belong to."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROMPTS
from scipy.special import log_softmax
from transformers import AutoModelForCausalLM

from irlkit.evaluation import Bench, Truth, true_reward
from irlkit.generation import tokenizer_of
from irlkit.irl import implicit

pytestmark = pytest.mark.usefixtures("tiny_cache")


def test_of_the_optimum_it_is_the_reward_up_to_a_number_for_each_prompt():
    """β on the wrong side, or expert and base model exchanged, would still correlate with something."""
    random = np.random.default_rng(0)
    base, reward = log_softmax(random.normal(size=(5, 30)), axis=1), random.normal(size=(5, 30)) * 3
    expert = log_softmax(base + reward / 0.3, axis=1)
    found = implicit.score(expert, base, 0.3)
    np.testing.assert_allclose(found - reward, (found - reward)[:, :1].repeat(30, 1), atol=1e-9)
    prompt = np.repeat(range(5), 30)
    assert implicit.slope(found.ravel(), reward.ravel(), prompt) == pytest.approx(1.0)
    weaker = implicit.score(log_softmax(base + reward, axis=1), base, 0.3)
    assert implicit.slope(weaker.ravel(), reward.ravel(), prompt) == pytest.approx(0.3)


def test_the_slope_is_that_within_prompts():
    """Prompts that differ in Z(x) would otherwise make up, or hide, a slope of their own."""
    prompt, x = np.repeat([0, 1], 3), np.array([0.0, 1, 2, 10, 11, 12])
    assert implicit.slope(0.5 * x - 100 * prompt, x, prompt) == pytest.approx(0.5)


def test_log_likelihood_is_that_of_the_network(llama):
    """A text without a prompt follows the beginning-of-text token: left out, its first token would not count."""
    tokenizer, network = tokenizer_of(llama), AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).requires_grad_(False)
    tokens = [tokenizer(text, add_special_tokens=False).input_ids for text in (" sat on the mat", "a fool")]
    found = implicit.log_likelihood(llama, [PROMPTS[0], ""], tokens, engine="transformers", threads=1)
    for value, start, own in zip(found, (tokenizer(PROMPTS[0]).input_ids, [tokenizer.bos_token_id]), tokens, strict=True):
        log_p = network(torch.tensor([start + own])).logits[0, len(start) - 1:-1].log_softmax(-1)
        assert value == pytest.approx(float(sum(row[token] for row, token in zip(log_p, own, strict=False))), abs=1e-4)


@pytest.fixture
def bench():
    """Three base completions for each of nine prompts, some twice, and two preference pairs."""
    random = np.random.default_rng(1)
    table = pd.DataFrame([{"prompt": p, "sample": s, "source": "base", "completion": f"text {p % 2} {s}", "split": split,
                           "toxicity": random.uniform(0.01, 0.99)}
                          for p in range(9) for split in [("train", "calibration", "test")[p % 3]] for s in range(3)])
    pairs = pd.DataFrame({"toxic": ["Bad .", "Bad ."], "neutral": ["Good", "Fine ."], "toxic_normalised": ["bad", "bad"],
                          "neutral_normalised": ["good", "fine"]})
    phi = np.zeros((27, 2), np.float32)
    return Bench(table, phi, true_reward(table), pairs, phi[:2], phi[:2], phi[:2], Truth.of(table, pairs))


def test_each_score_is_judged_as_that_of_its_prompt_and_text(bench):
    """The same words after another prompt are another event; scores of one for the other would look like a noisy reward."""
    prompts = [f"prompt {p}" for p in range(9)]
    judged = implicit.Judged.of(bench, prompts)
    entries = list(zip(judged.prompts, judged.texts, strict=True))
    assert len(set(entries)) == len(entries) == 18 + 6, "each once"
    truth = {(prompts[row.prompt], row.completion): r for row, r in zip(bench.table.itertuples(), bench.true_reward, strict=True)}
    people = {("", "Good"): 1, ("", "Fine ."): 2, ("", "good"): 1, ("", "fine"): -2, ("", "Bad ."): 0, ("", "bad"): 0}
    found = judged.metrics(np.array([(truth | people)[entry] for entry in entries]))
    assert found["auroc"] == found["spearman"] == found["slope"] == pytest.approx(1.0)
    assert found["pair_accuracy"] == pytest.approx(0.5) and found["pair_accuracy_raw"] == 1.0


def test_a_model_is_its_own_base(bench, llama):
    """No training, no reward: every pair is a tie."""
    judged = implicit.Judged.of(bench, [PROMPTS[p % 7] for p in range(9)])
    one, other = (judged.log_likelihood(llama, engine="transformers", threads=1) for _ in range(2))
    assert (one < 0).all() and len(one) == len(judged.texts)
    assert (implicit.score(one, other, 0.3) == 0).all()
