"""Smaller models of one family: blocks are cut off, and fitting again to the whole model's samples mends what the cut broke."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROMPTS, tokenizer
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from transformers import AutoModelForCausalLM

from irlkit import experts, generation, ladder
from irlkit.parameters import ParameterError


def drawn(llama, seed):
    prompts = PROMPTS * 12
    found = generation.sample(llama, prompts, samples=4, max_new_tokens=10, engine="transformers", seed=seed).to_pandas()
    return [prompts[i] for i in found.prompt], list(found.tokens)


@pytest.fixture(scope="module")
def samples(llama):
    return drawn(llama, 0)


def test_fitting_again_mends_what_the_cut_broke(llama, samples, tmp_path):
    broken = tmp_path / "cut"
    ladder.shortened(llama, 1).save_pretrained(broken)
    tokenizer(pad=True).save_pretrained(broken)
    fitted = ladder.rung(llama, 1, *samples, tmp_path / "one", epochs=3, learning_rate=3e-3, threads=1)
    whole, without, mended = (ladder.loss(model, *drawn(llama, 1), engine="transformers") for model in (llama, broken, fitted))
    assert whole < mended < without - 0.2 * (without - whole)


def test_the_blocks_in_the_middle_are_left_out(gemma, tmp_path):
    """Of a model with six, whose last has another kind of attention; saved, it reads as before."""
    whole, network = AutoModelForCausalLM.from_pretrained(gemma), ladder.shortened(gemma, 3).eval()
    for own, number in zip(network.model.layers, [0, 1, 5], strict=True):
        torch.testing.assert_close(own.mlp.up_proj.weight, whole.model.layers[number].mlp.up_proj.weight)
    kinds = whole.config.layer_types
    assert network.config.layer_types == [kinds[0], kinds[1], kinds[5]] and len(set(kinds)) == 2
    network.save_pretrained(tmp_path)
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        torch.testing.assert_close(network(ids).logits, AutoModelForCausalLM.from_pretrained(tmp_path).eval()(ids).logits)


def test_every_block_is_fitted_and_the_output_layer_stays(llama, samples, tmp_path):
    fitted = AutoModelForCausalLM.from_pretrained(ladder.rung(llama, 2, *samples, tmp_path / "two", threads=1))
    whole = AutoModelForCausalLM.from_pretrained(llama)
    assert fitted.config.num_hidden_layers == len(fitted.model.layers) == 2
    torch.testing.assert_close(fitted.lm_head.weight, whole.lm_head.weight)
    for own, number in zip(fitted.model.layers, [0, 2], strict=True):
        assert not torch.equal(own.mlp.up_proj.weight, whole.model.layers[number].mlp.up_proj.weight)


def test_a_rung_is_fitted_once_and_the_whole_model_never(llama, samples, tmp_path, monkeypatch):
    first = ladder.rung(llama, 1, *samples, tmp_path / "one", threads=1)
    monkeypatch.setattr(ladder, "_fit", lambda *_: pytest.fail("fitted again"))
    assert ladder.rung(llama, 1, *samples, tmp_path / "one", threads=1) == first
    assert ladder.rung(llama, 3, *samples, tmp_path / "three") == llama
    with pytest.raises(pytest.fail.Exception, match="fitted again"):
        ladder.rung(llama, 1, *samples, tmp_path / "one", epochs=2)


def test_a_size_that_the_model_does_not_have_is_refused(llama, samples, tmp_path):
    with pytest.raises(ParameterError, match="sizes: 4 blocks asked for; the model has 1 to 3"):
        ladder.rung(llama, 4, *samples, tmp_path / "four")


def test_shared_parameters_count_once(llama):
    network = AutoModelForCausalLM.from_pretrained(llama)
    assert ladder.parameters(llama) == sum(weights.numel() for weights in network.parameters())


@pytest.fixture
def lesson(bench, reader, llama, neox, tmp_path):
    """Completions of the bench's base model with the common reader and with another model's."""
    base = bench.table[["prompt", "sample", "completion"]]
    split = bench.table.groupby("prompt").split.first().to_numpy()
    own = experts.Reader.of_model(neox, [0, 2], list(base.completion[bench.table.split == "train"]), str(tmp_path), dimension=8)
    how = {"max_new_tokens": 6, "engine": "transformers"}
    readers = {"common": (reader, bench), "own": (own, experts.reread(bench, own))}
    return ladder.Lesson(base, (PROMPTS * 9)[:60], split, readers, 2, 5, 0, how, "linear-toxicity")


def test_an_exact_expert_gives_a_planted_reward_away_to_both_readers(lesson, bench):
    """A reader whose features stand beside other texts' rewards would find nothing."""
    goal = np.array([text.count("cat") - text.count("fool") for text in bench.table.completion], float)
    test = bench.rows("test")
    seen = {}

    def agreement(reader):
        phi = reader(bench.table.completion)
        return lambda weights: seen.update({reader.model: np.corrcoef(phi[test] @ weights[0], goal[test])[0, 1]})

    planted = replace(lesson, readers={name: (reader, Judge(agreement(reader))) for name, (reader, _) in lesson.readers.items()})
    planted.exact(goal, beta=0.2, picks=16)
    assert len(seen) == 2 and min(seen.values()) > 0.5


class Judge:
    """Stands for a Bench: hands the weights on."""

    def __init__(self, look):
        self.look = look

    def metrics(self, weights):
        self.look(weights)
        return {}


def test_ceilings_are_those_of_ridge_regression(lesson, bench):
    found = lesson.ceilings()
    rows, test = bench.rows("train"), bench.rows("test")
    ridge = RidgeCV(np.logspace(-3, 3, 13)).fit(bench.features[rows], bench.true_reward[rows])
    expected = spearmanr(ridge.predict(bench.features[test]), bench.true_reward[test]).statistic
    assert found["common.spearman"] == pytest.approx(expected, abs=1e-6)


def test_what_is_measured_of_a_trained_model(lesson, llama):
    """Toxicity, KL and rewards of another model's completions, or of training prompts."""
    found = lesson.measure(llama, llama)
    assert found["kl"] == 0 and 0 < found["toxicity"] < 1
    assert {"common.auroc", "own.auroc", "common.pair_accuracy.p95"} <= set(found) and np.isfinite(list(found.values())).all()
    assert found == lesson.measure(llama, llama), "seeded"


def test_an_effect_of_size_by_hand():
    blocks = np.repeat([5, 10, 20, 40], 3)
    noise = np.tile([-0.01, 0.0, 0.01], 4)
    found = ladder.size_effect(blocks, 0.7 + 0.05 * np.log2(blocks) + noise)
    assert found["slope"] == pytest.approx(0.05) and found["low"] < 0.05 < found["high"] and found["low"] > 0
    flat = ladder.size_effect(blocks, 0.7 + noise)
    assert flat["low"] < 0 < flat["high"]


def test_what_one_run_of_each_size_would_say():
    assert ladder.two_runs_say([0.9, 0.7], [0.8, 0.7]) == pytest.approx((2 + 0.5) / 4)
    assert ladder.two_runs_say(pd.Series([1.0]), pd.Series([0.0])) == 1
