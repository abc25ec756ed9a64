"""Everything that is drawn, in one named style. A figure reads tidy rows; it computes nothing but what it shows."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

STYLE = {"figure.figsize": (7.0, 3.6), "figure.dpi": 110, "font.size": 11, "axes.spines.top": False,
         "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False,
         "axes.axisbelow": True, "figure.constrained_layout.use": True}
PALETTE = {"base": "#4477aa", "expert": "#228833", "max_margin_published": "#ee6677", "max_margin": "#aa7700",
           "max_entropy": "#4477aa", "null": "#888888", "ceiling": "#228833"}
LABELS = {"max_margin_published": "max-margin, as published", "max_margin": "max-margin, well-posed",
          "max_entropy": "maximum entropy", "pair_accuracy": "pair accuracy (people)",
          "pair_accuracy_raw": "pair accuracy, raw text", "auroc": "AUROC (true reward)",
          "spearman": "Spearman (true reward)", "label_accuracy": "label accuracy", "f1": "F1 (toxic)",
          "base": "base model", "expert": "RLHF expert", "rlhf": "RLHF expert", "exact": "exact expert, β = 2",
          "null": "null: no expert at all", "max_entropy_terrain": "maximum entropy, four weights",
          "max_entropy_cells": "maximum entropy, a weight a cell",
          "as_sampled_cells": "the same, chance not taken out", "max_margin_terrain": "max-margin, four weights",
          "correlation": "correlation with the true reward", "error": "error of the reward", "exact_state": "of the state, exact",
          "sampled_state": "of the state, from trajectories", "twin_next_state": "twin, of the next state too",
          "twin_averaged": "twin, next state averaged", "log_policy": "log policy", "projection": "max-margin by projection"}


def use_style():
    """Set the one style of all figures."""
    plt.rcParams.update(STYLE)


def _finished(figure):
    """Closed for pyplot, so that a notebook shows the figure once: as the value of its cell."""
    plt.close(figure)
    return figure


def label(name):
    return LABELS.get(name, str(name).replace("_", " "))


def histogram(rows, value, by, xlabel, bins=40, log=False):
    """Distributions of `value`, a step line for each `by`, as shares of their texts."""
    figure, axes = plt.subplots()
    for name, group in rows.groupby(by, sort=False):
        axes.hist(group[value], bins=bins, histtype="step", linewidth=2, label=label(name), color=PALETTE.get(name),
                  weights=np.full(len(group), 1 / len(group)), log=log)
    axes.set(xlabel=xlabel, ylabel="share of texts")
    axes.legend()
    return _finished(figure)


def training(rows, columns):
    """One panel for each column of a training log (a row a step): {column: axis label}."""
    figure, panels = plt.subplots(1, len(columns), figsize=(8.0, 3.2), squeeze=False)
    for axes, (column, title) in zip(panels[0], columns.items()):
        axes.plot(rows.step, rows[column], color="#bbbbbb", linewidth=1)
        axes.plot(rows.step, rows[column].rolling(4, min_periods=1).mean(), color=PALETTE["expert"], linewidth=2)
        axes.set(xlabel="RLOO step", ylabel=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return _finished(figure)


def learning_curves(rows, metrics, reference=None):
    """Metrics over epochs: a thin line for each seed, a thick one for their median, a panel for each metric."""
    figure, panels = plt.subplots(1, len(metrics), figsize=(8.0, 3.4), squeeze=False)
    for axes, metric in zip(panels[0], metrics):
        for method, group in rows[rows.metric == metric].groupby("method", sort=False):
            seeds = group.pivot(index="epoch", columns="seed", values="value")
            axes.plot(seeds, color=PALETTE[method], alpha=0.25, linewidth=0.7)
            axes.plot(seeds.median(axis=1), color=PALETTE[method], linewidth=2.5, label=label(method))
        if reference and metric in reference:
            axes.axhline(reference[metric], color="black", linestyle=":", linewidth=1.2)
        axes.set(xlabel="epoch", ylabel=label(metric))
    panels[0][0].legend(loc="lower right")
    return _finished(figure)


def seeds(rows, metric, order=None, reference=None):
    """One point a seed and method, experts side by side; the distribution over seeds is the result."""
    chosen = rows[rows.metric == metric]
    figure, axes = plt.subplots(figsize=(7.4, 3.8))
    sns.stripplot(chosen, x="value", y=chosen.method.map(label), hue=chosen.expert.map(label), dodge=True, size=4,
                  alpha=0.7, ax=axes, order=order and [label(name) for name in order], palette="colorblind", jitter=0.2)
    for name, value in (reference or {}).items():
        axes.axvline(value, color="black", linestyle=":", linewidth=1.2)
        axes.annotate(name, (value, 1.0), xycoords=("data", "axes fraction"), rotation=0, fontsize=9, ha="right", va="bottom")
    axes.set(xlabel=label(metric), ylabel="")
    axes.legend(title="", loc="upper center", bbox_to_anchor=(0.4, -0.2), ncols=3)
    return _finished(figure)


def heatmap(table, xlabel, ylabel, fmt=".3f"):
    """A table of numbers as colours with the numbers in them."""
    figure, axes = plt.subplots(figsize=(7.4, 0.5 * len(table) + 1.4))
    sns.heatmap(table, annot=True, fmt=fmt, cmap="viridis", ax=axes, cbar=False, linewidths=0.5)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.tick_params(axis="y", rotation=0)
    return _finished(figure)


def maps(panels, door, policy=None, columns=2):
    """Maps {title: values [S]} of a gridworld with its wall and door; arrows show the mean move of a policy [S, A], if one is given."""
    size = round(len(next(iter(panels.values()))) ** 0.5)
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(8.0, 3.6 * rows * 2 / columns), squeeze=False)
    for axes, (title, values) in zip(grid.flat, panels.items(), strict=False):
        image = axes.imshow(values.reshape(size, size), cmap="viridis")
        figure.colorbar(image, ax=axes, shrink=0.85)
        axes.hlines([size // 2 - 0.5] * 2, [-0.5, door + 0.5], [door - 0.5, size - 0.5], color="#cc3311", linewidth=4)
        if policy is not None:
            moves = (policy @ [[0, 1], [1, 0], [0, -1], [-1, 0], [0, 0]]).reshape(size, size, 2)
            axes.quiver(moves[..., 0], moves[..., 1], color="white", scale=size * 1.3, width=0.008, pivot="middle")
        axes.set(title=title, xticks=[], yticks=[])
        axes.grid(False)
    return _finished(figure)


def scatter(x, y, colour, xlabel, ylabel):
    """One point a text; `colour` [n] (bool) marks the toxic ones."""
    figure, axes = plt.subplots(figsize=(6.0, 3.8))
    for flag, name, shade in ((False, "not toxic", "#4477aa"), (True, "toxic", "#ee6677")):
        axes.scatter(x[colour == flag], y[colour == flag], s=8, alpha=0.4, color=shade, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(markerscale=2)
    return _finished(figure)
