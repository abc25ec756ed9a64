"""Figures of many trainings: each of them is there, with its own line and colour."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from test_figures_tables import panels

matplotlib.use("Agg")
from irlkit import figures_of_training, tables  # noqa: E402
from irlkit.style import PALETTE  # noqa: E402


def test_paths_go_through_every_measured_model():
    """A line cut short would end where the model was still near the base model."""
    rows = pd.DataFrame([{"method": m, "seed": s, "kl": k, "toxicity": 0.3 - 0.1 * k}
                         for m in ("true", "random") for s in (0, 1) for k in (0, 1, 2)])
    axes, = panels(figures_of_training.paths(rows, "kl", "toxicity"))
    assert [list(line.get_xdata()) for line in axes.lines] == [[0, 1, 2]] * 4
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["the true reward", "random direction"], "a name a reward"
    assert [tuple(points.get_offsets()[0]) for points in axes.collections] == [(2, pytest.approx(0.1))] * 4


def test_both_rewards_of_a_training_share_a_panel():
    """Hacking is seen where two curves part: rewards swapped, or on axes of their own, would hide it."""
    rows = pd.DataFrame([{"method": m, "seed": 0, "metric": k, "epoch": t, "value": t * (1 if k == "trained_on" else -1.0)}
                         for m in ("true", "poor") for k in ("trained_on", "watched") for t in range(1, 7)])
    both = panels(figures_of_training.two_rewards(rows))
    assert [axes.get_title() for axes in both] == ["the true reward", "badly recovered reward"]
    for axes in both:
        rising, falling = axes.lines
        assert rising.get_ydata()[-1] == 5 and falling.get_ydata()[-1] == -5, "running means of three steps"
        assert rising.get_linestyle() == "-" and falling.get_linestyle() == "--"
    assert both[0].get_ylim() == both[1].get_ylim()


def test_sizes_show_every_run_of_both_readers():
    """A mean alone would hide that runs of one size differ more than sizes do."""
    rows = pd.DataFrame([{"blocks": b, "expert": e, "metric": f"{r}.auroc", "value": 0.7 + b / 100 + n / 1000}
                         for b in (5, 10) for e in ("rlhf", "exact") for r in ("common", "own") for n in range(3 if e == "rlhf" else 1)])
    axes, = panels(figures_of_training.sizes(rows, ["auroc"]))
    assert [len(points.get_offsets()) for points in axes.collections] == [6, 2, 6, 2]
    assert [to_hex(points.get_facecolors()[0]) for points in axes.collections[::2]] == [PALETTE["common"], PALETTE["own"]]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.751, 0.801])
    assert axes.get_ylabel() == "AUROC (true reward)"


def test_a_few_runs_are_told_by_mean_and_range():
    rows = pd.DataFrame({"method": ["true"] * 3 + ["base"], "metric": "kl", "value": [1.0, 2.0, 4.5, 0.0]})
    html = tables.over_seeds(rows, ["kl"], ["method"], tables.mean_and_range).to_html()
    assert "2.500 [1.000, 4.500]" in html and ">0.000<" in html
