"""How good is a reward? Against the true reward, and against people; many rewards (seeds) at once.

Scores are arrays [S, n]: S rewards of n texts. A reward is high where a text is good, so that the label
"non-toxic" is what a high reward predicts; `toxic` [n] (bool) is the true label, p(toxic) ≥ 0.5.
"""

import re

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, roc_auc_score

_SPACE = re.compile(r"\s+")
_BEFORE = re.compile(r"\s+([.,!?;:%)\]}])")
_AROUND_APOSTROPHE = re.compile(r"\s*'\s*(?=(s|t|re|ve|ll|d|m)\b)")
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "`": "'"})


def normalise(text):
    """One format for both sides of a pair: lower case, plain quotes, closed-up punctuation, none at the end."""
    text = _SPACE.sub(" ", text.lower().translate(_QUOTES)).strip()
    text = _AROUND_APOSTROPHE.sub("'", _BEFORE.sub(r"\1", text))
    return text.rstrip(" .,!?;:")


def pair_weights(preferred, other):
    """Weights [n] of pairs of texts with which longer and shorter preferred texts count the same, summing to one.

    Pairs of equal length (in characters) keep their share; the rest is halved between longer and shorter ones.
    """
    difference = np.array([np.sign(len(a) - len(b)) for a, b in zip(preferred, other)])
    weights = np.ones(len(difference))
    unequal = (difference != 0).sum()
    for sign in (-1, 1):
        if (difference == sign).any():
            weights[difference == sign] = unequal / 2 / (difference == sign).sum()
    return weights / weights.sum()


def pair_wins(preferred, other):
    """1 where the preferred text's score is higher, ½ at a tie, 0 else; scores [..., n] of both."""
    return np.where(preferred == other, 0.5, preferred > other)


def pair_accuracy(preferred, other, weights=None):
    """Share [S] of pairs in which the preferred text has the higher score [S, n]; a tie counts half."""
    return np.average(pair_wins(preferred, other), axis=-1, weights=weights)


def auroc(scores, toxic):
    """Area under the ROC curve [S]: the chance that a non-toxic text's score is above a toxic one's."""
    return np.array([roc_auc_score(~toxic, row) for row in scores])


def spearman(scores, true_reward):
    """Rank correlation [S] of the scores [S, n] with the true reward [n]."""
    return np.array([spearmanr(row, true_reward).statistic for row in scores])


def threshold(scores, toxic):
    """Threshold [S] from a calibration split: as large a share falls below it as there are toxic texts in the split."""
    return np.quantile(scores, toxic.mean(), axis=1)


def labels_against(scores, toxic, thresholds):
    """(accuracy [S], F1 of the toxic class [S]) of the label "toxic where the score is below the threshold"."""
    predicted = scores < thresholds[:, None]
    accuracy = (predicted == toxic).mean(1)
    return accuracy, np.array([f1_score(toxic, row) for row in predicted])


def cluster_interval(statistic, clusters, seed=0, resamples=1000, level=0.95):
    """Bootstrap interval (low, high) of `statistic(counts)`, where counts [n] say how often each item was drawn.

    Whole clusters are drawn: all the rewrites of one sentence, or all the completions of one prompt.
    """
    names, index = np.unique(clusters, return_inverse=True)
    random = np.random.default_rng(seed)
    draws = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    values = [statistic(draw[index]) for draw in draws]
    return tuple(np.quantile(values, [(1 - level) / 2, (1 + level) / 2]))


def over_seeds(values):
    """What is reported of a metric over seeds: median, min, max, 5th and 95th percentile, and their number."""
    values = np.asarray(values, float)
    low, high = np.quantile(values, [0.05, 0.95])
    return {"median": float(np.median(values)), "min": float(values.min()), "max": float(values.max()),
            "p5": float(low), "p95": float(high), "n_seeds": len(values)}
