"""Features: a text is read once, alone or in a batch, and means the same as the model's own hidden states."""

import numpy as np
import pytest
import torch
from conftest import PROMPTS, TEXTS
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save_file
from transformers import AutoModel
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from irlkit import features
from irlkit.features import ParameterError, Projection, Readings, read
from irlkit.generation import tokenizer_of


@pytest.fixture(scope="module")
def readings(llama):
    return read(llama, TEXTS, [0, 1, 2, 3])


def own_states(model, text, prompt=""):
    """States [layers, T, d] of a text's own tokens, by transformers itself: the last layer before the final norm, by a hook."""
    tokenizer = tokenizer_of(model)
    network = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    before = [tokenizer.bos_token_id, *tokenizer(prompt).input_ids]
    ids = before + tokenizer(text).input_ids
    last = []
    blocks = network.layers
    hook = blocks[-1].register_forward_hook(lambda _, __, out: last.append(out[0] if isinstance(out, tuple) else out))
    with torch.inference_mode():
        states = network(torch.tensor([ids]), output_hidden_states=True).hidden_states
    hook.remove()
    return torch.cat([*states[:-1], last[0]])[:, len(before):].numpy()


@pytest.mark.parametrize(("name", "layers"), [("llama", [0, 1, 2, 3]), ("neox", [0, 1, 2])])
def test_states_are_those_of_transformers(request, name, layers):
    """A layer counted from one, a state after the final norm, or the token at the start pooled with the text would show here."""
    model = request.getfixturevalue(name)
    found = read(model, TEXTS, layers)
    for number, text in enumerate(TEXTS):
        states = own_states(model, text)
        assert found.length[number] == states.shape[1]
        np.testing.assert_allclose(found.mean[number], states.mean(1), atol=5e-3, rtol=2e-3)
        np.testing.assert_allclose(found.max[number], states.max(1), atol=5e-3, rtol=2e-3)
        np.testing.assert_allclose(found.last[number], states[:, -1], atol=5e-3, rtol=2e-3)


def test_a_text_after_its_prompt_is_read_in_its_light(llama, readings):
    """With prompts the text's tokens see the prompt, and the prompt's own tokens are not pooled."""
    after = read(llama, TEXTS, [0, 2], prompts=PROMPTS[:6])
    states = [own_states(llama, text, prompt) for text, prompt in zip(TEXTS, PROMPTS, strict=False)]
    np.testing.assert_allclose(after.mean[:, 1], [s[2].mean(0) for s in states], atol=5e-3, rtol=2e-3)
    np.testing.assert_array_equal(after.length, readings.length)
    np.testing.assert_allclose(after.mean[:, 0], readings.mean[:, 0], atol=5e-3, err_msg="embeddings see no prompt")
    assert np.abs(after.mean[:, 1].astype(float) - readings.mean[:, 2]).max() > 0.05


def test_a_text_reads_the_same_alone_and_among_others(llama, readings):
    """Padding must leave no trace: not in the mean, not as a maximum of zero, not as the last token."""
    for number, text in enumerate(TEXTS):
        alone = read(llama, [text], [0, 1, 2, 3])
        for kept in ("mean", "max", "last"):
            np.testing.assert_allclose(getattr(alone, kept)[0], getattr(readings, kept)[number], atol=4e-3, rtol=2e-3)


@pytest.mark.parametrize("batch_tokens", [1, 30, 10**6])
def test_the_batch_size_does_not_matter_and_order_is_kept(llama, readings, batch_tokens):
    """Texts are sorted by length inside: each row must be its own text's again."""
    again = read(llama, TEXTS, [0, 1, 2, 3], batch_tokens=batch_tokens)
    np.testing.assert_allclose(again.mean, readings.mean, atol=4e-3, rtol=2e-3)
    np.testing.assert_array_equal(again.length, [len(tokenizer_of(llama)(text).input_ids) for text in TEXTS])


@pytest.mark.parametrize(("name", "block", "layers", "runs"), [
    ("llama", LlamaDecoderLayer, [0, 2], 2), ("llama", LlamaDecoderLayer, [0], 0), ("neox", GPTNeoXLayer, [1], 1)])
def test_no_block_runs_above_the_highest_layer(request, monkeypatch, name, block, layers, runs):
    """Reading half of a model should cost half: a block above is time for nothing."""
    calls, forward = [], block.forward
    monkeypatch.setattr(block, "forward", lambda self, *args, **kwargs: calls.append(self) or forward(self, *args, **kwargs))
    read(request.getfixturevalue(name), TEXTS, layers)
    assert len(calls) == len(set(calls)) == runs, "one batch, each block once"


def test_what_was_read_is_kept_for_the_same_texts_alone(llama, readings, tmp_path, monkeypatch):
    """Readings kept for other texts, prompts or layers would give features to the wrong texts; for the same ones nothing is run."""
    first = read(llama, TEXTS, [0, 2], finished=tmp_path)
    others = read(llama, TEXTS[::-1], [0, 2], finished=tmp_path)
    np.testing.assert_allclose(others.mean[::-1], first.mean, atol=4e-3, rtol=2e-3)
    assert read(llama, TEXTS, [1], finished=tmp_path).layers == (1,)
    assert (read(llama, TEXTS, [2], prompts=PROMPTS[:6], finished=tmp_path).mean != read(llama, TEXTS, [2], finished=tmp_path).mean).any()
    monkeypatch.setattr(features, "_read", lambda *_: pytest.fail("the texts were read again"))
    np.testing.assert_array_equal(read(llama, TEXTS, [0, 2], finished=tmp_path).mean, first.mean)


def test_pooled_states_obey_their_identities(readings):
    """`root` is Σ_t h_t / √T, so mean · √T; a single-token text has mean = max = last; layers stand side by side."""
    mean, root = (readings.pooled([1, 3], how) for how in ("mean", "root"))
    np.testing.assert_allclose(root, mean * np.sqrt(readings.length)[:, None], rtol=1e-6)
    assert mean.shape == (len(TEXTS), 64) and mean.dtype == np.float32
    np.testing.assert_array_equal(mean[:, 32:], readings.mean[:, 3])
    np.testing.assert_array_equal(readings.pooled([3, 1], "last")[:, :32], readings.last[:, 3])
    assert (readings.pooled([2], "max") >= readings.pooled([2], "mean") - 1e-2).all()


def test_a_text_of_one_token_is_its_token(llama):
    """For one token the poolings are the same; an empty text has one token too, the end, and no division by zero."""
    one = read(llama, ["a", ""], [0, 2])
    assert list(one.length) == [1, 1]
    for kept in (one.max, one.last):
        np.testing.assert_allclose(kept, one.mean, atol=1e-3)
    assert np.isfinite(one.mean).all() and np.abs(one.mean[0] - one.mean[1]).max() > 0


@pytest.mark.parametrize(("layers", "message"), [
    ([4], "layers: .4. asked for; the model has layers 0 to 3"), ([-1], "0 to 3"), ([], "none")])
def test_a_layer_that_is_not_there_is_refused(llama, layers, message):
    """Python would count layer −1 from the end and read another one than the book says."""
    with pytest.raises(ParameterError, match=message):
        read(llama, TEXTS, layers)


def test_what_was_not_read_cannot_be_pooled(llama):
    """Asking later for a layer or a pooling that was not kept must not give another one."""
    found = read(llama, TEXTS[:1], [0, 2])
    with pytest.raises(ParameterError, match=r"layers: \[1\] were not read; these were: \[0, 2\]"):
        found.pooled([1], "mean")
    with pytest.raises(ParameterError, match="pooling: 'median' is unknown; allowed: root, mean, max, last"):
        found.pooled([0], "median")


def test_readings_survive_saving(readings, tmp_path):
    """A cache that reorders layers would relabel features."""
    readings.save(tmp_path / "r.safetensors")
    again = Readings.load(tmp_path / "r.safetensors")
    assert again.layers == readings.layers
    np.testing.assert_array_equal(again.pooled([3, 0], "root"), readings.pooled([3, 0], "root"))


@pytest.fixture(scope="module")
def states():
    random = np.random.default_rng(0)
    return (random.normal(size=(500, 20)) @ random.normal(size=(20, 20)) * 7 + 3).astype(np.float32)


def test_the_whole_projection_is_z_scores(states):
    """Mean 0 and variance 1 in each dimension of the data it was fitted on, divided by √D."""
    phi = Projection.fit(states)(states) * np.sqrt(20)
    np.testing.assert_allclose(phi.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(phi.std(0), 1, atol=1e-4)
    assert (np.linalg.norm(phi, axis=1) / np.sqrt(20)).mean() == pytest.approx(1, abs=0.1), "‖φ‖ near 1"


def test_axes_are_orthogonal_and_the_leading_ones(states):
    """Axes in the wrong order (eigh sorts upwards) would keep the least of the variance instead of the most."""
    z = (states - states.mean(0)) / states.std(0)
    singular = np.linalg.svd(z, compute_uv=False)
    for dimension in (1, 5, 19):
        projection = Projection.fit(states, dimension)
        np.testing.assert_allclose(projection.axes.T @ projection.axes * 20, np.eye(dimension), atol=1e-4)
        variance = (projection(states) ** 2).sum(0) * 20
        np.testing.assert_allclose(variance, singular[:dimension] ** 2, rtol=1e-3)


def test_a_projection_without_loss_keeps_distances(states):
    """With as many axes as dimensions, and with none named, nothing is rotated away."""
    whole, same = Projection.fit(states), Projection.fit(states, 20)
    np.testing.assert_allclose(whole(states), same(states), atol=1e-6)
    leading = Projection.fit(states, 19)(states)
    assert np.linalg.norm(leading, axis=1).max() <= np.linalg.norm(whole(states), axis=1).max() + 1e-5


def test_a_constant_dimension_does_no_harm(states):
    """A standard deviation of zero must not become a division by zero."""
    assert np.isfinite(Projection.fit(np.c_[states, np.ones(500, np.float32)])(np.c_[states, np.ones(500, np.float32)])).all()


def test_a_projection_survives_saving(states, tmp_path):
    """Mean and scale must stay exact; the axes may lose what float16 loses."""
    projection = Projection.fit(states, 7)
    projection.save(tmp_path / "p.safetensors")
    again = Projection.load(tmp_path / "p.safetensors")
    np.testing.assert_array_equal(again.mean, projection.mean)
    np.testing.assert_allclose(again(states), projection(states), atol=2e-3)
    assert again(states).dtype == np.float32


@given(arrays(np.float32, (6, 3), elements=st.floats(-1e3, 1e3, width=32)))
def test_packing_loses_at_most_half_a_step(tmp_path_factory, values):
    """int8 wraps round at 128: a scale that is a little too small turns the largest value into the most negative."""
    path = tmp_path_factory.getbasetemp() / "packed.safetensors"
    save_file(features.pack({"phi": values, "twice": 2 * values}), path)
    again = features.unpack(path)
    assert set(again) == {"phi", "twice"} and again["phi"].dtype == np.float32
    step = np.abs(values).max(0) / 127
    assert (np.abs(again["phi"] - values) <= 0.5001 * step + 1e-9).all()
    np.testing.assert_allclose(again["twice"], 2 * again["phi"], rtol=1e-5, atol=1e-9)
