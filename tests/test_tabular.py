"""Gridworlds: closed forms, invariance to shaping, and planted rewards that both methods of IRL have to find."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays

from irlkit import tabular
from irlkit.parameters import ParameterError

NORTH, EAST, SOUTH, WEST, STAY = range(5)


def world(states=6, actions=3, discount=0.9, seed=0):
    """A random world with a random reward [S]."""
    random = np.random.default_rng(seed)
    transitions = random.dirichlet(np.ones(states), (states, actions))
    return tabular.World(transitions, random.dirichlet(np.ones(states)), discount), random.normal(size=states)


@pytest.fixture(scope="module")
def grid():
    """A small gridworld with its features, true reward and soft-optimal expert."""
    features, door = tabular.layout(5, 3)
    land = tabular.gridworld(5, 0.1, 0.9, door)
    reward = features @ tabular.TRUE_WEIGHTS
    return SimpleNamespace(world=land, features=features, reward=reward, door=door, expert=tabular.plan(land, reward, 0.5)[1])


def test_two_states_by_hand():
    """In state 1 each step earns one: worth 2 at γ = ½, and half of that one step before; being there pays, not getting there."""
    steps = np.eye(2)[[[0, 1], [1, 0]]]     # stay or go
    pair = tabular.World(steps, np.array([1.0, 0.0]), 0.5)
    values, policy = tabular.plan(pair, np.array([0.0, 1.0]))
    np.testing.assert_allclose(values, [1.0, 2.0])
    np.testing.assert_array_equal(policy, [[0, 1], [1, 0]])
    np.testing.assert_allclose(tabular.occupancy(pair, policy), [1.0, 1.0])


def test_one_step_is_the_optimum_of_the_kl_objective():
    """Without a future the soft policy is the softmax of r/β: a multiplied or forgotten β shows at once."""
    land, _ = world(discount=0.0)
    reward = np.random.default_rng(1).normal(size=(6, 3))
    values, policy = tabular.plan(land, reward, 0.5)
    weights = np.exp(reward / 0.5)
    np.testing.assert_allclose(policy, weights / weights.sum(1, keepdims=True))
    np.testing.assert_allclose(values, 0.5 * np.log(weights.sum(1)))


@pytest.mark.parametrize("beta", [0.0, 0.01, 1.0])
def test_newtons_steps_reach_what_value_iteration_reaches(beta, grid):
    """The fast solver against the textbook's sweeps."""
    values = np.zeros(25)
    for _ in range(400):
        values, policy = tabular.backup(grid.world, grid.reward, values, beta)
    direct, same = tabular.plan(grid.world, grid.reward, beta)
    np.testing.assert_allclose(direct, values, atol=1e-9)
    np.testing.assert_allclose(same, policy, atol=1e-6)


@pytest.mark.parametrize("beta", [1.0, 0.1, 0.001])
def test_soft_values_tend_to_hard_ones(beta, grid):
    """Entropy is worth between nothing and β log A a step."""
    gap = tabular.plan(grid.world, grid.reward, beta)[0] - tabular.plan(grid.world, grid.reward)[0]
    assert (gap >= -1e-9).all() and (gap <= beta * np.log(5) / (1 - 0.9) + 1e-9).all()


def test_occupancy_is_the_discounted_sum_of_visits(grid):
    """It sums to 1 / (1 − γ), and is the sum over time of where one is; a transposed matrix would keep the first alone."""
    visits, now = np.zeros(25), grid.world.start
    for time in range(300):
        visits, now = visits + 0.9**time * now, now @ grid.world.under(grid.expert)
    occupancy = tabular.occupancy(grid.world, grid.expert)
    assert occupancy.sum() == pytest.approx(10)
    np.testing.assert_allclose(occupancy, visits, atol=1e-9)


def test_moves_walls_and_slips():
    """One cell a move; border and wall hold, the door does not; a slip is any of the four moves."""
    land = tabular.gridworld(4, 0.2, 0.9, door=1)
    np.testing.assert_allclose(land.transitions.sum(-1), 1)
    moves = tabular.gridworld(4, 0.0, 0.9, door=1).transitions.argmax(-1)
    assert moves[5].tolist() == [1, 6, 9, 4, 5] and moves[9, NORTH] == 5, "through the door both ways"
    assert moves[6, SOUTH] == 6 and moves[10, NORTH] == 10 and moves[0].tolist() == [0, 1, 4, 0, 0]
    assert land.transitions[6, EAST, 7] == pytest.approx(0.8 + 0.05) and land.transitions[6, STAY, 2] == pytest.approx(0.05)


@effort(max_examples=50, deadline=None)
@given(potential=arrays(float, 6, elements=some.floats(-50, 50)), beta=some.floats(0.2, 5), seed=some.integers(0, 20))
def test_shaping_changes_values_and_never_a_policy(potential, beta, seed):
    """V' = V − Φ and π' = π, for any potential, temperature and world; a wrong sign or a missing γ breaks it."""
    land, reward = world(seed=seed)
    values, policy = tabular.plan(land, reward, beta)
    shaped = tabular.shaped(land, reward, potential)
    values_of_twin, policy_of_twin = tabular.plan(land, shaped, beta)
    np.testing.assert_allclose(values_of_twin, values - potential, atol=1e-7)
    np.testing.assert_allclose(policy_of_twin, policy, atol=1e-7)
    np.testing.assert_allclose(tabular.plan(land, land.expected(shaped), beta)[1], policy, atol=1e-7)


def test_the_log_policy_is_a_twin_whose_potential_is_the_value(grid):
    """β log π = r + γ E[V(s')] − V(s): what is read from the policy alone is a reward of the same policy."""
    values, policy = tabular.plan(grid.world, grid.reward, 0.5)
    np.testing.assert_allclose(0.5 * np.log(policy), grid.world.expected(tabular.shaped(grid.world, grid.reward, values)), atol=1e-9)


def test_response_is_the_derivative_of_the_log_policy():
    """Against finite differences, for a reward of state and action."""
    land, _ = world()
    features, weights = np.random.default_rng(2).normal(size=(6, 3, 4)), np.array([0.3, -1.0, 0.5, 0.1])
    log_policy = lambda w: np.log(tabular.plan(land, features @ w, 1.0)[1])  # noqa: E731
    slopes = [(log_policy(weights + step) - log_policy(weights - step)) / 2e-5 for step in 1e-5 * np.eye(4)]
    found = tabular.response(land, tabular.plan(land, features @ weights, 1.0)[1], features)
    np.testing.assert_allclose(found, np.stack(slopes, -1), atol=1e-5)


def test_behaviour_hides_a_constant_of_a_state_reward_and_a_potential_of_a_state_action_reward(grid):
    """As many invisible directions as shaping has potentials: more would mean a weaker method, fewer an error."""
    of_state = tabular.response(grid.world, grid.expert, np.eye(25)[:, None]).reshape(125, 25)
    of_both = tabular.response(grid.world, grid.expert, np.eye(125).reshape(25, 5, 125)).reshape(125, 125)
    assert 25 - np.linalg.matrix_rank(of_state, rtol=1e-9) == 1 and 125 - np.linalg.matrix_rank(of_both, rtol=1e-9) == 25


def test_visits_of_many_trajectories_tend_to_the_occupancy(grid):
    """States and actions of a sample are those of the policy, discounted from time zero; the same seed draws the same."""
    sample = tabular.sample(grid.world, grid.expert, 4000, 100, np.random.default_rng(0))
    found = tabular.visits(grid.world, *sample)
    assert found.sum() == pytest.approx(10, abs=1e-3)
    np.testing.assert_allclose(found, tabular.occupancy(grid.world, grid.expert)[:, None] * grid.expert, atol=0.06)
    again = tabular.sample(grid.world, grid.expert, 4000, 100, np.random.default_rng(0))
    assert all(np.array_equal(one, other) for one, other in zip(sample, again, strict=True))


def test_the_implied_start_makes_the_loss_a_likelihood(grid):
    """Σ P̂₀ V − w·φ̂ = −Σ η̂ log π for any visits at all; for exact ones the implied start is the start."""
    exact = tabular.occupancy(grid.world, grid.expert)[:, None] * grid.expert
    np.testing.assert_allclose(tabular.matched(grid.world, exact).start, grid.world.start, atol=1e-12)
    visits, reward = np.random.default_rng(0).random((25, 5)), np.random.default_rng(1).normal(size=25)
    values, policy = tabular.plan(grid.world, reward, 1.0)
    assert tabular.matched(grid.world, visits).start @ values - visits.sum(1) @ reward == pytest.approx(-(visits * np.log(policy)).sum())


@pytest.mark.parametrize("form", ["terrain", "cells"])
def test_maximum_entropy_recovers_a_planted_reward_from_exact_behaviour(grid, form):
    """The reward but for a constant, the policy entirely, and from the twin's behaviour no other."""
    basis = grid.features if form == "terrain" else np.eye(25)
    found = 0.5 * basis @ tabular.max_entropy(grid.world, basis, tabular.occupancy(grid.world, grid.expert) @ basis)
    np.testing.assert_allclose(found - found.mean(), grid.reward - grid.reward.mean(), atol=1e-5)
    np.testing.assert_allclose(tabular.plan(grid.world, found, 0.5)[1], grid.expert, atol=1e-6)
    twin = tabular.plan(grid.world, tabular.shaped(grid.world, grid.reward, np.arange(25.0)), 0.5)[1]
    again = 0.5 * basis @ tabular.max_entropy(grid.world, basis, tabular.occupancy(grid.world, twin) @ basis)
    np.testing.assert_allclose(again - again.mean(), found - found.mean(), atol=1e-5)


def test_maximum_entropy_finds_the_reward_in_a_sample_and_a_penalty_shrinks_it(grid):
    """Learner minus expert, not the other way round; the penalty pulls towards zero."""
    visits = tabular.visits(grid.world, *tabular.sample(grid.world, grid.expert, 500, 100, np.random.default_rng(0)))
    learner, expert = tabular.matched(grid.world, visits), visits.sum(1) @ grid.features
    loose, tight = (tabular.max_entropy(learner, grid.features, expert, penalty) for penalty in (1e-4, 1.0))
    assert np.corrcoef(grid.features @ loose, grid.reward)[0, 1] > 0.99
    assert np.linalg.norm(tight) < np.linalg.norm(loose)


def test_expectations_that_no_policy_has_are_refused_without_a_penalty(grid):
    """More steps at home than there are steps: the reward for it could be raised without end, and would be, silently."""
    expert = np.array([0.0, 0.0, 0.0, 20.0])
    with pytest.raises(ParameterError, match="penalty = 0.0: these demonstrations leave the reward without bound"):
        tabular.max_entropy(grid.world, grid.features, expert)
    assert np.isfinite(tabular.max_entropy(grid.world, grid.features, expert, penalty=1.0)).all()


def test_max_margin_comes_within_epsilon_of_the_expert(grid):
    """The promise of the projection algorithm; each direction sets the expert ahead of the random walk that it starts from."""
    expert = tabular.occupancy(grid.world, grid.expert) @ grid.features
    weights, margin = tabular.max_margin(grid.world, grid.features, expert, 0.05)
    margins = np.linalg.norm(weights, axis=1)
    assert margin <= 0.05 < margins[-1] and (np.diff(margins) <= 1e-12).all()
    np.testing.assert_allclose(weights[0], expert - tabular.occupancy(grid.world, grid.world.uniform) @ grid.features)


def test_max_margin_finds_a_reward_of_an_optimal_expert(grid):
    """The expert that the method is made for: planning for the last direction loses next to nothing."""
    visits = tabular.occupancy(grid.world, tabular.plan(grid.world, grid.reward)[1])
    weights, _ = tabular.max_margin(grid.world, grid.features, visits @ grid.features, 0.01)
    assert tabular.regret(grid.world, grid.features @ weights[-1], grid.reward) < 0.02


def test_max_margin_ends_where_no_policy_comes_nearer(grid):
    """A sample's expectations may be such as no policy has: it must stop, and say how far off it is."""
    weights, margin = tabular.max_margin(grid.world, grid.features, np.array([0.0, 0.0, 0.0, 20.0]), 0.01)
    assert margin > 1 and len(weights) < 200
    weights, margin = tabular.max_margin(grid.world, grid.features, tabular.occupancy(grid.world, grid.world.uniform) @ grid.features, 0.01)
    assert margin == pytest.approx(0) and len(weights) == 1


def test_what_survives_a_change_of_the_world(grid):
    """The true reward and a twin of the next state too lose nothing anywhere; the log policy pays for steps that lead nowhere now."""
    moved = tabular.gridworld(5, 0.1, 0.9, (grid.door + 2) % 5)
    twin = tabular.shaped(grid.world, grid.reward, np.random.default_rng(0).normal(size=25))
    for land in (grid.world, moved):
        assert tabular.regret(land, grid.reward, grid.reward) == 0
        assert tabular.regret(land, twin, grid.reward) == pytest.approx(0, abs=1e-9)
    log_policy = 0.5 * np.log(grid.expert)
    assert tabular.regret(grid.world, log_policy, grid.reward) == pytest.approx(0, abs=1e-9)
    assert tabular.regret(moved, log_policy, grid.reward) > 0.05
    assert tabular.regret(moved, np.zeros(25) + moved.expected(-grid.reward)[:, 0], grid.reward) > 1, "worse than at random"


def test_soft_planning_agrees_with_the_package_imitation():
    """Its maximum causal entropy IRL has a finite horizon and β = 1: backups one by one, and a horizon beyond which nothing counts."""
    mce = pytest.importorskip("imitation.algorithms.mce_irl", exc_type=ImportError)
    land, reward = world(discount=0.8)

    def theirs(horizon):
        env = SimpleNamespace(horizon=horizon, state_dim=6, action_dim=3, n_states=6, n_actions=3, reward_matrix=reward,
                              transition_matrix=land.transitions, initial_state_dist=land.start)
        values, _, policy = mce.mce_partition_fh(env, discount=0.8)
        return values, policy, mce.mce_occupancy_measures(env, pi=policy, discount=0.8)[1]

    values = np.zeros(6)
    for step in reversed(range(4)):
        values, policy = tabular.backup(land, reward, values, 1.0)
        np.testing.assert_allclose(values, theirs(4)[0][step])
        np.testing.assert_allclose(policy, theirs(4)[1][step])
    values, policy, visits = theirs(200)
    mine, best = tabular.plan(land, reward, 1.0)
    np.testing.assert_allclose(mine, values[0])
    np.testing.assert_allclose(best, policy[0])
    np.testing.assert_allclose(tabular.occupancy(land, best), visits)
