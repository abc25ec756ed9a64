"""States of single tokens: those of the model, in order, kept for the same texts alone."""

import numpy as np
import pytest
import torch
from conftest import TEXTS
from test_features import own_states

from irlkit import token_states as module
from irlkit.parameters import ParameterError
from irlkit.token_states import TokenStates, token_states


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_states_are_those_of_transformers(llama, layer):
    """A text given another one's tokens, or the token at the start taken for its first, would show here."""
    found = token_states(llama, TEXTS, layer, batch_tokens=30)
    for number, text in enumerate(TEXTS):
        own = found.states[found.starts[number]:found.starts[number + 1]]
        np.testing.assert_allclose(own, own_states(llama, text)[layer], atol=5e-3, rtol=2e-3)
    assert found.states.dtype == np.float16 and len(found) == len(TEXTS)


def test_the_token_at_the_start_can_be_kept(llama):
    """Blocks run on the states later look at it: the other tokens must be the same with it and without."""
    alone, started = token_states(llama, TEXTS, 2), token_states(llama, TEXTS, 2, start=True)
    np.testing.assert_array_equal(np.diff(started.starts), np.diff(alone.starts) + 1)
    for number in range(len(TEXTS)):
        own = slice(started.starts[number] + 1, started.starts[number + 1])
        np.testing.assert_allclose(started.states[own], alone.states[alone.starts[number]:alone.starts[number + 1]], atol=4e-3, rtol=2e-3)


def test_padding_is_masked_and_zero():
    """Rows are asked for in any order, and may be one text twice."""
    states = TokenStates(np.arange(1, 13, dtype=np.float16).reshape(6, 2), np.array([0, 1, 4, 6]))
    found, mask = states.padded(np.array([2, 0, 0]))
    np.testing.assert_array_equal(mask, [[True, True], [True, False], [True, False]])
    np.testing.assert_array_equal(found, [[[9, 10], [11, 12]], [[1, 2], [0, 0]], [[1, 2], [0, 0]]])
    assert found.dtype == torch.float32


def test_what_was_read_is_kept_for_the_same_texts_alone(llama, tmp_path, monkeypatch):
    """States kept for another layer, other texts or another start would pass for these."""
    first = token_states(llama, TEXTS, 2, finished=tmp_path)
    for other in (token_states(llama, TEXTS, 1, finished=tmp_path), token_states(llama, TEXTS[::-1], 2, finished=tmp_path),
                  token_states(llama, TEXTS, 2, start=True, finished=tmp_path)):
        assert other.states.shape != first.states.shape or (other.states != first.states).any()
    monkeypatch.setattr(module, "Passes", lambda *_: pytest.fail("the texts were read again"))
    again = token_states(llama, TEXTS, 2, finished=tmp_path)
    np.testing.assert_array_equal(again.states, first.states)
    np.testing.assert_array_equal(again.starts, first.starts)


def test_a_layer_that_is_not_there_is_refused(llama):
    with pytest.raises(ParameterError, match="layers: .4. asked for; the model has layers 0 to 3"):
        token_states(llama, TEXTS, 4)
