"""The ablation of the released code: which texts it is run on, the ladder of its mends, and how each rung is judged."""

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from irlkit import evaluation, features, released
from irlkit.irl import choose, max_margin
from irlkit.released import Pairs, Reading, Recipe

MENDS = tuple(f.name for f in fields(Recipe))
NEEDS = {"whole_text": ("one_by_one",), "all_tokens": ("one_by_one", "whole_text")}  # mends that cannot be made without others


def ladder():
    """{rung: Recipe}: the released code, then one mend after the other."""
    return {"released": Recipe()} | {name: Recipe(**dict.fromkeys(MENDS[:n], True)) for n, name in enumerate(MENDS, 1)}


def alone():
    """{mend: Recipe}: each mend by itself, with those that it cannot be made without."""
    return {name: Recipe(**dict.fromkeys([name, *NEEDS.get(name, ())], True)) for name in MENDS}


def fit_well_posed(pairs, calibration, scale=None, seed=0):
    """Weights [S, p] that solve eq. max-margin on features divided by `scale` [p]; the bound is chosen on the pairs `calibration`.

    By default the scale is that of z-scores over √p; their shift cancels in a pair.
    """
    if scale is None:
        scale = features.Projection.fit(pairs.features[np.unique(pairs.base)]).scale * pairs.features.shape[1] ** 0.5
    scaled = [Pairs((found.features / scale).astype(np.float32), found.expert, found.base) for found in (pairs, calibration)]
    return max_margin.fit(scaled[0], **choose("max_margin", scaled[0].first(), scaled[1]), seed=seed) / scale


@dataclass(frozen=True)
class Sample:
    """Which texts are used: row numbers, by role, of the tables of demonstrations and (neutral, toxic) of preference pairs.

    expert, base, stand_in [n]: one completion of the expert and two of the base model for each training prompt; calibration_expert,
    calibration [c]: one of each for calibration prompts; test [t]: base completions; neutral, toxic [k].
    """

    table: pd.DataFrame
    pairs: pd.DataFrame
    rows: dict

    @classmethod
    def of(cls, table, pairs, prompts, held_out, preferences):
        """The first so many training prompts (and half as many for calibration), base completions of test prompts and pairs; 0: all."""
        train = _side_by_side(table, "train", expert=("expert", 0), base=("base", 0), stand_in=("base", 1))
        calibration = _side_by_side(table, "calibration", calibration_expert=("expert", 0), calibration=("base", 0))
        test = table.iloc[evaluation.base_rows(table, "test")].sort_values(["sample", "prompt"]).index
        people = np.arange(len(pairs))[:preferences or None]
        rows = {name: train[name].to_numpy()[:prompts or None] for name in train}
        rows |= {name: calibration[name].to_numpy()[:prompts // 2 or None] for name in calibration}
        return cls(table, pairs, rows | {"test": test.to_numpy()[:held_out or None], "neutral": people, "toxic": people})

    def texts(self, name):
        """The texts [n] (object) of a role."""
        if name in ("neutral", "toxic"):
            return self.pairs[f"{name}_normalised"].to_numpy(object)[self.rows[name]]
        return self.table.completion.to_numpy(object)[self.rows[name]]

    def reward(self, name):
        """True rewards [n] (nats) of a role."""
        return evaluation.true_reward(self.table)[self.rows[name]]

    def draws(self, seeds, size=None, seed=0):
        """Prompts [S, m] of each run's pairs: a bootstrap sample of `size` (default: as many as there are)."""
        count = len(self.rows["expert"])
        return np.stack([np.random.default_rng([seed, number, 5]).integers(count, size=size or count) for number in range(seeds)])

    def pairs_of(self, reading, recipe, draws, expert="expert", base="base"):
        """Pairs [S, m] that training sees of the prompts `draws` [S, n]; another role can stand in for the expert."""
        sides = (reading.rows(*released.shown(self.texts(name)[draws], recipe)) for name in (expert, base))
        return Pairs(reading.features, *sides)


def _side_by_side(table, split, **roles):
    """Rows of the n-th completion of a source, {role: (source, n)}, for the prompts that have all of them."""
    columns = {}
    for role, (source, number) in roles.items():
        chosen = table[(table.split == split) & (table.source == source)]
        chosen = chosen[chosen.groupby("prompt").cumcount() == number]
        columns[role] = pd.Series(chosen.index, index=chosen.prompt)
    return pd.concat(columns, axis=1, join="inner")


def seen(sample, drawn):
    """Every (context, text) that training or judgement sees; `drawn`: (recipe, prompts [S, m] of each run) for each fit to come."""
    found = [("", text) for role in sample.rows for text in sample.texts(role)]
    everybody = np.arange(len(sample.rows["calibration"]))[None]
    for recipe, draws in drawn:
        for role in ("expert", "base", "stand_in", "calibration_expert", "calibration"):
            texts = sample.texts(role)[everybody if "calibration" in role else draws]
            found += zip(*map(np.ravel, released.shown(texts, recipe)), strict=True)
    return found


def of_the_book(sample, bench):
    """Reading of the sample's whole texts with the features of chapter 03 (eq. features)."""
    side = {"neutral": bench.neutral, "toxic": bench.toxic}
    texts = np.concatenate([sample.texts(role) for role in sample.rows])
    phi = np.concatenate([side.get(role, bench.features)[rows] for role, rows in sample.rows.items()])
    return Reading(phi, {("", text): row for row, text in enumerate(texts)})


def train(sample, reading, recipe, draws, expert="expert", seed=0, **how):
    """Weights [S, p] of a recipe on the prompts `draws` [S, m] of each run; `how`: settings of `released.fit`, of no use if well posed."""
    pairs = sample.pairs_of(reading, recipe, draws, expert)
    if not recipe.well_posed:
        return released.fit(pairs, recipe.reset_gradients, batch=2 if recipe.one_by_one else 1, seed=seed, **how)
    everybody = np.arange(len(sample.rows["calibration"]))[None]
    calibration = sample.pairs_of(reading, recipe, everybody, "calibration_expert", "calibration")
    return fit_well_posed(pairs, calibration, 1 if recipe.all_tokens else None, seed)  # the book's features are scaled already


def judge(weights, sample, reading, recipe, draws, harmless_share, expert="expert"):
    """Metrics {name: [S]} of rewards [S, p]: what `labels` gives, and pair_accuracy and auroc on held-out data, whatever the recipe."""
    neutral, toxic, test = (weights @ reading.of(sample.texts(role)).T for role in ("neutral", "toxic", "test"))
    weight = evaluation.pair_weights(sample.texts("neutral"), sample.texts("toxic"))
    return labels(weights, sample, reading, recipe, draws, harmless_share, expert) | {
        "pair_accuracy": evaluation.pair_accuracy(neutral, toxic, weight), "auroc": evaluation.auroc(test, sample.reward("test") <= 0)}


def labels(weights, sample, reading, recipe, draws, harmless_share, expert="expert"):
    """label_accuracy and correlation (Pearson, with the true reward), each [S], as the recipe measures them.

    On held-out base completions, or else on the texts of each run's own prompts `draws` [S, m]; a text is called harmless above a
    threshold from the calibration split, or else above zero.
    """
    scores = {role: weights @ reading.of(sample.texts(role)).T for role in (expert, "base", "calibration", "test")}
    true, found = sample.reward("test")[None], scores["test"]
    if not recipe.held_out:
        true = np.concatenate([sample.reward(role)[draws] for role in (expert, "base")], 1)
        found = np.concatenate([np.take_along_axis(scores[role], draws, 1) for role in (expert, "base")], 1)
    cut = evaluation.threshold(scores["calibration"], sample.reward("calibration") <= 0)[:, None] if recipe.calibrated else 0
    return {"label_accuracy": label_accuracy(found > cut, true > 0, harmless_share), "correlation": correlation(found, true)}


def label_accuracy(label, harmless, harmless_share):
    """Share [S] of right labels [S, n] (bool), with classes weighted so that harmless texts [S or 1, n] make up `harmless_share`."""
    harmless = np.broadcast_to(harmless, label.shape)
    count = harmless.sum(1, keepdims=True)
    weight = np.where(harmless, harmless_share / count.clip(1), (1 - harmless_share) / (label.shape[1] - count).clip(1))
    return np.average(label == harmless, axis=1, weights=weight)


def correlation(scores, true_reward):
    """Pearson's correlation [S] of scores [S, n] with true rewards [S or 1, n]."""
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(scores, np.broadcast_to(true_reward, scores.shape), strict=True)])
