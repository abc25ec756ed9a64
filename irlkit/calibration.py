"""Are the probabilities of a recovered reward right? Pair probabilities σ(s·d) with one fitted scale s, and their error.

A reward is recovered up to its scale, so that d = r(rewrite) − r(toxic) is no log-odds yet. One number s, fitted on
calibration pairs, makes it one (Platt, 1999, without the intercept: a pair has no side that comes first).
"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar


def split_pairs(sentence, share=0.2, seed=0):
    """Whether each pair is a calibration pair [m] (bool): all rewrites of one `sentence` [m] stand on one side."""
    names, index = np.unique(sentence, return_inverse=True)
    chosen = np.random.default_rng([seed, 4]).random(len(names)) < share
    return chosen[index]


def fit_scale(loss):
    """The scale s > 0 that minimises `loss(s)`, a convex function of one number."""
    return float(np.exp(minimize_scalar(lambda log_s: loss(np.exp(log_s)), bounds=(-12, 12), method="bounded").x))


def pair_scale(gaps):
    """Scale [S] under which σ(s·d) is most likely for the calibration gaps d [S, m] (book, eq. pair-probability)."""
    return np.array([fit_scale(lambda s, row=row: np.logaddexp(0, -s * row).mean()) for row in gaps])


def reliability(gaps, scale, bins=10):
    """How sure and how right: a row a bin of P = σ(s·|d|), from ½ to 1, with columns confidence, accuracy, share.

    gaps [m] of one reward. A pair is right where d > 0; a bin without a pair is left out.
    """
    confidence = 1 / (1 + np.exp(-scale * np.abs(gaps)))
    number = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    rows = pd.DataFrame({"bin": number, "confidence": confidence, "accuracy": (gaps > 0).astype(float)})
    found = rows.groupby("bin").agg(confidence=("confidence", "mean"), accuracy=("accuracy", "mean"), share=("bin", "size"))
    return found.assign(share=found.share / len(gaps)).reset_index()


def calibration_error(gaps, scale, bins=10):
    """Expected calibration error [S]: the bins' |accuracy − confidence|, weighted by their share of the pairs."""
    found = [reliability(row, s, bins) for row, s in zip(gaps, scale, strict=True)]
    return np.array([(table.share * (table.accuracy - table.confidence).abs()).sum() for table in found])
