"""Demonstrations: what the experts chose among the completions of the same prompt, for many seeds at once."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from irlkit.parameters import ParameterError

SPLITS = {"train": 0.7, "calibration": 0.1, "test": 0.2}


def split_by_prompt(count, seed):
    """Assign each of `count` prompts to train, calibration or test (70, 10 and 20 %); returns names [count]."""
    order = np.random.default_rng(seed).permutation(count)
    first, second = round(SPLITS["train"] * count), round((SPLITS["train"] + SPLITS["calibration"]) * count)
    names = np.empty(count, dtype=object)
    names[order[:first]], names[order[first:second]], names[order[second:]] = "train", "calibration", "test"
    return names


def pair_up(base, expert):
    """Drop what no method can use, and count it.

    `base` and `expert` are tables with the columns prompt, sample, completion. A completion is dropped if it is
    empty, or equal to an earlier one of the same prompt and source; an expert completion also if the base model
    wrote the very same text for this prompt. Returns (table with a column `source`, counts by source and reason).
    """
    both = pd.concat([base.assign(source="base"), expert.assign(source="expert")], ignore_index=True)
    text = both.completion.str.strip()
    empty = text == ""
    repeated = both.assign(text=text).duplicated(["prompt", "source", "text"]) & ~empty
    written = set(zip(both.prompt[both.source == "base"], text[both.source == "base"], strict=True))
    identical = pd.Series([(p, t) in written for p, t in zip(both.prompt, text, strict=True)]) & (both.source == "expert")
    reason = pd.Series("kept", both.index).mask(identical, "identical to the base").mask(repeated, "repeated")
    reason = reason.mask(empty, "empty")
    counts = both.assign(reason=reason).value_counts(["source", "reason"]).rename("completions").reset_index()
    return both[reason == "kept"].reset_index(drop=True), counts


@dataclass(frozen=True)
class Choices:
    """What an IRL method is shown: choice sets and the expert's picks in them, for S seeds.

    features [T, p]: φ of every text. sets [n, C] (int): which texts stand in a choice set, all of one prompt; a set
    with fewer than C texts is filled up with −1. base [n, C] (bool): which of them the base model wrote.
    picks [S, n, C]: how often seed s's expert chose each; a bootstrap over prompts is part of it.
    """

    features: np.ndarray
    sets: np.ndarray
    base: np.ndarray
    picks: np.ndarray

    @property
    def seeds(self):
        return len(self.picks)

    def first(self):
        """The choices of the first seed alone."""
        return replace(self, picks=self.picks[:1])

    def with_features(self, features):
        """The same choice sets and picks, read with other features [T, p]."""
        return replace(self, features=features)

    def read(self, features):
        """The choices with features [n, p] of many texts, of which only those are kept that stand in a choice set."""
        texts = np.unique(self.sets[self.sets >= 0])
        return replace(self, features=features[texts], sets=np.where(self.sets >= 0, np.searchsorted(texts, self.sets), -1))

    def of_sets(self, rows):
        """The choices made in some of the choice sets alone; `rows` is any index of them."""
        return replace(self, sets=self.sets[rows], base=self.base[rows], picks=self.picks[:, rows])

    def beside(self, other, scale=1.0):
        """These choices and, after them, those of a second expert, to whom the same reward is worth `scale` times as much."""
        width = max(self.sets.shape[1], other.sets.shape[1])
        sets = [self.sets, np.where(other.sets >= 0, other.sets + len(self.features), -1)]
        def filled(parts, empty):
            return [np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, width - a.shape[-1])], constant_values=empty) for a in parts]
        return Choices(np.concatenate([self.features, scale * other.features]), np.concatenate(filled(sets, -1)),
                       np.concatenate(filled([self.base, other.base], False)), np.concatenate(filled([self.picks, other.picks], 0), 1))

    def noisy(self, share, seed=0):
        """The same with each pick replaced, with probability `share`, by one drawn evenly from its choice set."""
        random = np.random.default_rng([seed, 3])
        moved = random.binomial(self.picks.astype(int), share)
        even = (self.sets >= 0) / (self.sets >= 0).sum(1, keepdims=True)
        return replace(self, picks=self.picks - moved + random.multinomial(moved.sum(2), even))

    def pairs(self, size=None, seed=0):
        """One base text for each pick: (expert, base), each [S, m] text indices, in random order, at most `size`.

        Raises ParameterError if fewer than `size` pairs can be had.
        """
        drawn = [_pairs_of(self, picks, np.random.default_rng([seed, number])) for number, picks in enumerate(self.picks)]
        shortest = min(len(expert) for expert, _ in drawn)
        if size is not None and size > shortest:
            raise ParameterError(f"sample_size: {size} pairs asked for; at most {shortest} can be had")
        m = size or shortest
        return np.stack([expert[:m] for expert, _ in drawn]), np.stack([base[:m] for _, base in drawn])


def _pairs_of(choices, picks, random):
    rows, columns = np.nonzero(picks)
    order = random.permutation(np.repeat(np.arange(len(rows)), picks[rows, columns].astype(int)))
    rows, columns = rows[order], columns[order]
    free = choices.base[rows].copy()
    free[np.arange(len(rows)), columns] = False
    usable = free.any(1)
    key = np.where(free, random.random(free.shape), -1.0)
    base = choices.sets[rows, key.argmax(1)]
    return choices.sets[rows, columns][usable], base[usable]


def _groups(table, split, source):
    chosen = table[(table.split == split) & (table.source == source)]
    return {prompt: np.asarray(index) for prompt, index in chosen.groupby("prompt").groups.items()}


def _bootstrap(prompts, seeds, seed, resample, size):
    """Counts [S, prompts] of `size` (default: as many as there are) prompts drawn with replacement; all ones without `resample`."""
    if not resample:
        return np.ones((seeds, prompts))
    draws = (np.random.default_rng([seed, number]).integers(prompts, size=size or prompts) for number in range(seeds))
    return np.stack([np.bincount(draw, minlength=prompts) for draw in draws]).astype(float)


def rlhf_choices(table, features, split="train", seeds=1, seed=0, resample=True, base_samples=None, size=None):
    """Choice sets of a real expert: each of its completions among the base model's of the same prompt.

    `table` has one row a text (columns prompt, source, split), in the order of `features`. At most `base_samples`
    base completions stand in a set. Each seed draws `size` prompts with replacement (default: as many as there are).
    """
    base, expert = _groups(table, split, "base"), _groups(table, split, "expert")
    prompts = [prompt for prompt in expert if prompt in base]
    rows = [np.r_[mine, base[prompt][:base_samples]] for prompt in prompts for mine in expert[prompt]]
    owner = np.repeat(np.arange(len(prompts)), [len(expert[prompt]) for prompt in prompts])
    sets = _fill(rows)
    picks = np.zeros((seeds, *sets.shape))
    picks[:, :, 0] = _bootstrap(len(prompts), seeds, seed, resample, size)[:, owner]
    written_by_base = sets >= 0
    written_by_base[:, 0] = False
    return Choices(features, sets, written_by_base, picks)


def exact_choices(table, features, reward, beta=2.0, demonstrations=4, split="train", seeds=1, seed=0, resample=False,
                  size=None):
    """Choice sets of an exact expert: picks among a prompt's base completions with weights ∝ exp(reward / beta).

    `reward` [T] is the reward of every text of the table (any unit; `beta` in the same). A reward of zeros gives the
    null: base completions that stand in for an expert. `demonstrations` None gives the weights themselves (m → ∞).
    """
    sets = _fill(list(_groups(table, split, "base").values()))
    logits = np.where(sets >= 0, reward[sets] / beta, -np.inf)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    counts = _bootstrap(len(sets), seeds, seed, resample, size)
    if demonstrations is None:
        picks = np.broadcast_to(weights, (seeds, *weights.shape))
    else:
        picks = np.stack([np.random.default_rng([seed, number, 1]).multinomial(demonstrations, weights)
                          for number in range(seeds)])
    return Choices(features, sets, sets >= 0, picks * counts[:, :, None])


def _fill(rows):
    sets = np.full((len(rows), max(map(len, rows))), -1)
    for number, row in enumerate(rows):
        sets[number, :len(row)] = row
    return sets
