"""Demonstrations: prompts keep to their split, what is dropped is counted, and choices are those of one prompt."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irlkit.demonstrations import Choices, ParameterError, exact_choices, pair_up, rlhf_choices, split_by_prompt
from irlkit.irl import max_entropy


@given(st.integers(10, 2000), st.integers(0, 100))
def test_each_prompt_has_one_split_of_its_share(count, seed):
    """A prompt in two splits would let IRL be tested on what it was trained on."""
    names = split_by_prompt(count, seed)
    assert set(names) <= {"train", "calibration", "test"} and len(names) == count
    for name, share in {"train": 0.7, "calibration": 0.1, "test": 0.2}.items():
        assert abs((names == name).sum() - share * count) <= 1


def test_the_split_depends_on_the_seed_alone():
    """Chapters split anew by the same seed: another split in one of them would leak test prompts into RLHF."""
    assert list(split_by_prompt(50, 3)) == list(split_by_prompt(50, 3)) != list(split_by_prompt(50, 4))


def test_what_is_dropped_is_dropped_for_its_reason():
    """Equal text at another prompt is no repetition; spaces around a text make no other text; the first of equals stays."""
    base = pd.DataFrame({"prompt": [0, 0, 0, 1, 1], "sample": [0, 1, 2, 0, 1], "completion": ["a", " a ", "b", "a", ""]})
    expert = pd.DataFrame({"prompt": [0, 0, 0, 1, 1], "sample": [0, 1, 2, 0, 1], "completion": ["b ", "c", "c", "b", "  "]})
    kept, counts = pair_up(base, expert)
    assert list(zip(kept.source, kept.prompt, kept.completion, strict=True)) == [
        ("base", 0, "a"), ("base", 0, "b"), ("base", 1, "a"), ("expert", 0, "c"), ("expert", 1, "b")]
    assert list(kept.index) == list(range(5)), "row numbers are those of the features"
    number = counts.set_index(["source", "reason"]).completions.to_dict()
    assert number == {("base", "kept"): 3, ("base", "repeated"): 1, ("base", "empty"): 1,
                      ("expert", "kept"): 2, ("expert", "identical to the base"): 1, ("expert", "repeated"): 1, ("expert", "empty"): 1}
    assert counts.completions.sum() == len(base) + len(expert)


@pytest.fixture
def table():
    """Nine prompts, the last two of other splits; 3 base and 2 expert texts each, except prompt 2 without expert and 3 with one base."""
    rows = [{"prompt": p, "source": source, "split": {7: "calibration", 8: "test"}.get(p, "train")}
            for p in range(9) for source, count in (("base", 1 if p == 3 else 3), ("expert", 0 if p == 2 else 2)) for _ in range(count)]
    shuffled = np.random.default_rng(0).permutation(len(rows))
    return pd.DataFrame(rows).iloc[shuffled].reset_index(drop=True)


@pytest.fixture
def phi(table):
    return np.random.default_rng(1).normal(size=(len(table), 5)).astype(np.float32)


def test_sets_of_a_real_expert(table, phi):
    """The pick stands first, then base texts of the same prompt and split, and nothing else: no other expert text, no test text."""
    choices = rlhf_choices(table, phi, seeds=3, seed=1)
    assert choices.sets.shape == (12, 4), "six prompts with both, two expert texts each"
    for members, base in zip(choices.sets, choices.base, strict=True):
        rows = table.iloc[members[members >= 0]]
        assert rows.prompt.nunique() == 1 and set(rows.split) == {"train"}
        assert list(rows.source) == ["expert"] + ["base"] * (len(rows) - 1)
        assert list(base) == [False] + [True] * (len(rows) - 1) + [False] * (4 - len(rows))
        everything = table[(table.prompt == rows.prompt.iloc[0]) & (table.source == "base")]
        assert set(rows.index[1:]) == set(everything.index)
    assert (choices.picks[:, :, 1:] == 0).all(), "the expert picked its own text"


def test_fewer_base_samples_can_be_asked_for(table, phi):
    """How many base texts stand behind the partition function is a parameter of chapters, not of the data."""
    assert rlhf_choices(table, phi, base_samples=2).sets.shape == (12, 3)


def test_a_bootstrap_draws_as_many_prompts_as_there_are(table, phi):
    """Both texts of a prompt come together, or the resampling would not be of prompts; each seed draws its own."""
    choices = rlhf_choices(table, phi, seeds=40, seed=1)
    counts = choices.picks[:, :, 0]
    prompts = table.prompt.to_numpy()[choices.sets[:, 0]]
    for prompt in set(prompts):
        assert (counts[:, prompts == prompt] == counts[:, prompts == prompt][:, :1]).all()
    np.testing.assert_array_equal(counts.sum(1), 12)
    assert len({tuple(row) for row in counts}) > 30
    np.testing.assert_array_equal(rlhf_choices(table, phi, seeds=2, resample=False).picks[:, :, 0], 1)
    np.testing.assert_array_equal(rlhf_choices(table, phi, seeds=5, seed=1).picks, choices.picks[:5])


def test_exact_experts_follow_the_softmax_of_their_reward(table, phi):
    """With m → ∞ the picks are exp(r/β)/Σ exp(r/β); with a finite m they are m of that distribution."""
    reward, beta = np.random.default_rng(2).normal(size=len(table)) * 3, 0.7
    choices = exact_choices(table, phi, reward, beta, demonstrations=None, seeds=2)
    for members, share in zip(choices.sets, choices.picks[1], strict=True):
        weights = np.exp(reward[members[members >= 0]] / beta)
        np.testing.assert_allclose(share[:len(weights)], weights / weights.sum(), rtol=1e-6)
        assert (share[len(weights):] == 0).all()
    many = exact_choices(table, phi, reward, beta, demonstrations=20_000)
    np.testing.assert_allclose(many.picks[0] / 20_000, choices.picks[0], atol=0.02)
    assert (exact_choices(table, phi, reward, beta, 4, seeds=3).picks.sum(2) == 4).all()


def test_exact_experts_choose_among_base_texts_of_the_split(table, phi):
    """The same code serves calibration and test: each with its own prompts, no expert text anywhere."""
    for split, prompts in {"train": 7, "calibration": 1, "test": 1}.items():
        choices = exact_choices(table, phi, np.zeros(len(table)), split=split)
        rows = table.iloc[choices.sets[choices.sets >= 0]]
        assert len(choices.sets) == prompts and set(rows.source) == {"base"} and set(rows.split) == {split}
        assert (choices.base == (choices.sets >= 0)).all()


def test_the_null_expert_picks_at_random(table, phi):
    """A null that prefers some position would be no null."""
    picks = exact_choices(table, phi, np.zeros(len(table)), demonstrations=30_000).picks[0]
    np.testing.assert_allclose(picks[picks.sum(1) > 0] / 30_000, np.where(picks > 0, 1 / (picks > 0).sum(1, keepdims=True), 0), atol=0.02)


def test_seeds_of_an_exact_expert_differ_and_repeat(table, phi):
    """Twenty seeds with the same picks would show a spread of nothing."""
    reward = np.random.default_rng(2).normal(size=len(table))
    one, again = (exact_choices(table, phi, reward, seeds=5, seed=3, resample=True) for _ in range(2))
    np.testing.assert_array_equal(one.picks, again.picks)
    assert len({row.tobytes() for row in one.picks}) == 5
    assert (one.picks.sum((1, 2)) == 4 * len(one.sets)).all()


@pytest.mark.parametrize("expert", ["rlhf", "exact"])
def test_pairs_are_of_one_prompt_and_never_a_text_with_itself(table, phi, expert):
    """A pair across prompts teaches what the prompts are about; a text paired with itself teaches nothing."""
    reward = np.random.default_rng(2).normal(size=len(table))
    choices = rlhf_choices(table, phi, seeds=6) if expert == "rlhf" else exact_choices(table, phi, reward, seeds=6)
    better, base = choices.pairs(seed=2)
    prompts, sources = table.prompt.to_numpy(), table.source.to_numpy()
    assert better.shape == base.shape and len(better) == 6
    assert (prompts[better] == prompts[base]).all() and (better != base).all() and (base >= 0).all()
    assert set(sources[base.ravel()]) == {"base"} and set(sources[better.ravel()]) == {"expert" if expert == "rlhf" else "base"}
    if expert == "exact":
        assert 3 not in prompts[better], "its only base text has nothing to stand against"
        assert better.shape[1] == 4 * 6, "every other pick makes a pair"


def test_pairs_repeat_a_pick_as_often_as_it_was_made(phi):
    """Picks are counts: a bootstrap that counts a text three times must weigh it three times."""
    sets = np.array([[0, 1, 2], [3, 4, -1]])
    choices = Choices(phi, sets, sets >= 0, np.array([[[3, 0, 1], [0, 2, 0]]]))
    better, base = choices.pairs()
    assert sorted(better[0]) == [0, 0, 0, 2, 4, 4]
    assert set(base[0][better[0] == 4]) == {3}


def test_more_pairs_than_there_are_cannot_be_had(table, phi):
    """100 pairs asked for and 12 trained on would pass for the paper's setting."""
    choices = rlhf_choices(table, phi, seeds=2)
    assert choices.pairs(12)[0].shape == (2, 12) and choices.pairs(5)[0].shape == (2, 5)
    with pytest.raises(ParameterError, match="sample_size: 13 pairs asked for; at most 12 can be had"):
        choices.pairs(13)


def test_a_smaller_sample_is_the_beginning_of_a_larger_one(table, phi):
    """Curves over the number of demonstrations compare nested samples; which texts come first is random."""
    choices = rlhf_choices(table, phi, seeds=2)
    np.testing.assert_array_equal(choices.pairs(5, 1)[0], choices.pairs(9, 1)[0][:, :5])
    assert (choices.pairs(9, 1)[0] != choices.pairs(9, 2)[0]).any()


def test_first_and_with_features_change_nothing_else(table, phi):
    """Regularisation is chosen on the first seed: it must be the first seed's picks."""
    choices = rlhf_choices(table, phi, seeds=4)
    np.testing.assert_array_equal(choices.first().picks, choices.picks[:1])
    other = choices.with_features(2 * phi)
    assert other.seeds == 4 and (other.features == 2 * phi).all() and (other.sets == choices.sets).all()


def test_noise_moves_the_asked_share_of_picks_within_their_sets():
    """Noise that lost picks, or put them on the filling, would change the amount of data with its quality."""
    sets = np.array([[0, 1, 2, -1]] * 500)
    picks = np.zeros((2, 500, 4))
    picks[:, :, 0] = 2
    choices = Choices(np.zeros((3, 1)), sets, sets > 0, picks)
    noisy = choices.noisy(0.6, seed=1)
    assert (noisy.picks.sum(2) == 2).all() and (noisy.picks[:, :, 3] == 0).all()
    assert noisy.picks[:, :, 0].mean() / 2 == pytest.approx(0.4 + 0.6 / 3, abs=0.03)
    assert (choices.noisy(0.0).picks == picks).all() and (choices.picks == picks).all()


def test_a_second_expert_stands_beside_the_first_at_its_own_scale():
    """The joint loss is the mean of both, the second's at its scaled reward; a shifted index would read other texts."""
    random = np.random.default_rng(0)
    def made(count, width):
        sets = np.arange(count * width).reshape(count, width)
        picks = random.multinomial(3, np.full(width, 1 / width), size=(1, count)).astype(float)
        return Choices(random.normal(size=(count * width, 2)), sets, sets >= 0, picks)
    def loss(scale, choices):
        return max_entropy.mean_loss(scale * np.array([[0.5, -1.0]]), choices)
    first, second = made(4, 3), made(6, 5)
    both = first.beside(second, 2.0)
    np.testing.assert_allclose(loss(1, both), (4 * loss(1, first) + 6 * loss(2, second)) / 10, rtol=1e-5)
    np.testing.assert_allclose(loss(2, both.of_sets(slice(4, None))), loss(4, second), rtol=1e-5)
