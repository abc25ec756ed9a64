"""IRL methods on toy tensors: a planted reward is found, losses equal their formulas, batched seeds equal single ones."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TEXTS
from scipy.optimize import minimize
from scipy.stats import spearmanr

from irlkit.demonstrations import Choices, ParameterError, exact_choices
from irlkit.features import Projection, read
from irlkit.irl import GRIDS, METHODS, choice_loss, choose, common, hinge, logistic, max_entropy, max_margin, max_margin_published
from irlkit.irl.reward import RecoveredReward

WIDTH = 6
RIDGE = ("max_entropy", "bradley_terry", "hinge", "logistic")
LONG = {method: {"penalty": 1e-3} for method in RIDGE} | {
        "max_margin": {"bound": 10.0},
        "max_margin_published": {"sample_size": None, "epochs": 60, "learning_rate": 1e-2, "batch": 32}}
SHORT = {method: {"epochs": 20} for method in (*RIDGE, "max_margin")} | {
         "max_margin_published": {"sample_size": 30, "epochs": 3}}


def world(prompts=150, samples=6, seed=0):
    """Base texts with random features and a planted linear reward: (table, features [T, p], reward [T])."""
    random = np.random.default_rng(seed)
    table = pd.DataFrame({"prompt": np.repeat(range(prompts), samples), "source": "base",
                          "split": np.repeat(["train", "calibration"], [prompts * samples * 4 // 5, prompts * samples // 5])})
    features = random.normal(size=(prompts * samples, WIDTH)).astype(np.float32)
    return table, features, features @ np.array([2.0, -1.5, 1.0, 0.5, 0, 0])


def planted(seeds=3, split="train", **how):
    table, features, reward = world()
    return exact_choices(table, features, reward, beta=1.0, split=split, seeds=seeds, resample=split == "train", **how), reward


@pytest.mark.parametrize(("method", "least"), [
    ("max_entropy", 0.95), ("bradley_terry", 0.95), ("hinge", 0.95), ("logistic", 0.9), ("max_margin", 0.95),
    ("max_margin_published", 0.8)])
def test_a_planted_reward_is_recovered(method, least):
    """A flipped sign, a pick read in the wrong column or features of other texts would all fail here."""
    choices, reward = planted()
    for weights in METHODS[method].fit(choices, **LONG[method]):
        assert spearmanr(choices.features @ weights, reward).statistic > least


@pytest.mark.parametrize("method", METHODS)
def test_an_expert_that_is_none_gives_no_such_reward(method):
    """The null: a method that finds the planted reward without being shown it found an artefact."""
    table, features, reward = world()
    null = exact_choices(table, features, 0 * reward, seeds=8)
    found = [spearmanr(features @ weights, reward).statistic for weights in METHODS[method].fit(null, **LONG[method])]
    assert abs(np.median(found)) < 0.6


@pytest.mark.parametrize("method", METHODS)
def test_a_prompt_with_fewer_texts_leaves_the_others_their_reward(method):
    """A dropped completion is a gap in its choice set: minus infinity times no pick would make the loss no number."""
    table, features, reward = world()
    kept = np.delete(np.arange(len(table)), [0, 13, 14, 29])  # of the first place, of the last one, and two of one prompt
    choices = exact_choices(table.iloc[kept].reset_index(drop=True), features[kept], reward[kept], beta=1.0, seeds=2, resample=True)
    assert (choices.sets < 0).sum() == 4
    for weights in METHODS[method].fit(choices, **LONG[method]):
        assert spearmanr(choices.features @ weights, reward[kept]).statistic > 0.8


@pytest.mark.parametrize("method", METHODS)
def test_seeds_fitted_together_are_those_fitted_alone(method):
    """One batch for twenty seeds is a matter of speed: weights, picks or random numbers must not leak between seeds."""
    table, features, reward = world()
    together = METHODS[method].fit(exact_choices(table, features, reward, 1.0, seeds=3), **SHORT[method])
    assert together.shape == (3, WIDTH) and len({row.tobytes() for row in together}) == 3
    alone = METHODS[method].fit(exact_choices(table, features, reward, 1.0, seeds=1), **SHORT[method])
    np.testing.assert_allclose(together[:1], alone, atol=2e-3)


def test_seeds_of_a_convex_fit_do_not_hang_together():
    """L-BFGS shares its line search over the batch: at the minimum that must not be seen."""
    choices, _ = planted()
    together = max_entropy.fit(choices, penalty=1e-2)
    for number in range(3):
        alone = Choices(choices.features, choices.sets, choices.base, choices.picks[number:number + 1])
        np.testing.assert_allclose(max_entropy.fit(alone, penalty=1e-2)[0], together[number], atol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_repeats_itself_and_reports_its_epochs(method):
    """Unseeded shuffles or starts; a learning curve that ends elsewhere than the fit."""
    choices, _ = planted()
    seen = []
    first = METHODS[method].fit(choices, **SHORT[method], on_epoch=lambda epoch, weights: seen.append((epoch, weights)))
    again = METHODS[method].fit(choices, **SHORT[method], on_epoch=lambda epoch, weights: None)
    np.testing.assert_array_equal(first, again)
    assert [epoch for epoch, _ in seen] == list(range(1, SHORT[method]["epochs"] + 1))
    np.testing.assert_array_equal(seen[-1][1], first)
    assert (seen[0][1] != seen[-1][1]).any(), "each epoch's weights are a copy, not a view of the last"


@pytest.fixture
def toy():
    """Two seeds, three sets of up to three texts: (weights, features, sets, picks) as tensors."""
    random = np.random.default_rng(5)
    sets = np.array([[0, 1, 2], [3, 4, -1], [5, 6, 7]])
    picks = random.integers(0, 4, (2, 3, 3)) * (sets >= 0)
    reals = [torch.as_tensor(a, dtype=torch.float64) for a in (random.normal(size=(2, 4)), random.normal(size=(8, 4)), picks)]
    return [reals[0], reals[1], torch.as_tensor(sets), reals[2]]


def test_the_entropy_loss_is_the_cross_entropy_by_hand(toy):
    """−Σ picks · log softmax over the set / Σ picks, with filled-up places out of the sum."""
    weights, features, sets, picks = (a.numpy() for a in toy)
    for seed in range(2):
        total = 0.0
        for members, counts in zip(sets, picks[seed], strict=True):
            scores = features[members[members >= 0]] @ weights[seed]
            total -= (counts[:len(scores)] * (scores - np.log(np.exp(scores).sum()))).sum()
        assert max_entropy.loss(*toy)[seed].item() == pytest.approx(total / picks[seed].sum(), rel=1e-9)


def test_the_entropy_loss_ignores_what_all_texts_of_a_prompt_share(toy):
    """Z(x) is of the prompt: a constant per prompt in the reward (potential shaping) must cancel."""
    weights, features, sets, picks = toy
    shift = torch.zeros_like(features)
    for number, members in enumerate(sets):
        shift[members[members >= 0]] = torch.randn(4, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
    torch.testing.assert_close(max_entropy.loss(weights, features + shift, sets, picks), max_entropy.loss(*toy))


def test_two_texts_in_a_set_are_bradley_terry():
    """The special case C = 2 is logistic regression on the difference of the two rewards."""
    random = np.random.default_rng(3)
    features, weights = torch.tensor(random.normal(size=(20, 4))), torch.tensor(random.normal(size=(1, 4)))
    sets, picks = torch.arange(20).reshape(10, 2), torch.tensor([[[1.0, 0.0]] * 10], dtype=torch.float64)
    margin = (features[::2] - features[1::2]) @ weights[0]
    expected = torch.nn.functional.softplus(-margin).mean()
    torch.testing.assert_close(max_entropy.loss(weights, features, sets, picks)[0], expected)


def test_the_entropy_loss_has_finite_gradients(toy):
    """0 · log 0 in a filled-up place is NaN, and would spread to every weight."""
    weights, features, sets, picks = toy
    weights.requires_grad_()
    max_entropy.loss(weights, features, sets, picks).sum().backward()
    assert torch.isfinite(weights.grad).all()


def test_the_entropy_fit_ends_at_a_minimum():
    """Zero gradient of loss + (λ/2)‖w‖²: the penalty is in the objective once, and the optimiser has arrived."""
    choices, _ = planted()
    tensors = [torch.as_tensor(a, dtype=kind) for a, kind in (
        (choices.features, torch.float32), (choices.sets, torch.int64), (choices.picks, torch.float32))]
    weights = torch.tensor(max_entropy.fit(choices, penalty=0.05), requires_grad=True)
    max_entropy.loss(weights, *tensors).sum().backward()
    np.testing.assert_allclose(-weights.grad.numpy(), 0.05 * weights.detach().numpy(), atol=2e-4)


def test_a_model_of_the_expert_itself_has_the_least_loss():
    """At β = 1 the planted weights are the true parameters: with the exact shares as picks, the fit is they themselves."""
    choices, _ = planted(demonstrations=None)
    fitted = max_entropy.fit(choices, penalty=1e-7, epochs=300)
    np.testing.assert_allclose(fitted, np.tile([2.0, -1.5, 1.0, 0.5, 0, 0], (3, 1)), atol=0.02)


def test_mean_loss_at_zero_is_the_logarithm_of_the_choices():
    """A reward that knows nothing has a loss of log C nats, the reference of the feature sweep."""
    choices, _ = planted()
    np.testing.assert_allclose(max_entropy.mean_loss(np.zeros((3, WIDTH)), choices), np.log(6), rtol=1e-6)


def test_published_losses_by_hand():
    """−d where the expert is better, −2d where it is not; the well-posed one: max(0, 1 − d)."""
    margins = torch.tensor([3.0, 0.5, 0.0, -0.5, -2.0])
    torch.testing.assert_close(max_margin_published.loss(margins), torch.tensor([-3.0, -0.5, 0.0, 1.0, 4.0]))
    torch.testing.assert_close(max_margin.loss(margins), torch.tensor([0.0, 0.5, 1.0, 1.5, 3.0]))


@pytest.mark.parametrize("scale", [2.0, 10.0, 1000.0])
def test_the_published_loss_has_no_lower_bound(scale):
    """It is proportional to the scale of the reward, so that training only stops where it is stopped: the book's claim."""
    margins = torch.randn(50, generator=torch.Generator().manual_seed(0)) + 1
    one = max_margin_published.loss(margins).mean()
    assert one < 0
    torch.testing.assert_close(max_margin_published.loss(scale * margins).mean(), scale * one)


def test_published_training_goes_on_for_ever():
    """More epochs, larger weights: with a decay or a bound left in it would not be the published method."""
    choices, _ = planted()
    few, many = (np.linalg.norm(max_margin_published.fit(choices, 50, epochs, 1e-2), axis=1) for epochs in (5, 40))
    assert (many > 2 * few).all()


@pytest.mark.parametrize("bound", [0.3, 1.0, 5.0])
def test_max_margin_reaches_its_optimum_within_its_bound(bound):
    """Against scipy's SLSQP on the same problem: a step too large, a missing projection or too few epochs would show."""
    choices, _ = planted(seeds=1)
    small = Choices(choices.features, choices.sets[:20], choices.base[:20], choices.picks[:, :20])
    expert, base = small.pairs(seed=0)
    difference = (small.features[expert] - small.features[base])[0].astype(float)

    def objective(w):
        return np.maximum(0, 1 - difference @ w).mean()

    # As a smooth problem: slacks s >= 0, s >= 1 - d.w, minimise their mean.
    count = len(difference)
    found = minimize(lambda v: v[WIDTH:].mean(), np.r_[np.zeros(WIDTH), np.ones(count)], method="SLSQP",
                     jac=lambda v: np.r_[np.zeros(WIDTH), np.full(count, 1 / count)],
                     bounds=[(None, None)] * WIDTH + [(0, None)] * count, options={"maxiter": 200},
                     constraints=[{"type": "ineq", "fun": lambda v: v[WIDTH:] + difference @ v[:WIDTH] - 1,
                                   "jac": lambda v: np.c_[difference, np.eye(count)]},
                                  {"type": "ineq", "fun": lambda v: bound**2 - (v[:WIDTH] ** 2).sum(),
                                   "jac": lambda v: np.r_[-2 * v[:WIDTH], np.zeros(count)]}])
    assert found.success
    weights = max_margin.fit(small, bound=bound, tolerance=1e-3, epochs=20_000)
    least = objective(found.x[:WIDTH])
    assert np.linalg.norm(weights) <= bound * (1 + 1e-5)
    assert least - 1e-4 <= objective(weights[0]) <= least + 1e-3
    assert objective(weights[0]) - least - 1e-4 <= max_margin.gap(weights, small, bound, 1e-3)[0] < 1e-3, "the gap is a bound on the error"


def test_pairwise_margins_are_those_of_each_pick_to_the_other_base_texts():
    """By hand, on a set with a filled place and an expert's own text: mean over the base texts, then over the picks."""
    features = np.array([[1.0], [3.0], [0.0], [7.0], [2.0]], np.float32)
    choices = Choices(features, np.array([[3, 0, 1, 2], [0, 4, -1, -1]]), np.array([[False, True, True, True], [True, True, False, False]]),
                      np.array([[[1, 0, 0, 0], [0, 3, 0, 0]]]))
    first = np.mean([max(0, 1 - 0.2 * (7 - other)) ** 2 for other in (1, 3, 0)])
    second = max(0, 1 - 0.2 * (2 - 1)) ** 2
    assert hinge.mean_loss(np.array([[0.2]]), choices)[0] == pytest.approx((first + 3 * second) / 4, rel=1e-5)


def test_logistic_shares_are_of_picks_and_of_what_was_shown():
    """An expert's own text among the base side, or a set counted once that was drawn three times."""
    features = np.eye(5, dtype=np.float32)
    choices = Choices(features, np.array([[3, 0, 1, 2], [0, 4, -1, -1]]), np.array([[False, True, True, True], [True, True, False, False]]),
                      np.array([[[1, 0, 0, 0], [0, 3, 0, 0]]]))
    _, expert, base = logistic._shares(choices)
    np.testing.assert_allclose(expert[0], np.array([0, 0, 0, 1, 3]) / 4)
    np.testing.assert_allclose(base[0], np.array([4, 1, 1, 0, 3]) / 9)


def test_the_choice_loss_ignores_the_scale_of_a_reward():
    """Methods with other units of reward must be comparable, and the best scale be found."""
    choices, _ = planted(seeds=1)
    weights = max_entropy.fit(choices, penalty=1e-6)
    assert choice_loss(1000 * weights, choices) == pytest.approx(choice_loss(weights, choices), rel=1e-4)
    assert choice_loss(1000 * weights, choices) == pytest.approx(max_entropy.mean_loss(weights, choices)[0], rel=1e-3)


def test_max_margin_loss_on_choices_is_that_of_its_pairs():
    """The loss by which the bound is chosen must be the loss that is minimised."""
    choices, _ = planted()
    weights = max_margin.fit(choices, epochs=10)
    expert, base = choices.pairs(seed=0)
    margins = [(choices.features[e] - choices.features[b]) @ w for e, b, w in zip(expert, base, weights, strict=True)]
    by_hand = np.maximum(0, 1 - np.array(margins)).mean(1)
    np.testing.assert_allclose(max_margin.mean_loss(weights, choices), by_hand, rtol=1e-5)


@pytest.mark.parametrize("method", GRIDS)
def test_regularisation_is_chosen_by_calibration_loss(method):
    """Chosen by the training loss the weakest would always win; chosen on a metric it would use the truth."""
    train, calibration = planted(seeds=1)[0], planted(seeds=1, split="calibration")[0]
    (name, values), = GRIDS[method].items()
    losses = {value: METHODS[method].mean_loss(METHODS[method].fit(train, **{name: value}), calibration)[0] for value in values}
    assert choose(method, train, calibration) == {name: min(losses, key=losses.get)}
    assert len(set(losses.values())) == len(values)


def test_nothing_is_chosen_for_the_published_method():
    """Its settings are the paper's."""
    assert choose("max_margin_published", None, None) == {}


def test_scores_of_filled_places_are_minus_infinity(toy):
    """Index −1 is the last text for torch: unmasked, it would stand in every short set."""
    weights, features, sets, _ = toy
    scores = common.choice_scores(weights, features, sets)
    assert scores.shape == (2, 3, 3) and torch.isneginf(scores[:, 1, 2]).all() and torch.isneginf(scores).sum() == 2
    torch.testing.assert_close(scores[1, 2, 0], features[5] @ weights[1])


@pytest.fixture(scope="module")
def recovered(llama):
    """A reward on a projection of the tiny Llama's states: (reward, weights on φ, projection, readings)."""
    readings = read(llama, TEXTS, [1, 2])
    projection = Projection.fit(readings.pooled([1, 2], "root"), 4)
    weights = np.array([1.0, -2.0, 0.5, 3.0], np.float32)
    return RecoveredReward.of_features(weights, projection, str(llama), [1, 2], "root"), weights, projection, readings


def test_a_reward_on_states_is_the_reward_on_features(recovered):
    """z-scores and axes are folded into weights and offset: w·φ = w'·h + offset, the offset's sign included."""
    reward, weights, projection, readings = recovered
    states = readings.pooled([1, 2], "root")
    np.testing.assert_allclose(reward.score(states), projection(states) @ weights, atol=1e-4)


def test_a_reward_serves_trl(recovered):
    """TRL calls reward functions by keyword, with prompts and columns of the data set beside the completions."""
    reward, _, _, readings = recovered
    found = reward(prompts=["x"] * len(TEXTS), completions=TEXTS, trainer_state=None)
    np.testing.assert_allclose(found, reward.score(readings.pooled([1, 2], "root")), rtol=1e-4, atol=1e-3)
    assert len(found) == len(TEXTS) and np.std(found) > 0


def test_a_reward_survives_saving(recovered, tmp_path):
    """Safetensors and JSON only, and the same scores from a fresh process's point of view."""
    reward = recovered[0]
    reward.save_pretrained(tmp_path / "new" / "folder")
    again = RecoveredReward.from_pretrained(str(tmp_path / "new" / "folder"))
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["reward.json", "reward.safetensors"]
    np.testing.assert_array_equal(again.weights, reward.weights)
    assert (again.offset, again.model, again.layers, again.pooling) == (reward.offset, reward.model, (1, 2), "root")
    assert set(json.loads((tmp_path / "new" / "folder" / "reward.json").read_text())) >= {"model", "layers", "pooling"}


def test_dimensions_that_do_not_fit_are_refused(recovered):
    """A reward on other layers than the texts were read with is nonsense, and numpy would only name shapes."""
    reward, weights, projection, _ = recovered
    with pytest.raises(ParameterError, match="the reward has 64 weights, but the texts were read in 32 dimensions"):
        reward.score(np.zeros((3, 32), np.float32))
    with pytest.raises(ParameterError, match="the reward has 3 weights, but its features have 4 dimensions"):
        RecoveredReward.of_features(weights[:3], projection, "m", [1], "root")


@pytest.mark.parametrize(("layers", "name"), [((1, 7), "layers 1 7 in 64"), ((1, 2), "layers 1 2 in 48")])
def test_a_reward_of_another_model_is_refused_before_anything_is_read(neox, layers, name):
    """A reward file beside the wrong model: the layers may be there, and the scores then mean nothing."""
    reward = RecoveredReward(np.zeros(64 if 7 in layers else 48, np.float32), 0.0, str(neox), layers, "mean")
    with pytest.raises(ParameterError, match=f"the reward reads {name} dimensions, but the model .* has layers 0 to 2 of width 32: these"):
        reward(["a text"])


@pytest.mark.parametrize("missing", ["reward.json", "reward.safetensors"])
def test_a_folder_without_a_reward_is_refused(recovered, tmp_path, missing):
    """The message names the file."""
    recovered[0].save_pretrained(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ParameterError, match=f"{missing} does not exist"):
        RecoveredReward.from_pretrained(tmp_path)
