"""Figures of the chapters that train many models: where trainings went, and what was recovered from them."""

import matplotlib.pyplot as plt

from irlkit.style import PALETTE, finished, label


def paths(rows, x, y):
    """A line for each training (`method`, `seed`) through its measured models, a row each, and its last one as a dot."""
    figure, axes = plt.subplots(figsize=(7.4, 4.0))
    for (method, seed), group in rows.groupby(["method", "seed"], sort=False):
        axes.plot(group[x], group[y], color=PALETTE[method], linewidth=1.4, label=label(method) if seed == rows.seed.min() else None)
        axes.scatter(group[x].iloc[-1], group[y].iloc[-1], color=PALETTE[method], s=22)
    axes.set(xlabel=label(x), ylabel=label(y), ylim=(0, None))
    axes.legend(fontsize=9)
    return finished(figure)


def two_rewards(rows):
    """Both rewards (`metric`: trained_on, watched) over the steps of each training, a panel a reward that is trained on (`method`)."""
    methods = rows.method.unique()
    figure, panels = plt.subplots(1, len(methods), figsize=(9.0, 3.2), sharey=True, squeeze=False)
    for axes, method in zip(panels[0], methods, strict=True):
        for (metric, seed), group in rows[rows.method == method].groupby(["metric", "seed"], sort=False):
            colour, line = ("base", "-") if metric == "trained_on" else ("expert", "--")
            axes.plot(group.epoch, group.value.rolling(3, min_periods=1).mean(), line, color=PALETTE[colour], linewidth=1.3,
                      label=label(metric) if seed == rows.seed.min() else None)
        axes.set_title(label(method), fontsize=10)
        axes.set(xlabel="RLOO step", ylabel="standard deviations" if axes is panels[0][0] else "")
        axes.xaxis.get_major_locator().set_params(integer=True)
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=9)
    return finished(figure)


def sizes(rows, metrics):
    """One point a run by the number of `blocks`, a panel a metric; a colour a reader, crosses for exact experts."""
    figure, panels = plt.subplots(1, len(metrics), figsize=(8.4, 3.8), squeeze=False)
    for axes, metric in zip(panels[0], metrics, strict=True):
        for reader, shift in (("common", 0.97), ("own", 1.03)):
            for expert, marker in (("rlhf", "o"), ("exact", "x")):
                chosen = rows[(rows.metric == f"{reader}.{metric}") & (rows.expert == expert)]
                axes.scatter(chosen.blocks * shift, chosen.value, marker=marker, color=PALETTE[reader],
                             label=f"{label(reader)}, {label(expert)}")
            means = rows[(rows.metric == f"{reader}.{metric}") & (rows.expert == "rlhf")].groupby("blocks").value.mean()
            axes.plot(means.index, means, color=PALETTE[reader], linewidth=1.2, alpha=0.6)
        axes.set(xscale="log", xlabel="blocks", ylabel=label(metric), xticks=sorted(rows.blocks.unique()))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=9)
    return finished(figure)
