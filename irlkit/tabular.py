"""Gridworlds in which everything is exact: planning, occupancies, two methods of IRL, shaping, transfer (book, "In a gridworld").

S states (the cells, row by row), A actions (north, east, south, west, stay), p features. A reward has no unit and is an
array [S] (of the state that is left), [S, A] (of state and action) or [S, A, S] (of the next state as well).
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from irlkit.parameters import ParameterError

TERRAIN = ("meadow", "mud", "thorns", "home")
TRUE_WEIGHTS = np.array([0.0, -0.3, -1.0, 1.0])  # true reward of a step on each terrain


@dataclass(frozen=True)
class World:
    """A decision process without its reward: transitions [S, A, S], start [S] (probabilities) and discount γ < 1."""
    transitions: np.ndarray
    start: np.ndarray
    discount: float

    @property
    def uniform(self):
        """The policy [S, A] that walks at random."""
        return np.full(self.transitions.shape[:2], 1 / self.transitions.shape[1])

    def under(self, policy):
        """Transitions [S, S] when actions follow a policy [S, A]."""
        return np.einsum("sa,san->sn", policy, self.transitions)

    def expected(self, reward):
        """A reward of any of the three shapes as [S, A]: the next state is averaged out."""
        if reward.ndim == 3:
            return (self.transitions * reward).sum(-1)
        return np.broadcast_to(reward if reward.ndim == 2 else reward[:, None], self.transitions.shape[:2])


def layout(size, seed):
    """A random map: (features [S, 4], one-hot in TERRAIN; column of the door). Home is one cell of the lowest row."""
    random = np.random.default_rng(seed)
    kind = random.choice(3, size * size, p=[0.55, 0.25, 0.2])
    kind[size * (size - 1) + random.integers(size)] = TERRAIN.index("home")
    return np.eye(4)[kind], int(random.integers(size))


def gridworld(size, slip, discount, door):
    """World of size × size cells, uniform starts, and a wall across the middle that is open in column `door` alone.

    An action moves one cell, where border and wall allow it; with probability `slip` a random move takes its place.
    """
    row, column = np.divmod(np.arange(size * size)[:, None], size)
    rows, columns = row + [-1, 0, 1, 0, 0], column + [0, 1, 0, -1, 0]
    blocked = ((rows < size // 2) != (row < size // 2)) & (column != door)
    blocked |= (np.minimum(rows, columns) < 0) | (np.maximum(rows, columns) >= size)
    steps = np.eye(size * size)[np.where(blocked, row * size + column, rows * size + columns)]
    return World((1 - slip) * steps + slip * steps[:, :4].mean(1, keepdims=True), np.full(size * size, 1 / size**2), discount)


def backup(world, reward, values, beta):
    """One Bellman backup of values [S]: (new values [S], policy [S, A]); soft (book, eq. soft-bellman), hard where β = 0."""
    q = world.expected(reward) + world.discount * world.transitions @ values
    if beta == 0:
        return q.max(1), np.eye(q.shape[1])[q.argmax(1)]
    new = beta * logsumexp(q / beta, axis=1)
    return new, np.exp((q - new[:, None]) / beta)


def plan(world, reward, beta=0.0):
    """Fixed point of `backup`, by a handful of Newton's steps, which are those of policy iteration: (values [S], policy [S, A])."""
    reward, values = world.expected(reward), np.zeros(len(world.start))
    for _ in range(1000):
        new, policy = backup(world, reward, values, beta)
        if np.abs(new - values).max() <= 1e-11 * max(1.0, np.abs(new).max()):
            return new, policy
        values = values + np.linalg.solve(np.eye(len(values)) - world.discount * world.under(policy), new - values)
    raise ArithmeticError("plan: the values do not settle")


def occupancy(world, policy):
    """Expected discounted visits [S] under a policy [S, A] (book, eq. occupancy); they sum to 1 / (1 − γ)."""
    return np.linalg.solve(np.eye(len(policy)) - world.discount * world.under(policy).T, world.start)


def sample(world, policy, count, steps, random):
    """Trajectories as states and actions, both [count, steps], drawn with the numpy generator `random`."""
    states, actions = np.empty((2, count, steps), int)
    state = _draw(np.broadcast_to(world.start, (count, len(policy))), random)
    for step in range(steps):
        states[:, step], actions[:, step] = state, _draw(policy[state], random)
        state = _draw(world.transitions[state, actions[:, step]], random)
    return states, actions


def _draw(probabilities, random):
    """One column for each row of probabilities [n, k]."""
    cumulative = probabilities.cumsum(1)
    return (random.random((len(cumulative), 1)) * cumulative[:, -1:] >= cumulative).sum(1)


def visits(world, states, actions):
    """Mean discounted visits [S, A] of the trajectories; for many and long ones, occupancy times policy."""
    found = np.zeros(world.transitions.shape[:2])
    np.add.at(found, (states, actions), world.discount ** np.arange(states.shape[1]) / len(states))
    return found


def matched(world, visits):
    """The world with the start that visits [S, A] themselves imply (book, eq. implied-start); some may be negative."""
    return replace(world, start=visits.sum(1) - world.discount * np.einsum("sa,san->n", visits, world.transitions))


def response(world, policy, features):
    """Derivative [S, A, p] of log π by the weights of r/β on features [S, A or 1, p], where π [S, A] is soft-optimal."""
    inverse = np.linalg.inv(np.eye(len(policy)) - world.discount * world.under(policy))
    values = inverse @ np.einsum("sa,sap->sp", policy, features)
    return features + world.discount * np.einsum("san,np->sap", world.transitions, values) - values[:, None]


def max_entropy(world, features, expert, penalty=0.0):
    """Maximum entropy IRL: weights [p] of r/β on features [S, p] (book, eq. max-entropy-gradient; after Ziebart et al., 2008).

    `expert` [p]: the expert's feature expectations. ParameterError if the loss has no minimum, as without `penalty` it may.
    """
    def objective(weights):
        values, policy = plan(world, features @ weights, 1.0)
        loss = world.start @ values - weights @ expert + penalty / 2 * weights @ weights
        return loss, occupancy(world, policy) @ features - expert + penalty * weights

    def curvature(weights):
        policy = plan(world, features @ weights, 1.0)[1]
        change = np.sqrt(np.maximum(occupancy(world, policy), 0)[:, None] * policy)[:, :, None] * response(world, policy, features[:, None])
        return np.tensordot(change, change, ((0, 1), (0, 1))) + penalty * np.eye(len(weights))

    found = minimize(objective, np.zeros(features.shape[1]), jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-9})
    if np.linalg.norm(found.jac) > 1e-5:
        raise ParameterError(f"penalty = {penalty}: these demonstrations leave the reward without bound; a penalty above 0 sets one")
    return found.x


def max_margin(world, features, expert, epsilon, limit=200):
    """Max-margin IRL by projection (book, eq. projection; after Abbeel and Ng, 2004): (weights [i, p], margin).

    Row i is the direction in which the expert is ahead of the i-th mixture of policies, its norm by how much; margin is what is
    left: at most `epsilon`, unless no policy came nearer to the expert's feature expectations [p], or `limit` rows were not enough.
    """
    mixture, weights = occupancy(world, world.uniform) @ features, []
    for _ in range(limit):
        weights.append(expert - mixture)
        step = occupancy(world, plan(world, features @ weights[-1])[1]) @ features - mixture
        gain = max(0.0, step @ weights[-1])
        mixture = mixture + step * min(1.0, gain / max(step @ step, 1e-12))
        if gain <= 1e-9 or np.linalg.norm(expert - mixture) <= epsilon:
            break
    return np.array(weights), float(np.linalg.norm(expert - mixture))


def shaped(world, reward, potential):
    """The twin r + γ Φ(s') − Φ(s) of a reward [S], as [S, A, S] (book, eq. shaping; after Ng, Harada and Russell, 1999)."""
    return world.expected(reward)[:, :, None] + world.discount * potential - potential[:, None, None]


def regret(world, reward, true):
    """Return lost by planning for `reward` instead of `true` (book, eq. regret): 0 is none, 1 as much as by walking at random."""
    best, mine, random = (occupancy(world, policy) @ (policy * world.expected(true)).sum(1)
                          for policy in (plan(world, true)[1], plan(world, reward)[1], world.uniform))
    return (best - mine) / (best - random)
