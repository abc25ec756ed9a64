"""All texts of a run, each once, so that rewards that read texts in any way are fitted and judged alike."""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV

from irlkit import demonstrations, evaluation, features
from irlkit.irl import choose, max_entropy
from irlkit.words import side_by_side

PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3)


@dataclass(frozen=True)
class Texts:
    """The demonstrations and both sides of the preference pairs as n distinct texts; whatever is read of them is [n, …].

    table, pairs: as chapter 03 wrote them; true_reward [T] (nats); truth: a Truth; texts [n]; place: which of them is each
    completion of the table ("own" [T]) and each side of the pairs ("neutral", "toxic", and "…_normalised", [m]).
    """

    table: pd.DataFrame
    pairs: pd.DataFrame
    true_reward: np.ndarray
    truth: evaluation.Truth
    texts: list
    place: dict

    @classmethod
    def load(cls, run, prompt_limit=0, preference_limit=0):
        """From the artifacts of a run folder: the first so many prompts and pairs, or (0) all."""
        table = pd.read_parquet(run.artifact("demonstrations.parquet"))
        table = table[table.prompt < (prompt_limit or np.inf)].reset_index(drop=True)
        pairs = pd.read_parquet(run.artifact("preferences.parquet"))[:preference_limit or None]
        sides = ["neutral", "toxic", "neutral_normalised", "toxic_normalised"]
        wanted = {"own": table.completion} | {side: pairs[side] for side in sides}  # the order in which chapter 03 read them
        distinct = pd.Index(np.concatenate([values.to_numpy(object) for values in wanted.values()])).unique()
        place = {name: distinct.get_indexer(values) for name, values in wanted.items()}
        return cls(table, pairs, evaluation.true_reward(table), evaluation.Truth.of(table, pairs), list(distinct), place)

    def rows(self, split):
        """Numbers of the texts that are the base completions of a split."""
        return self.place["own"][evaluation.base_rows(self.table, split)]

    def choices(self, expert, split="train", seeds=1, seed=0, beta=2.0, picks=32, size=None):
        """Choice sets of distinct texts (their features are to be read yet) of the "rlhf" or the "exact" expert.

        As in chapter 05 seeds of the RLHF expert are bootstrap samples of the prompts, seeds of the exact one new draws of its
        picks. One seed is not resampled: all demonstrations as they are. `picks` None: infinitely many. `size`: so many prompts
        are drawn for each seed, of either expert.
        """
        if expert == "rlhf":
            found = demonstrations.rlhf_choices(self.table, None, split, seeds, seed, resample=seeds > 1 or size is not None, size=size)
        else:
            found = demonstrations.exact_choices(self.table, None, self.true_reward, beta, picks, split, seeds, seed,
                                                 resample=size is not None, size=size)
        return replace(found, sets=np.where(found.sets >= 0, self.place["own"][found.sets], -1))

    def metrics(self, scores):
        """All metrics {name: [S]} of S rewards from their scores [S, n] of the texts."""
        at = {name: scores[:, rows] for name, rows in self.place.items()}
        calibration, test = (scores[:, self.rows(split)] for split in ("calibration", "test"))
        normalised, raw = at["neutral_normalised"] - at["toxic_normalised"], at["neutral"] - at["toxic"]
        return evaluation.judge(calibration, test, normalised, raw, self.truth)

    def ceiling(self, phi):
        """Weights [1, p] of the best linear reward on features phi [n, p]: ridge regression on the true reward of training completions."""
        rows = evaluation.base_rows(self.table, "train")
        ridge = RidgeCV(np.logspace(-3, 3, 7)).fit(phi[self.place["own"][rows]], self.true_reward[rows])
        return ridge.coef_[None].astype(np.float32)


def features_at(readings, place, rows, dimension=320):
    """Features φ [n, p] of all texts at a place in the model: pooling and layers, like "root 0 2 5" (book, eq. features).

    z-scores and axes are fitted on the texts `rows`, which should be the base completions of training prompts.
    """
    pooling, *layers = place.split()
    states = readings.pooled([int(layer) for layer in layers], pooling)
    return features.Projection.fit(states[rows], dimension)(states)


def best_linear(phi, train, calibration, seeds):
    """Maximum entropy rewards on features phi [n, p] of the texts: (weights [S, p], calibration loss in nats).

    The penalty is the one with which a fit to the choices `train` has the lowest loss on `calibration`; that loss is returned. With
    this penalty the seeds of `seeds` are fitted.
    """
    penalty, loss = best_penalty(phi, train, calibration)
    return max_entropy.fit(seeds.read(phi), penalty), loss


def best_penalty(phi, train, calibration):
    """(penalty, calibration loss in nats) with which a maximum entropy reward on phi [n, p], fitted to `train`, has the lowest loss."""
    train, calibration = train.read(phi), calibration.read(phi)
    penalty = choose("max_entropy", train, calibration)["penalty"]
    return penalty, float(max_entropy.mean_loss(max_entropy.fit(train, penalty), calibration)[0])


def best_penalties(blocks, train, calibration, grid=PENALTIES):
    """One penalty a block of features [n, p_b], out of `grid`, with the lowest calibration loss; (penalties, loss in nats).

    All combinations are tried (book, eq. penalties).
    """
    def loss(penalties):
        phi = side_by_side(blocks, penalties)
        return float(max_entropy.mean_loss(max_entropy.fit(train.read(phi), 1.0), calibration.read(phi))[0])

    found = {penalties: loss(penalties) for penalties in product(grid, repeat=len(blocks))}
    return min(found.items(), key=lambda item: item[1])
