"""Everything that is drawn, in one named style. A figure reads tidy rows; it computes nothing but what it shows."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from irlkit.style import PALETTE, finished, label
from irlkit.style import use_style as use_style  # part of what a notebook asks of figures


def histogram(rows, value, by, xlabel, bins=40, log=False):
    """Distributions of `value`, a step line for each `by`, as shares of their texts."""
    figure, axes = plt.subplots()
    for name, group in rows.groupby(by, sort=False):
        axes.hist(group[value], bins=bins, histtype="step", linewidth=2, label=label(name), color=PALETTE.get(name),
                  weights=np.full(len(group), 1 / len(group)), log=log)
    axes.set(xlabel=xlabel, ylabel="share of texts")
    axes.legend()
    return finished(figure)


def training(rows, columns):
    """One panel for each column of a training log (a row a step): {column: axis label}."""
    figure, panels = plt.subplots(1, len(columns), figsize=(8.0, 3.2), squeeze=False)
    for axes, (column, title) in zip(panels[0], columns.items(), strict=True):
        axes.plot(rows.step, rows[column], color="#bbbbbb", linewidth=1)
        axes.plot(rows.step, rows[column].rolling(4, min_periods=1).mean(), color=PALETTE["expert"], linewidth=2)
        axes.set(xlabel="RLOO step", ylabel=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return finished(figure)


def learning_curves(rows, metrics, reference=None):
    """Metrics over epochs: a thin line for each seed, a thick one for their median, a panel for each metric."""
    figure, panels = plt.subplots(1, len(metrics), figsize=(8.0, 3.4), squeeze=False)
    for axes, metric in zip(panels[0], metrics, strict=True):
        for method, group in rows[rows.metric == metric].groupby("method", sort=False):
            seeds = group.pivot(index="epoch", columns="seed", values="value")
            axes.plot(seeds, color=PALETTE[method], alpha=0.25, linewidth=0.7)
            axes.plot(seeds.median(axis=1), color=PALETTE[method], linewidth=2.5, label=label(method))
        if reference and metric in reference:
            axes.axhline(reference[metric], color="black", linestyle=":", linewidth=1.2)
        axes.set(xlabel="epoch", ylabel=label(metric))
    panels[0][0].legend(loc="lower right")
    return finished(figure)


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
    return finished(figure)


def places(rows, metric):
    """One point a seed for each reading place (`features`) and method, a panel an expert."""
    chosen = rows[rows.metric == metric]
    experts = list(chosen.expert.unique())
    figure, panels = plt.subplots(1, len(experts), figsize=(8.4, 1.0 + 0.9 * chosen.features.nunique()), sharex=True, sharey=True)
    for axes, expert in zip(np.atleast_1d(panels), experts, strict=True):
        sns.stripplot(chosen[chosen.expert == expert].assign(method=lambda t: t.method.map(label)), x="value", y="features", hue="method",
                      dodge=True, size=4, alpha=0.7, ax=axes, palette="colorblind", jitter=0.15, legend=axes is np.atleast_1d(panels)[0])
        axes.axvline(0.5, color="black", linestyle=":", linewidth=1)
        axes.set(title=label(expert), xlabel=label(metric), ylabel="")
    handles, names = np.atleast_1d(panels)[0].get_legend_handles_labels()
    np.atleast_1d(panels)[0].get_legend().remove()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=9, markerscale=1.5)


def rungs(rows, metrics):
    """One point a run, a line for each method in the order of the rows, a panel for each metric {name: value of chance or None}."""
    order = list(rows.method.unique())
    figure, panels = plt.subplots(1, len(metrics), figsize=(9.0, 0.36 * len(order) + 1.1), sharey=True, squeeze=False)
    for axes, (metric, chance) in zip(panels[0], metrics.items(), strict=True):
        for place, method in enumerate(order):
            values = rows[(rows.metric == metric) & (rows.method == method)].value
            axes.scatter(values, place + np.linspace(-0.22, 0.22, len(values)), s=9, alpha=0.6, color=PALETTE["base"])
            axes.plot([values.median()] * 2, [place - 0.36, place + 0.36], color="black", linewidth=2)
        if chance is not None:
            axes.axvline(chance, color="black", linestyle=":", linewidth=1.2)
        axes.set(xlabel=label(metric), yticks=range(len(order)), yticklabels=[label(name) for name in order])
    panels[0][0].invert_yaxis()
    return finished(figure)


def heatmap(table, xlabel, ylabel, fmt=".3f"):
    """A table of numbers as colours with the numbers in them."""
    figure, axes = plt.subplots(figsize=(7.4, 0.5 * len(table) + 1.4))
    sns.heatmap(table, annot=True, fmt=fmt, cmap="viridis", ax=axes, cbar=False, linewidths=0.5)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.tick_params(axis="y", rotation=0)
    return finished(figure)


def seed_epochs(rows, ranges):
    """A value of each seed (a line, in the order of the last epoch) at each epoch (a column), a panel a method, on one colour scale.

    Beside them `ranges` {name: (lowest, highest)} are drawn on the same scale, from 0 to 1.
    """
    methods = rows.method.unique()
    figure, panels = plt.subplots(1, len(methods) + 1, figsize=(8.4, 3.6), width_ratios=[1] * len(methods) + [0.8])
    for axes, method in zip(panels, methods, strict=False):
        table = rows[rows.method == method].pivot(index="seed", columns="epoch", values="value")
        table = table.sort_values(table.columns[-1], ascending=False)
        image = axes.imshow(table, aspect="auto", vmin=0, vmax=1, extent=(0.5, len(table.columns) + 0.5, len(table), 0), cmap="viridis")
        axes.set_title(label(method), fontsize=10)
        axes.set(xlabel="epoch", yticks=[])
        axes.grid(False)
    panels[0].set(ylabel=f"{len(table)} seeds, best at the end first")
    for place, (low, high) in enumerate(ranges.values()):
        panels[-1].plot([place, place], [low, high], color="#333333", linewidth=5, solid_capstyle="butt")
    panels[-1].set(ylim=(0, 1), xlim=(-0.6, len(ranges) - 0.4))
    panels[-1].set_title("range over seeds", fontsize=10)
    panels[-1].set_xticks(range(len(ranges)), list(ranges), rotation=90, fontsize=9)
    figure.colorbar(image, ax=panels[-1], fraction=0.15, pad=0.03)
    return finished(figure)


def distances(rows):
    """EPIC distances, one point a seed: to what (`metric`) as colours, a line a method, a panel an expert."""
    experts = rows.expert.unique()
    figure, panels = plt.subplots(1, len(experts), figsize=(8.4, 3.6), sharey=True, squeeze=False)
    for axes, expert in zip(panels[0], experts, strict=True):
        chosen = rows[rows.expert == expert]
        sns.stripplot(chosen, x="value", y=chosen.method.map(label), hue=chosen.metric.map(label), size=3, alpha=0.7, jitter=0.25,
                      palette="colorblind", ax=axes, legend=axes is panels[0][0])
        axes.set(title=label(expert), xlabel="EPIC distance", ylabel="", xlim=(0, 1))
    handles, names = panels[0][0].get_legend_handles_labels()
    panels[0][0].get_legend().remove()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=9, markerscale=2)
    return finished(figure)


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
    return finished(figure)


def scatter(x, y, colour, xlabel, ylabel):
    """One point a text; `colour` [n] (bool) marks the toxic ones."""
    figure, axes = plt.subplots(figsize=(6.0, 3.8))
    for flag, name, shade in ((False, "not toxic", "#4477aa"), (True, "toxic", "#ee6677")):
        axes.scatter(x[colour == flag], y[colour == flag], s=8, alpha=0.4, color=shade, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(markerscale=2)
    return finished(figure)


def null_band(null, recovered, best):
    """Distribution of accuracies of rewards fitted to nothing, the recovered ones as ticks below, `best` as a dotted line."""
    figure, axes = plt.subplots(figsize=(7.4, 3.6))
    bins = np.linspace(0, 1, 41)
    for method, group in null.groupby("method", sort=False):
        axes.hist(group.value, bins=bins, histtype="step", linewidth=2, color=PALETTE[method], label=f"null, {label(method)}")
    for method in null.method.unique():
        values = recovered[recovered.method == method].value
        axes.plot(values, np.full(len(values), -1.5), "|", color=PALETTE[method], markersize=9, label=f"recovered, {label(method)}")
    axes.axvline(best, color="black", linestyle=":", linewidth=1.2)
    axes.set(xlabel=label(null.metric.iloc[0]), ylabel="runs", xlim=(0, 1))
    axes.legend(loc="upper left", fontsize=9)
    return finished(figure)


def curves(rows, x, metrics, log=False):
    """Median over seeds and 5th to 95th percentile against column `x`, a panel a metric; a colour a method, dashes for exact experts."""
    figure, panels = plt.subplots(1, len(metrics), figsize=(8.4, 3.8), squeeze=False)
    for axes, metric in zip(panels[0], metrics, strict=True):
        for (expert, method), group in rows[rows.metric == metric].groupby(["expert", "method"], sort=False):
            found = group.groupby(x).value.quantile([0.05, 0.5, 0.95]).unstack()
            colour = PALETTE.get(method)
            axes.plot(found.index, found[0.5], "o-" if expert == "rlhf" else "o--", color=colour, markersize=4,
                      label=f"{label(method)}, {label(expert)}")
            axes.fill_between(found.index, found[0.05], found[0.95], color=colour, alpha=0.12)
        axes.set(xlabel=label(x), ylabel=label(metric), xscale="log" if log else "linear")
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=9)
    return finished(figure)


def reliability(tables):
    """How often right against how sure, {name: table with confidence, accuracy, share}; the diagonal is perfect calibration."""
    figure, axes = plt.subplots(figsize=(4.8, 4.2))
    axes.plot([0.5, 1], [0.5, 1], color="black", linestyle=":", linewidth=1.2)
    for name, table in tables.items():
        axes.plot(table.confidence, table.accuracy, linewidth=1.2, color=PALETTE.get(name), alpha=0.7)
        axes.scatter(table.confidence, table.accuracy, s=20 + 300 * table.share, color=PALETTE.get(name), label=label(name))
    axes.set(xlabel="how sure: σ(s·|d|)", ylabel="how often right")
    axes.legend(loc="lower right")
    return finished(figure)
