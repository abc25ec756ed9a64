"""RLHF in several processes: the reward arrives there, and what comes back is what one process would make."""

from functools import partial

import numpy as np
import pytest
from conftest import PROMPTS

from irlkit import rerlhf, rewards, rlhf, several
from irlkit.generation import sample
from irlkit.irl.reward import RecoveredReward
from irlkit.parameters import ParameterError

HOW = {"learning_rate": 1e-3, "batch": 8, "group": 4, "max_new_tokens": 6, "threads": 1}


def recovered(model):
    return RecoveredReward(np.random.default_rng(0).normal(size=32).astype(np.float32), 0.5, str(model), (1,), "mean")


@pytest.mark.parametrize("kind", ["true", "recovered", "scaled", "function"])
def test_a_reward_written_down_is_the_same_reward(kind, neox, roberta, tmp_path):
    """Another classifier or unscaled units in the other processes would train on another reward, and nobody would know."""
    reward = {"true": partial(rewards.true_reward, true_reward=str(roberta)), "recovered": recovered(neox),
              "scaled": rerlhf.Scaled(recovered(neox), 0.25, 2.0), "function": rerlhf.shorter}[kind]
    again = several.rebuild(several.describe(reward, tmp_path / "reward"))
    np.testing.assert_array_equal(again(PROMPTS), reward(PROMPTS))


def test_a_reward_made_in_a_notebook_is_refused(tmp_path):
    """The other processes have no such function."""
    with pytest.raises(ParameterError, match="cannot be handed to several processes; put it into a module, or use one process"):
        several.describe(lambda texts: [0.0] * len(texts), tmp_path)


def test_two_processes_train_a_model(neox, roberta, tmp_path):
    """For real, over gloo: steps of the whole batch, the log of all completions, the model saved once, and not trained again."""
    def train():
        return rlhf.train(neox, PROMPTS, rerlhf.shorter, tmp_path / "expert", scratch=tmp_path / "scratch", steps=2, keep=[1], processes=2,
                          watch=partial(rewards.true_reward, true_reward=str(roberta)), **HOW)
    log = train()
    assert [row["step"] for row in log] == [1, 2] and np.isfinite([list(row.values()) for row in log]).all()
    assert set(log[0]) == {"step", "reward", "kl", "length", "seconds", "watched"} and log[0]["reward"] < 0
    for folder in (tmp_path / "expert", rlhf.step_folder(tmp_path / "expert", 1)):
        assert len(sample(folder, PROMPTS, max_new_tokens=2, engine="transformers", threads=1)) == len(PROMPTS)
    assert train() == log


def test_an_error_of_a_process_is_told_in_its_own_words(neox, tmp_path):
    """A launcher's traceback of a hundred lines, in a notebook that never saw the processes."""
    with pytest.raises(ParameterError, match="RLHF in 2 processes ended early: frozen_blocks: 9 would leave nothing to train"):
        rlhf.train(neox, PROMPTS, rerlhf.shorter, tmp_path / "expert", scratch=tmp_path / "scratch", steps=1, processes=2,
                   frozen_blocks=9, **HOW)


def test_a_step_that_cannot_be_shared_out_is_refused(neox, tmp_path):
    """A process with fewer completions would wait for the others for ever."""
    with pytest.raises(ParameterError, match="batch: 8 completions a step cannot be shared out evenly over 3 processes"):
        rlhf.train(neox, PROMPTS, rerlhf.shorter, tmp_path / "expert", scratch=tmp_path / "scratch", steps=1, processes=3, **HOW)
