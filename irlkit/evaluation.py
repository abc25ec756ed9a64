"""How good is a reward? Against the true reward, and against people; many rewards (seeds) at once.

Scores are arrays [S, n]: S rewards of n texts. A reward is high where a text is good, so that the label
"non-toxic" is what a high reward predicts; `toxic` [n] (bool) is the true label, p(toxic) ≥ 0.5.
"""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import logit
from scipy.stats import spearmanr, wilcoxon
from sklearn.metrics import f1_score, roc_auc_score
from statsmodels.stats.multitest import multipletests

from irlkit import features
from irlkit.rewards import CLIP

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
    difference = np.array([np.sign(len(a) - len(b)) for a, b in zip(preferred, other, strict=True)])
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


def paired_tests(rows, reference, metrics):
    """Each method against `reference` on the same seeds: a row a method and metric, with the median difference and p.

    `rows` are tidy rows (method, seed, metric, value). p is of Wilcoxon's signed-rank test, with Holm's correction; it speaks of
    other seeds on the same test data.
    """
    found = []
    for metric in metrics:
        seeds = rows[rows.metric == metric].pivot(index="seed", columns="method", values="value")
        for method in seeds.columns.drop(reference):
            difference = seeds[method] - seeds[reference]
            found.append({"metric": metric, "method": method, "difference": difference.median(), "p": wilcoxon(difference).pvalue})
    table = pd.DataFrame(found)
    return table.assign(p=multipletests(table.p, method="holm")[1])


def best_of(values, runs, seed=0, resamples=1000):
    """Median of the best of `runs` values drawn from `values` [n], without replacement where there are enough."""
    random = np.random.default_rng([seed, runs])
    return float(np.median([random.choice(values, runs, replace=len(values) < runs).max() for _ in range(resamples)]))


def judge(calibration, test, normalised, raw, truth):
    """All metrics of S rewards as {name: [S]}.

    calibration, test: scores [S, n] of base completions of those splits; normalised, raw: [S, m] score of the rewrite
    minus score of the toxic sentence, for each preference pair; truth: a Truth.
    """
    accuracy, f1 = labels_against(test, truth.toxic_test, threshold(calibration, truth.toxic_calibration))
    return {"pair_accuracy": pair_accuracy(normalised, 0, truth.weights), "pair_accuracy_raw": pair_accuracy(raw, 0),
            "auroc": auroc(test, truth.toxic_test), "spearman": spearman(test, truth.reward_test),
            "label_accuracy": accuracy, "f1": f1}


@dataclass(frozen=True)
class Truth:
    """What is known of the texts that rewards are judged on, all from base completions and preference pairs.

    toxic_calibration [n] and toxic_test [n] (bool), reward_test [n] (nats), prompt_test [n], weights [m] of the pairs,
    sentence [m]: which toxic sentence a pair belongs to.
    """

    toxic_calibration: np.ndarray
    toxic_test: np.ndarray
    reward_test: np.ndarray
    prompt_test: np.ndarray
    weights: np.ndarray
    sentence: np.ndarray

    @classmethod
    def of(cls, table, pairs):
        """From the tables of demonstrations and of preference pairs that chapter 03 writes."""
        toxic, reward = table.toxicity.to_numpy() >= 0.5, true_reward(table)
        calibration, test = (base_rows(table, split) for split in ("calibration", "test"))
        return cls(toxic[calibration], toxic[test], reward[test], table.prompt.to_numpy()[test],
                   pair_weights(pairs.neutral_normalised, pairs.toxic_normalised), pairs.toxic.factorize()[0])


def base_rows(table, split):
    """Row numbers of the base completions of a split."""
    return np.flatnonzero((table.split == split) & (table.source == "base"))


def true_reward(table):
    """The true reward [T] (nats) of the texts of a table with the column toxicity: −logit."""
    return -logit(table.toxicity.to_numpy().clip(CLIP, 1 - CLIP))


@dataclass(frozen=True)
class Bench:
    """The published demonstrations, ready for fits and for judgement: the arrays of chapters 04 and 05.

    table: a row a text (prompt, source, split, completion, toxicity); features [T, p]; true_reward [T] (nats);
    pairs: the preference pairs; neutral, toxic [m, p]: φ of the rewrite and of the toxic sentence, both normalised;
    normalised, raw [m, p]: φ(rewrite) − φ(toxic sentence), normalised and as the pairs stand; truth: a Truth.
    """

    table: pd.DataFrame
    features: np.ndarray
    true_reward: np.ndarray
    pairs: pd.DataFrame
    neutral: np.ndarray
    toxic: np.ndarray
    raw: np.ndarray
    truth: Truth

    @classmethod
    def load(cls, run):
        """From the artifacts of chapter 03 in a run folder; ParameterError where one is missing."""
        table = pd.read_parquet(run.artifact("demonstrations.parquet"))
        pairs = pd.read_parquet(run.artifact("preferences.parquet"))
        arrays = features.unpack(run.artifact("features.safetensors"))
        truth = Truth.of(table, pairs)
        return cls(table, arrays["demonstrations"], true_reward(table), pairs, arrays["neutral"], arrays["toxic"], arrays["raw"], truth)

    @cached_property
    def normalised(self):
        return self.neutral - self.toxic

    def rows(self, split):
        """Row numbers of the base completions of a split."""
        return base_rows(self.table, split)

    def metrics(self, weights):
        """All metrics {name: [S]} of linear rewards, weights [S, p]."""
        calibration, test = (weights @ self.features[self.rows(split)].T for split in ("calibration", "test"))
        return judge(calibration, test, weights @ self.normalised.T, weights @ self.raw.T, self.truth)

    def intervals(self, weights, resamples=200, seed=0):
        """95 % bootstrap intervals {metric: (low, high)} of one reward [p] over prompts and over toxic sentences."""
        test = weights @ self.features[self.rows("test")].T
        wins = {name: pair_wins(difference @ weights, 0) for name, difference in
                (("pair_accuracy", self.normalised), ("pair_accuracy_raw", self.raw))}
        weighting = {"pair_accuracy": self.truth.weights, "pair_accuracy_raw": np.ones(len(self.raw))}
        found = {name: cluster_interval(lambda counts, name=name: np.average(wins[name], weights=counts * weighting[name]),
                                        self.truth.sentence, seed, resamples) for name in wins}
        found["auroc"] = cluster_interval(
            lambda counts: roc_auc_score(~self.truth.toxic_test, test, sample_weight=counts), self.truth.prompt_test, seed, resamples)
        return found
