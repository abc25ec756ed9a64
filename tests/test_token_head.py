"""Token heads: a planted reward of single tokens is found, every pooling is its formula, a saved head scores the same."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TEXTS
from scipy.stats import spearmanr

from irlkit.demonstrations import Choices, exact_choices
from irlkit.irl import common, token_head
from irlkit.irl.token_head import TokenReward
from irlkit.parameters import ParameterError
from irlkit.token_states import TokenStates, token_states

WORDS, WIDTH = 8, 5
VALUE = np.array([-3.0, 0, 0, 0.5, 0, 1.0, 0, 0])  # of each word of the toy language: the first one is the bad one
QUICK = {"units": 16, "epochs": 20, "learning_rate": 1e-2, "batch": 8}


def world(prompts=120, samples=6):  # prompts: a multiple of four
    """Texts of two to seven words, their token states, and how often each word stands in them: (table, states, counts [n, W])."""
    random = np.random.default_rng(0)
    length = random.integers(2, 8, prompts * samples)
    words = random.integers(0, WORDS, length.sum())
    starts = np.r_[0, np.cumsum(length)]
    counts = np.stack([np.bincount(words[a:b], minlength=WORDS) for a, b in zip(starts, starts[1:], strict=False)])
    table = pd.DataFrame({"prompt": np.repeat(range(prompts), samples), "source": "base",
                          "split": np.repeat(["train", "calibration"], [prompts * samples * 3 // 4, prompts * samples // 4])})
    return table, TokenStates(random.normal(size=(WORDS, WIDTH)).astype(np.float16)[words] * 3 + 5, starts), counts


def true_reward(counts, pooling):
    if pooling == "softmin":
        return -np.log((counts * np.exp(-VALUE)).sum(1) / counts.sum(1))
    return counts @ VALUE / counts.sum(1) ** (0.5 if pooling == "root" else 1.0)


def fitted(pooling, seeds=1, **options):
    table, states, counts = world()
    reward = true_reward(counts, pooling)
    train, calibration = (exact_choices(table, None, reward, 0.5, split=split, seeds=seeds) for split in ("train", "calibration"))
    return token_head.fit(states, train, calibration, pooling=pooling, **QUICK | options), states, reward, calibration


@pytest.mark.parametrize("pooling", token_head.POOLINGS)
def test_a_planted_reward_of_tokens_is_recovered(pooling):
    """A wrong sign, states of other texts or a padded token that counts would all fail here."""
    (heads, losses), states, reward, calibration = fitted(pooling, seeds=2)
    assert losses.shape == (2,) and (losses < np.log(6)).all(), "better than chance on the calibration choices"
    for row in token_head.score(heads, states, pooling):
        assert spearmanr(row, reward).statistic > 0.9


def test_the_poolings_are_their_formulas():
    """Σ f/√T, −log mean exp(−f) and the weighted mean, token by token in numpy; text by text or all together."""
    _, states, _ = world(4, 3)
    random = torch.Generator().manual_seed(0)
    heads = {name: torch.randn(shape, generator=random) for name, shape in
             {"w1": (2, WIDTH, 3), "b1": (2, 1, 3), "w2": (2, 3, 2), "b2": (2, 1, 2)}.items()}
    for seed in range(2):
        w1, b1, w2, b2 = (heads[name][seed] for name in ("w1", "b1", "w2", "b2"))
        found = [(torch.nn.functional.gelu(torch.as_tensor(states.states[a:b]).float() @ w1 + b1) @ w2 + b2).numpy().astype(float)
                 for a, b in zip(states.starts, states.starts[1:], strict=False)]
        by_hand = {"root": [f[:, 0].sum() / len(f) ** 0.5 for f in found], "softmin": [-np.log(np.exp(-f[:, 0]).mean()) for f in found],
                   "attention": [np.average(f[:, 0], weights=np.exp(f[:, 1])) for f in found]}
        for pooling, expected in by_hand.items():
            np.testing.assert_allclose(token_head.score(heads, states, pooling)[seed], expected, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(token_head.score(heads, states, pooling, batch=1)[seed], expected, rtol=1e-3, atol=1e-3)


def test_seeds_fitted_together_are_those_fitted_alone():
    """One batch of seeds is a matter of speed: starts, dropout and picks must not leak between them."""
    (together, losses), *_ = fitted("root", seeds=3, epochs=2)
    (alone, first), *_ = fitted("root", seeds=1, epochs=2)
    np.testing.assert_allclose(first, losses[:1], rtol=1e-3)
    for name, values in alone.items():
        np.testing.assert_allclose(values, together[name][:1], atol=2e-3)
        assert (together[name][0] != together[name][1]).any()


def test_the_kept_epoch_is_the_one_reported():
    """The loss that is compared between layers must be that of the heads that are handed on, z-scores folded in."""
    (heads, losses), states, _, calibration = fitted("softmin", seeds=2)
    texts = common.texts_in(calibration.sets)
    again = common.loss_of_texts(torch.as_tensor(token_head.score(heads, states, "softmin", texts)), texts, calibration)
    np.testing.assert_allclose(again, losses, rtol=1e-5)


def test_a_head_can_be_trained_on_the_true_reward():
    """The ceiling: the same network, squared error; the loss it reports is in the target's unit squared."""
    table, states, counts = world()
    target = true_reward(counts, "root")
    (heads, losses), *_ = fitted("root", target=(target - target.mean()) / target.std(), epochs=12)
    assert spearmanr(token_head.score(heads, states, "root")[0], target).statistic > 0.95 and losses[0] < 0.3


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ParameterError, match="pooling: 'median' is unknown; allowed: root, softmin, attention"):
        token_head.fit(None, None, None, pooling="median")


def test_prompts_stay_together_in_a_batch():
    """Sets of one prompt share the base model's texts: read apart they cost twice; each set comes exactly once an epoch."""
    sets = np.array([[6, 0, 1], [7, 0, 1], [8, 2, 3], [9, 4, -1], [10, 4, -1]])
    batches = common.shared_batches(sets, 1, np.random.default_rng(0))
    assert sorted(map(tuple, batches)) == [(0, 1), (2,), (3, 4)]


def test_the_loss_of_some_texts_is_the_loss_of_all():
    """Texts are numbered anew in a batch: a pick must stay with its text, and a filled-up place must not count."""
    sets, picks = np.array([[5, 0, -1], [2, 7, 9]]), np.array([[[1, 0, 0], [0, 2, 1]]])
    choices, found = Choices(None, sets, sets >= 0, picks), torch.linspace(-1, 2, 10)[None]
    texts = np.array([0, 2, 5, 7, 9])
    x = found[0].numpy()
    by_hand = -(x[5] - np.logaddexp(x[5], x[0]) + 2 * x[7] + x[9] - 3 * np.logaddexp.reduce(x[[2, 7, 9]])) / 4
    assert common.loss_of_texts(found[:, texts], texts, choices).item() == pytest.approx(by_hand, rel=1e-5)
    target = np.arange(10.0)
    squared = ((x[texts] - target[texts]) ** 2).mean()
    assert common.loss_of_texts(found[:, texts], texts, choices, target=target).item() == pytest.approx(squared, rel=1e-5)


@pytest.fixture(scope="module")
def recovered(llama):
    states = token_states(llama, TEXTS, 2)
    sets = np.array([[0, 1, 2], [3, 4, 5]])
    choices = Choices(None, sets, sets >= 0, np.array([[[3, 0, 1], [2, 2, 0]], [[0, 4, 0], [1, 0, 3]]]))
    heads, _ = token_head.fit(states, choices, choices, pooling="attention", units=4, epochs=2, batch=1)
    return TokenReward.of_seed(heads, 1, str(llama), 2, "attention"), heads, states


def test_a_token_reward_serves_trl(recovered):
    """The seed that was asked for, on texts as they come."""
    reward, heads, states = recovered
    found = reward(prompts=["x"] * len(TEXTS), completions=TEXTS, trainer_state=None)
    np.testing.assert_allclose(found, token_head.score(heads, states, "attention")[1], atol=1e-3)
    assert found.shape == (len(TEXTS),) and np.std(found) > 0


def test_a_token_reward_survives_saving(recovered, tmp_path):
    reward = recovered[0]
    reward.save_pretrained(tmp_path / "new" / "folder")
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["reward.json", "reward.safetensors"]
    again = TokenReward.from_pretrained(str(tmp_path / "new" / "folder"))
    assert (again.model, again.layer, again.pooling) == (reward.model, 2, "attention")
    np.testing.assert_array_equal(again(TEXTS), reward(TEXTS))


def test_what_does_not_belong_together_is_refused(recovered, tmp_path):
    with pytest.raises(ParameterError, match="reads states of 32 dimensions, but the texts were read in 7"):
        recovered[0].score(TokenStates(np.zeros((3, 7), np.float16), np.array([0, 3])))
    with pytest.raises(ParameterError, match="reward.json does not exist"):
        TokenReward.from_pretrained(tmp_path)
