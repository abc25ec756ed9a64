"""How far apart are two rewards? EPIC (Gleave et al., 2021) and STARC (Skalse et al., 2024); neither sees scale or shaping.

Where a prompt is met once, shaping is a number for each prompt. Rewards are arrays [S, n]: S rewards of n base completions, each of
the prompt that `prompts` [n] names. Distances are matrices [S, S] between 0 (the same choices) and 1 (opposite ones).
"""

import numpy as np
import pandas as pd


def canonical(rewards, prompts):
    """Rewards [..., n] without their mean over each prompt's base completions (book, eq. canonical)."""
    which = pd.factorize(np.asarray(prompts))[0]
    sums = np.zeros((*rewards.shape[:-1], which.max() + 1))
    np.add.at(sums, (..., which), rewards)
    return rewards - (sums / np.bincount(which))[..., which]


def canonical_tabular(reward, discount):
    """EPIC's canonical form of a reward [S, A, S], all states and actions weighted alike (book, eq. canonical-tabular)."""
    ahead = reward.mean((1, 2))
    return reward + discount * ahead - ahead[:, None, None] - discount * ahead.mean()


def epic(canonicals, others=None):
    """Pearson distances [S, R] of canonical rewards [S, n] to `others` [R, n], by default to each other (book, eq. epic)."""
    first, second = (_unit(values, 2) for values in (canonicals, canonicals if others is None else others))
    return np.sqrt((1 - (first @ second.T).clip(-1, 1)) / 2)


def starc(canonicals, others=None, norm=1):
    """Half the norm of the difference [S, R] of canonical rewards that are scaled to norm one (book, eq. starc).

    With norm=2 it is EPIC's distance; with norm=1, the default, it is not ruled by the few texts on which a reward is extreme.
    """
    first, second = (_unit(values, norm) for values in (canonicals, canonicals if others is None else others))
    return np.stack([np.linalg.norm(second - row, norm, axis=1) for row in first]) / 2


def agreement(rewards, pairs):
    """Share [S, S] of pairs of texts, [m, 2] indices into n, that two rewards [S, n] order alike; a tie counts half."""
    order = np.sign(rewards[:, pairs[:, 0]] - rewards[:, pairs[:, 1]])
    return (1 + order @ order.T / len(pairs)) / 2


def same_prompt(prompts):
    """All pairs [m, 2] of texts of the same prompt, from the prompt [n] of each text."""
    first, second = np.triu_indices(len(prompts), 1)
    same = np.asarray(prompts)[first] == np.asarray(prompts)[second]
    return np.stack([first[same], second[same]], 1)


def to_others(distances):
    """Median distance [S] of each to the others, from their distances [S, S]."""
    return np.array([np.median(np.delete(row, number)) for number, row in enumerate(distances)])


def _unit(values, norm):
    values = np.asarray(values, float)
    return values / np.maximum(np.linalg.norm(values, norm, axis=-1, keepdims=True), np.finfo(float).tiny)
