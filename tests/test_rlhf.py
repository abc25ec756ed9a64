"""RLHF on a tiny model: it learns, resumes, and computes TRL's own log probabilities."""

import datasets
import numpy as np
import pytest
import torch
from conftest import PROMPTS
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl import RLOOConfig, RLOOTrainer

from irlkit.generation import sample, tokenizer_of
from irlkit.machine import AT_ONCE
from irlkit.rlhf import ParameterError, Trainer, step_folder, train

HOW = {"learning_rate": 1e-3, "batch": 8, "group": 4, "max_new_tokens": 6, "threads": 1}


def plain(texts):
    """A reward that wants whole characters: minus the broken ones, of which a random model writes many."""
    return [-text.count("�") for text in texts]


def learn(model, folder, reward=plain, **changes):
    """Train and return (log, weights of the trained model)."""
    log = train(model, PROMPTS, reward, folder / "expert", scratch=folder / "scratch", **{**HOW, **changes})
    return log, load_file(folder / "expert" / "model.safetensors")


@pytest.fixture(scope="module")
def two_steps(llama, tmp_path_factory):
    return learn(llama, tmp_path_factory.mktemp("two"), steps=2)


def test_every_part_of_the_model_moves(llama, two_steps):
    """A training whose gradient never arrives: every test of its result would still pass on the base model."""
    log, weights = two_steps
    before = load_file(llama / "model.safetensors")
    assert set(weights) == set(before)
    assert all((weights[name] != before[name]).any() for name in before)
    assert [row["step"] for row in log] == [1, 2]
    assert set(log[0]) == {"step", "reward", "kl", "length", "seconds"} and np.isfinite([list(row.values()) for row in log]).all()
    assert abs(log[0]["kl"]) < 1e-4 < abs(log[1]["kl"]), "before the first step the expert is the base model"


def test_frozen_blocks_do_not_move(llama, tmp_path):
    """The paper trains the top blocks alone: the embeddings and the lowest blocks must stay as they were."""
    _, weights = learn(llama, tmp_path, steps=2, frozen_blocks=2)
    before = load_file(llama / "model.safetensors")
    moved = {name for name in before if (weights[name] != before[name]).any()}
    assert not any(name.startswith(("model.embed_tokens", "model.layers.0.", "model.layers.1.")) for name in moved)
    assert {name for name in before if name.startswith("model.layers.2.")} <= moved


def test_freezing_every_block_is_refused(llama, tmp_path):
    """A training without trainable weights would run to its end and return the base model."""
    with pytest.raises(ParameterError, match="frozen_blocks: 99"):
        learn(llama, tmp_path, steps=1, frozen_blocks=99)


def test_a_planted_reward_rises(llama, tmp_path):
    """A flipped sign of the advantage, or a reward of other completions, would lower it or leave it; β may be 0."""
    log, _ = learn(llama, tmp_path, steps=30, batch=16, learning_rate=1e-2, kl_weight=0.0)
    start, end = (np.mean([row["reward"] for row in rows]) for rows in (log[:3], log[-3:]))
    assert end > start + 0.5 * abs(start)
    written = sample(tmp_path / "expert", PROMPTS, samples=20, max_new_tokens=6, engine="transformers", threads=1)["completion"]
    assert np.mean(plain(written)) > start + 0.4 * abs(start), "the saved model is the trained one"


def test_the_penalty_holds_the_model_back(llama, tmp_path):
    """β in reward per nat: a large one keeps the expert at the base model."""
    free, held = (np.mean([row["kl"] for row in log[-10:]]) for log in (
        learn(llama, tmp_path / str(beta), steps=30, batch=16, learning_rate=1e-3, kl_weight=beta)[0] for beta in (1e-6, 20.0)))
    assert held < free / 2


def test_too_few_prompts_for_a_step_are_refused(llama, tmp_path):
    """TRL then takes no step at all, and the base model would be saved as the expert."""
    with pytest.raises(ParameterError, match="batch: 32 completions, 4 of each prompt, need 8 training prompts; there are 7"):
        learn(llama, tmp_path, killed_at(1), steps=2, batch=32)
    assert not (tmp_path / "expert").exists()


def test_models_on_the_way_are_kept(llama, tmp_path):
    """A snapshot of the wrong step would stand for a weaker expert than it is."""
    _, weights = learn(llama, tmp_path, steps=3, keep=[1, 2])
    kept = [load_file(step_folder(tmp_path / "expert", step) / "model.safetensors") for step in (1, 2)]
    shorter = learn(llama, tmp_path / "short", steps=2)[1]
    assert same(kept[1], shorter) and not same(kept[0], kept[1]) and not same(kept[1], weights)
    assert sample(step_folder(tmp_path / "expert", 1), PROMPTS, max_new_tokens=2, engine="transformers", threads=1)


class Killed(Exception):
    """Stands for a kill in the middle of a run."""


def noted(calls):
    """The plain reward, which notes the completions of each step; prompts are what it is told apart by."""
    def reward(texts):
        calls.extend([texts] if list(texts) != PROMPTS[:8] else [])
        return plain(texts)
    return reward


def killed_at(step):
    calls = []

    def reward(texts):
        values = noted(calls)(texts)
        if len(calls) == step:
            raise Killed
        return values
    return reward


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_an_interrupted_run_ends_as_one_that_was_not(llama, tmp_path):
    """Lost optimizer or random states, or prompts begun anew, would make the result depend on interruptions."""
    log, weights = learn(llama, tmp_path / "whole", steps=5, save_every=2)
    with pytest.raises(Killed):
        learn(llama, tmp_path / "cut", killed_at(4), steps=5, save_every=2)
    assert not (tmp_path / "cut" / "expert").exists(), "nothing unfinished where the finished expert belongs"
    seen = []
    resumed = learn(llama, tmp_path / "cut", noted(seen), steps=5, save_every=2)
    assert len(seen) == 3, "steps 3 to 5 alone"
    assert same(resumed[1], weights)
    assert [{**row, "seconds": 0} for row in resumed[0]] == [{**row, "seconds": 0} for row in log]


def test_a_finished_run_is_not_run_again_and_a_longer_one_goes_on(llama, tmp_path):
    """Minutes of training thrown away for a changed figure; or two steps taken for four."""
    first = learn(llama, tmp_path, steps=2, save_every=2)
    again = learn(llama, tmp_path, killed_at(1), steps=2, save_every=2)
    assert again[0] == first[0] and same(again[1], first[1])
    seen = []
    longer, weights = learn(llama, tmp_path, noted(seen), steps=4, save_every=2)
    assert len(seen) == 2 and [row["step"] for row in longer] == [1, 2, 3, 4]
    assert same(weights, learn(llama, tmp_path / "straight", steps=4, save_every=2)[1])


@pytest.mark.parametrize("change", [{"seed": 1}, {"learning_rate": 5e-3}, {"kl_weight": 0.2}, {"max_new_tokens": 4}])
def test_other_parameters_begin_anew(llama, two_steps, tmp_path, change):
    """A checkpoint of another seed or learning rate taken up would be an expert of no recipe at all."""
    with pytest.raises(Killed):
        learn(llama, tmp_path, killed_at(2), steps=2, save_every=1)
    log, weights = learn(llama, tmp_path, steps=2, **change)
    assert [row["step"] for row in log] == [1, 2]
    assert not same(weights, two_steps[1])


def test_another_reward_begins_anew(llama, tmp_path):
    """An expert of an older reward would pass for that of a new one."""
    first = learn(llama, tmp_path, steps=2)[1]
    assert not same(learn(llama, tmp_path, lambda texts: [len(text) for text in texts], steps=2)[1], first)


def test_the_same_parameters_give_the_same_expert(llama, two_steps, tmp_path):
    """Unseeded sampling or shuffling of the prompts."""
    assert same(learn(llama, tmp_path, steps=2)[1], two_steps[1])


@pytest.mark.parametrize("parts", ["2", "3", "1"])
def test_a_step_in_parts_is_the_same_step(llama, two_steps, tmp_path, monkeypatch, parts):
    """IRLKIT_AT_ONCE is for memory: a gradient of one part alone, or one counted once a part, would be another recipe."""
    monkeypatch.setenv(AT_ONCE, parts)
    log, weights = learn(llama, tmp_path, steps=2)
    assert [row["reward"] for row in log] == pytest.approx([row["reward"] for row in two_steps[0]])
    before = load_file(llama / "model.safetensors")
    moved = torch.cat([(two_steps[1][name] - before[name]).flatten() for name in before])
    apart = torch.cat([(weights[name] - two_steps[1][name]).flatten() for name in before])
    assert apart.norm() < 0.05 * moved.norm()


def test_a_run_out_of_memory_goes_on_in_smaller_parts(llama, tmp_path, monkeypatch):
    """All steps lost, or a second training begun with another batch."""
    def too_much(texts):
        if len(calls) == 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return noted(calls)(texts)

    calls, seen = [], []
    with pytest.raises(ParameterError, match="memory ran out at RLHF, with 8 texts at once: try IRLKIT_AT_ONCE=4 in the environment"):
        learn(llama, tmp_path, too_much, steps=5, save_every=2)
    monkeypatch.setenv(AT_ONCE, "4")
    log, _ = learn(llama, tmp_path, noted(seen), steps=5, save_every=2)
    assert len(seen) == 3 and [row["step"] for row in log] == [1, 2, 3, 4, 5], "steps 3 to 5 alone"


def test_a_prompt_with_a_token_that_the_model_lacks_is_refused(neox, tmp_path):
    """The embedding would fail in the midst of a step, on a GPU without a word."""
    network = AutoModelForCausalLM.from_pretrained(neox)
    network.resize_token_embeddings(270)
    network.save_pretrained(tmp_path / "small")
    tokenizer_of(neox).save_pretrained(tmp_path / "small")
    with pytest.raises(ParameterError, match="the model's vocabulary ends at 269: these two do not belong together"):
        learn(tmp_path / "small", tmp_path, steps=1)


@pytest.mark.parametrize("name", ["llama", "neox"])
def test_log_probabilities_are_those_of_trl(request, name, tmp_path):
    """Ours leaves the prompt's positions out of the output layer: a shift by one or a lost temperature would train on noise."""
    model = request.getfixturevalue(name)
    tokenizer = tokenizer_of(model)
    trainer = Trainer(
        model=str(model), reward_funcs=lambda completions, **_: [0.0] * len(completions), processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_dict({"prompt": PROMPTS}),
        args=RLOOConfig(output_dir=str(tmp_path), temperature=0.7, per_device_train_batch_size=4, num_generations=4, use_cpu=True,
                        bf16=False, report_to=[], max_completion_length=5))
    batch = tokenizer(PROMPTS[:4], return_tensors="pt", padding=True)
    completion = torch.tensor([[5, 9, 30, 40, 50], [6, 7, 0, 2, 2], [100, 8, 9, 0, 2], [300, 200, 100, 50, 20]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    ids, attended = torch.cat([batch.input_ids, completion], 1), torch.cat([batch.attention_mask, mask], 1)
    with torch.no_grad():
        network = trainer.model.eval()
        ours, _, _ = trainer._get_per_token_logps_and_entropies(network, ids, attended, 5)
        trls, _, _ = RLOOTrainer._get_per_token_logps_and_entropies(trainer, network, ids, attended, 5)
    assert ours.shape == (4, 5)
    torch.testing.assert_close(ours[mask.bool()], trls[mask.bool()], atol=1e-4, rtol=1e-4)
    assert ours[mask.bool()].std() > 0.1
