"""The one style of all figures and tables: sizes, colours, and the names that a reader is shown."""

import matplotlib.pyplot as plt

STYLE = {"figure.figsize": (7.0, 3.6), "figure.dpi": 110, "font.size": 11, "axes.spines.top": False,
         "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False,
         "axes.axisbelow": True, "figure.constrained_layout.use": True}
PALETTE = {"base": "#4477aa", "expert": "#228833", "max_margin_published": "#ee6677", "max_margin": "#aa7700",
           "max_entropy": "#4477aa", "bradley_terry": "#66ccee", "logistic": "#aa3377",
           "hinge": "#ccbb44", "feature_matching": "#000000", "null": "#888888", "ceiling": "#228833", "rlhf": "#4477aa",
           "exact": "#ee6677", "implicit": "#ccbb44", "widest_pair": "#cc3311", "ellipsoid": "#bbbbbb",
           "random_members": "#4477aa", "other_demonstrations": "#228833", "released": "#ee6677",
           "true": "#000000", "recovered": "#228833", "poor": "#aa7700", "random": "#4477aa", "shorter": "#aa3377",
           "common": "#4477aa", "own": "#ee6677"}
LABELS = {"max_margin_published": "max-margin, as published", "max_margin": "max-margin, well-posed",
          "max_entropy": "maximum entropy", "bradley_terry": "Bradley–Terry", "logistic": "logistic, unpaired",
          "hinge": "hinge on pairs", "feature_matching": "feature matching", "people.label_accuracy": "label accuracy (people)",
          "people.f1": "F1 (people)", "people.calibration_error": "calibration error", "pair_accuracy": "pair accuracy (people)",
          "pair_accuracy_raw": "pair accuracy, raw text", "auroc": "AUROC (true reward)",
          "spearman": "Spearman (true reward)", "label_accuracy": "label accuracy", "f1": "F1 (toxic)",
          "base": "base model", "expert": "RLHF expert", "rlhf": "RLHF expert", "exact": "exact expert, β = 2",
          "null": "null: no expert at all", "max_entropy_terrain": "maximum entropy, four weights",
          "max_entropy_cells": "maximum entropy, a weight a cell",
          "as_sampled_cells": "the same, chance not taken out", "max_margin_terrain": "max-margin, four weights",
          "reward_model": "trained blocks", "token_head": "token head, chosen by its loss", "worst_token": "token head, worst token",
          "correlation": "correlation with the true reward", "error": "error of the reward", "exact_state": "of the state, exact",
          "sampled_state": "of the state, from trajectories", "twin_next_state": "twin, of the next state too",
          "kl": "KL to base, nats", "implicit": "implicit reward, white-box", "ridge": "fitted to the true reward",
          "twin_averaged": "twin, next state averaged", "log_policy": "log policy", "projection": "max-margin by projection",
          "epic": "EPIC distance", "starc": "STARC distance", "agreement": "pairs ordered alike", "within": "other seeds of the method",
          "to_true": "the true reward", "tolerance": "tolerance ε, nats a choice",
          "widest_pair": "widest pair", "ellipsoid": "widest pair, quadratic loss", "random_members": "random rewards of the set",
          "other_demonstrations": "seeds: other demonstrations",
          "released": "as released", "one_by_one": "texts one by one", "whole_text": "whole text", "reset_gradients": "gradients reset",
          "held_out": "held-out texts", "calibrated": "calibrated threshold", "well_posed": "margin, bounded norm",
          "all_pairs": "all pairs", "all_tokens": "all tokens, this book's layers", "shared_pairs": "the same pairs in every run",
          "true": "the true reward", "recovered": "recovered reward", "poor": "badly recovered reward", "random": "random direction",
          "shorter": "shorter is better", "length": "length, tokens", "trained_on": "the reward in training", "watched": "the true reward",
          "common": "common reader", "own": "own reader",
          "toxicity.held_out": "mean toxicity, held-out prompts", "toxicity.openings": "mean toxicity, people's openings",
          "toxic_share.held_out": "toxic share, held-out prompts", "toxic_share.openings": "toxic share, people's openings",
          "perplexity": "perplexity, neutral text", "distinct_1": "distinct words", "distinct_2": "distinct pairs of words",
          "stand_in": "null: no expert at all", "last_epoch": "label accuracy, last measured epoch",
          "best_epoch": "label accuracy, best epoch of the run"}

LABELS |= {f"{reader}.{metric}": f"{LABELS[metric]}, {LABELS[reader]}"
           for reader in ("common", "own") for metric in ("pair_accuracy", "auroc", "spearman")}


def use_style(dpi=STYLE["figure.dpi"]):
    """Set the one style of all figures; fewer dots an inch where a notebook would grow too large."""
    plt.rcParams.update(STYLE | {"figure.dpi": dpi})


def finished(figure):
    """Closed for pyplot, so that a notebook shows the figure once: as the value of its cell."""
    plt.close(figure)
    return figure


def label(name):
    """What a reader is shown for a name; what follows a comma is kept as it is."""
    head, comma, rest = str(name).partition(", ")
    return LABELS.get(head, head.replace("_", " ")) + comma + rest
