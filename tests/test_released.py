"""The released code in small is the released code: checked against a plain loop, text by text; and each mend mends."""

import numpy as np
import pytest
import torch

from irlkit import released
from irlkit.irl import max_margin_published
from irlkit.parameters import ParameterError
from irlkit.released import Pairs, Recipe

TEXTS = np.array([["one.", "two!", "three?", "four", "five;"]], object)


def plain_loop(states, expert, base, first, epochs, learning_rate, batch, reset):
    """One run as the released code does it: a two-way head without bias, its second output negated, Adam, batch after batch."""
    head = torch.nn.Linear(states.shape[1], 2, bias=False)
    head.weight.data[1] = -first
    adam = torch.optim.Adam(head.parameters(), lr=learning_rate)
    for _ in range(epochs):
        for start in range(0, len(expert), batch):
            if reset:
                adam.zero_grad()
            reward = [-1 * head(states[side[start:start + batch]])[:, -1] for side in (expert, base)]
            released.loss_in_place(reward[0] - reward[1]).mean().backward()
            adam.step()
    return -head.weight[1].detach().numpy()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_many_runs_at_once_are_the_plain_loop(reset, batch):
    """Gradients that pile up over batches and epochs, through Adam's own moments: any reset, shuffle or mixing of runs would show."""
    random = np.random.default_rng(0)
    states = random.normal(size=(12, 6)).astype(np.float32)
    expert, base = random.integers(12, size=(2, 3, 8))
    together = released.fit(Pairs(states, expert, base), reset, epochs=7, learning_rate=1e-2, batch=batch, seed=3)
    for number in range(3):
        rows = [torch.as_tensor(index[number]) for index in (expert, base)]
        alone = plain_loop(torch.as_tensor(states), *rows, max_margin_published.start(6, 3, number), 7, 1e-2, batch, reset)
        np.testing.assert_allclose(together[number], alone, atol=1e-5)


def test_gradients_that_pile_up_change_the_result():
    """A switch that switches nothing would make the ablation's rung an artefact."""
    states = np.random.default_rng(1).normal(size=(10, 4)).astype(np.float32)
    pairs = Pairs(states, np.arange(5)[None], np.arange(5, 10)[None])
    kept, reset = (released.fit(pairs, flag, epochs=5, learning_rate=1e-2) for flag in (False, True))
    assert np.abs(kept - reset).max() > 1e-3


def test_it_measures_before_each_epoch():
    """The released loop's first figure is that of the untrained head, and no figure is of the last epoch."""
    states = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
    pairs, seen = Pairs(states, np.array([[0, 1]]), np.array([[2, 3]])), []
    last = released.fit(pairs, epochs=3, on_epoch=lambda epoch, weights: seen.append((epoch, weights)))
    assert [epoch for epoch, _ in seen] == [0, 1, 2]
    np.testing.assert_array_equal(seen[0][1][0], max_margin_published.start(3, 0, 0).numpy())
    assert (seen[-1][1] != last).any()


def test_the_loader_takes_the_last_character():
    """row[-1] of a str is one character."""
    context, text = released.shown(TEXTS, Recipe(one_by_one=True))
    assert text.tolist() == [[".", "!", "?", "r", ";"]] and set(context.ravel()) == {""}


def test_a_batch_of_two_is_glued():
    """Two and two in order; what is left over is dropped."""
    context, text = released.shown(TEXTS, Recipe())
    assert context.tolist() == [[".", "?"]] and text.tolist() == [["!", "r"]]


def test_the_mended_loader_takes_the_text():
    context, text = released.shown(TEXTS, Recipe(one_by_one=True, whole_text=True))
    assert text.tolist() == TEXTS.tolist() and set(context.ravel()) == {""}


def test_the_released_loss_overwrites_its_input_and_the_mended_one_does_not():
    """The same numbers from both, by hand: −d where d > 0, −2d where d < 0."""
    margins = torch.tensor([3.0, -0.5, 0.0, -2.0])
    kept = margins.clone()
    expected = torch.tensor([-3.0, 1.0, 0.0, 4.0])
    torch.testing.assert_close(max_margin_published.loss(margins), expected)
    torch.testing.assert_close(margins, kept)
    torch.testing.assert_close(released.loss_in_place(margins), expected)
    torch.testing.assert_close(margins, expected)


def test_an_unknown_optimizer():
    """None fails at the first step, far from its cause; the mended choice names what is allowed."""
    weights = [torch.zeros(2, requires_grad=True)]
    assert released.released_optimizer("adamw", weights, 1e-4) is None
    with pytest.raises(ParameterError, match="optimizer: 'adamw' is unknown; allowed: adam"):
        released.optimizer("adamw", weights, 1e-4)
    assert isinstance(released.released_optimizer("adam", weights, 1e-4), torch.optim.Adam)


def test_the_folded_reward_by_hand():
    """The worst of a batch gets −1.5, the middle of the range 0, the best −0.5."""
    np.testing.assert_allclose(released.folded_reward(np.array([10.0, 15.0, 20.0, 30.0])), [-1.5, -0.75, 0.0, -0.5])


def test_states_are_those_behind_the_last_norm(llama):
    """The released head reads hidden_states[-1], which stands behind the norm; the two characters are two tokens, never one."""
    from transformers import AutoModel

    from irlkit.generation import tokenizer_of

    reading = released.read(llama, [("t", "h"), ("", "the cat"), ("t", "h")], 3)
    assert reading.features.shape == (2, 32) and reading.rows([["t"]], [["h"]]).tolist() == [[0]]
    network, tokenizer = AutoModel.from_pretrained(llama, dtype=torch.float32).eval(), tokenizer_of(llama)
    ids = [tokenizer.bos_token_id, *tokenizer("t").input_ids, *tokenizer("h").input_ids]
    with torch.inference_mode():
        expected = network(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, -1]
    np.testing.assert_allclose(reading.features[0], expected, atol=2e-2)
    np.testing.assert_array_equal(reading.of(["the cat"])[0], reading.features[1])
