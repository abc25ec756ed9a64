"""Unknown names and bad values are refused at once, in one sentence that says what is allowed."""

import os
from typing import Literal

import pytest
from pydantic import Field

from irlkit import parameters
from irlkit.parameters import ParameterError, Settings


class Example(Settings):
    model: parameters.Model = "smollm2-135m-instruct"
    prompts: parameters.Prompts = "realtoxicityprompts"
    rate: float = Field(1e-4, gt=0, le=1)
    layers: list[int] = [0, 2]
    engine: Literal["transformers", "ctranslate2"] = "ctranslate2"


def test_defaults_are_allowed():
    assert Example.checked({}) == Example()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sed": 3}, "^unknown parameter 'sed'; allowed: inputs, outputs, seed, model, prompts, rate, layers, engine$"),
        ({"seed": -1}, "^parameter 'seed' = -1: it should be greater than or equal to 0$"),
        ({"seed": "3"}, "'seed' = '3': it should be a valid integer"),
        ({"seed": True}, "'seed' = True: it should be a valid integer"),
        ({"rate": float("nan")}, "'rate' = nan: it should be a finite number"),
        ({"rate": 3}, "'rate' = 3: it should be less than or equal to 1"),
        ({"layers": [1, "a"]}, r"'layers\.1' = 'a': it should be a valid integer"),
        ({"engine": "x"}, "'engine' = 'x': it should be 'transformers' or 'ctranslate2'"),
        ({"model": "nope"}, r"'model' = 'nope': .*known name \(smollm2-135m-instruct, gemma-3-270m\)"),
        ({"prompts": "some/p.txt"}, r"'prompts' = 'some/p\.txt': file some/p\.txt does not exist"),
    ],
)
def test_refused(given, message):
    with pytest.raises(ParameterError, match=message):
        Example.checked(given)


def test_all_wrong_values_are_named_at_once():
    with pytest.raises(ParameterError, match="'seed' = -1: .*; parameter 'rate' = 3"):
        Example.checked({"seed": -1, "rate": 3})


def test_outputs_must_be_writable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterError, match="parameter 'outputs' = .*is not a folder that can be written to"):
        Example.checked({"outputs": str(tmp_path / "file" / "run")})
    assert Example.checked({"outputs": str(tmp_path / "new" / "run")})
    assert not (tmp_path / "new").exists()


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Example().seed = 3


def test_a_notebook_hands_over_its_plain_names_alone():
    names = {"seed": 3, "os": os, "_private": 1, "Example": Example, "In": ["…"], "Out": {}, "open": 1, "exit": 2, "print": print}
    assert Example.from_notebook(names) == Example(seed=3)
    with pytest.raises(ParameterError, match="unknown parameter 'sed'"):
        Example.from_notebook(names | {"sed": 3})


def test_the_cell_can_be_run_again_among_later_names():
    names = {"seed": 4, "settings": Example(), "rows": [1, 2]}
    assert Example.from_notebook(names) == Example(seed=4)


class Words:
    """A tokenizer of words."""

    def __call__(self, prompts):
        return {"input_ids": [text.split() for text in prompts]}


def test_a_prompt_longer_than_the_context_is_named():
    parameters.check_context(["a b", "a b c"], Words(), context=5, new_tokens=2)
    with pytest.raises(
        ParameterError, match=r"prompt 2 \('a b c d'…\) has 4 tokens, but with 2 new ones at most 3 fit into the context of 5"
    ):
        parameters.check_context(["a b", "a b c d"], Words(), context=5, new_tokens=2)
