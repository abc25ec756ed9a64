"""Smaller models of one family: blocks are cut off, and fitting again to the whole model's samples mends what the cut broke."""

import pytest
import torch
from conftest import PROMPTS, tokenizer
from transformers import AutoModelForCausalLM

from irlkit import generation, ladder
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
    fitted = ladder.rung(llama, 1, *samples, tmp_path / "one", epochs=3, learning_rate=3e-3, trained_blocks=1, threads=1)
    whole, without, mended = (ladder.loss(model, *drawn(llama, 1), engine="transformers") for model in (llama, broken, fitted))
    assert whole < mended < without - 0.2 * (without - whole)


def test_the_lower_blocks_and_the_output_layer_stay(llama, samples, tmp_path):
    fitted = AutoModelForCausalLM.from_pretrained(ladder.rung(llama, 2, *samples, tmp_path / "two", trained_blocks=1, threads=1))
    whole = AutoModelForCausalLM.from_pretrained(llama)
    assert fitted.config.num_hidden_layers == len(fitted.model.layers) == 2
    torch.testing.assert_close(fitted.model.layers[0].mlp.up_proj.weight, whole.model.layers[0].mlp.up_proj.weight)
    torch.testing.assert_close(fitted.lm_head.weight, whole.lm_head.weight)
    assert not torch.equal(fitted.model.layers[1].mlp.up_proj.weight, whole.model.layers[1].mlp.up_proj.weight)


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
