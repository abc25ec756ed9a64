"""Reward model: what is frozen stays so, training lowers the loss, and the untrained copy is the linear reward."""

import numpy as np
import pytest
import torch
from conftest import TEXTS

from irlkit.demonstrations import Choices
from irlkit.features import read
from irlkit.irl import common, reward_model
from irlkit.irl.reward_model import RewardModel
from irlkit.parameters import ParameterError
from irlkit.token_states import token_states

SETS = np.array([[0, 1, 2], [3, 4, 5]])
PICKS = np.array([[[9, 0, 1], [0, 2, 8]]])


@pytest.fixture
def choices():
    return Choices(None, SETS, np.ones_like(SETS, bool), PICKS)


@pytest.fixture(scope="module")
def states(llama):
    return token_states(llama, TEXTS, 1, start=True)


@pytest.mark.parametrize("pooling", ["root", "mean", "max", "last"])
def test_blocks_run_from_the_middle_give_the_states_of_the_whole_model(llama, states, pooling):
    """Positions counted anew, a missing token at the start or a second norm would give other states."""
    found = RewardModel(llama, 1, 3, pooling).score(states, part="pooled")
    np.testing.assert_allclose(found, read(llama, TEXTS, [3]).pooled([3], pooling), atol=2e-2, rtol=5e-3)


def test_gpt_neox_runs_from_the_middle_too(neox):
    found = RewardModel(neox, 1, 2).score(token_states(neox, TEXTS, 1, start=True), part="pooled")
    np.testing.assert_allclose(found, read(neox, TEXTS, [2]).pooled([2], "root"), atol=2e-2, rtol=5e-3)


def moved(network, train):
    """Names of the parameters that `train(network)` changes."""
    before = {name: values.detach().clone() for name, values in network.named_parameters()}
    train(network)
    return {name for name, values in network.named_parameters() if (values != before[name]).any()}


def test_training_moves_the_last_blocks_alone_and_lowers_the_loss(llama, states, choices):
    """A frozen block that moves would make the stored states below it wrong."""
    network, untrained = RewardModel(llama, 1, 3), RewardModel(llama, 1, 3)
    names = moved(network, lambda n: reward_model.fit(n, states, choices, choices, epochs=8, learning_rate=1e-3, penalty=0.3))
    start = reward_model.fit(untrained, states, choices, choices, epochs=0, penalty=0.3)
    assert "head" in names and all(name == "head" or "blocks." in name or ".layers." in name for name in names)
    assert len(names) > 10
    texts = common.texts_in(SETS)
    loss = common.loss_of_texts(torch.as_tensor(network.score(states, texts))[None], texts, choices).item()
    assert loss < start - 0.01


def test_it_starts_from_the_linear_reward(llama, states, choices):
    """No epoch: maximum entropy on the frozen features, the loss it reports included."""
    network = RewardModel(llama, 1, 2)
    lowest = reward_model.fit(network, states, choices, choices, epochs=0, penalty=1e-2)
    phi = reward_model.Projection.fit(read(llama, TEXTS, [2]).pooled([2], "root"))(read(llama, TEXTS, [2]).pooled([2], "root"))
    linear = reward_model.max_entropy.fit(Choices(phi, SETS, choices.base, PICKS), 1e-2)
    np.testing.assert_allclose(network.score(states), phi @ linear[0], atol=2e-2)
    assert lowest == pytest.approx(reward_model.max_entropy.mean_loss(linear, Choices(phi, SETS, choices.base, PICKS))[0], abs=1e-2)


def test_the_published_loss_trains_the_blocks(llama, states, choices):
    """The expert's side of each pair must end above the base model's; a repeated call gives the same."""
    network, again = RewardModel(llama, 1, 3, "last"), RewardModel(llama, 1, 3, "last")
    options = {"sample_size": 8, "epochs": 10, "learning_rate": 1e-3, "seed": 2}
    names = moved(network, lambda n: reward_model.fit_published(n, states, choices, **options))
    assert "head" in names and len(names) > 10
    expert, base = (index[0] for index in choices.pairs(8, 2))
    scores = network.score(states)
    assert (scores[expert] - scores[base]).mean() > 0
    reward_model.fit_published(again, states, choices, **options)
    np.testing.assert_allclose(again.score(states), scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("below", "depth", "pooling"), [(2, 2, "root"), (-1, 2, "root"), (1, 2, "median")])
def test_what_cannot_be_built_is_refused(llama, below, depth, pooling):
    with pytest.raises(ParameterError, match="allowed: root, mean, max, last, with 0 <= below < depth"):
        RewardModel(llama, below, depth, pooling)


def test_a_depth_beyond_the_model_is_refused(llama):
    with pytest.raises(ParameterError, match="the model has layers 0 to 3"):
        RewardModel(llama, 1, 4)
