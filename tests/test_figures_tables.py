"""Figures show all they are given and compute nothing else; tables escape and mask what models wrote."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")
from irlkit import figures, tables  # noqa: E402

METHODS = ["max_margin_published", "max_entropy"]


@pytest.fixture
def rows():
    """Two methods, two experts, two metrics, five seeds, three epochs."""
    random = np.random.default_rng(0)
    return pd.DataFrame([{"method": m, "expert": e, "metric": k, "seed": s, "epoch": t, "value": random.uniform()}
                         for m in METHODS for e in ("rlhf", "exact") for k in ("auroc", "f1") for s in range(5) for t in (1, 2, 3)])


def panels(figure):
    assert isinstance(figure, plt.Figure)
    figure.canvas.draw()
    assert plt.get_fignums() == [], "an open figure is shown twice in a notebook"
    return figure.axes


def test_histogram_has_a_line_for_each_group_and_shares_that_sum_to_one():
    """Groups of different sizes are compared: counts instead of shares would make the larger look worse."""
    rows = pd.DataFrame({"who": ["base"] * 30 + ["expert"] * 10, "r": np.r_[np.linspace(0, 1, 30), np.linspace(0, 1, 10)]})
    axes, = panels(figures.histogram(rows, "r", "who", "reward", bins=5))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["base model", "RLHF expert"]
    heights = [patch.get_xy()[1:-1:2, 1] for patch in axes.patches]
    assert len(heights) == 2 and all(h.sum() == pytest.approx(1, abs=0.01) for h in heights)


def test_training_has_a_panel_for_each_column():
    """Raw steps and their running mean; no step may be lost."""
    log = pd.DataFrame({"step": range(1, 9), "toxicity": np.linspace(1, 0, 8), "kl": np.arange(8.0)})
    both = panels(figures.training(log, {"toxicity": "mean toxicity", "kl": "KL"}))
    assert [axes.get_ylabel() for axes in both] == ["mean toxicity", "KL"]
    assert all(len(axes.lines) == 2 and len(axes.lines[0].get_xdata()) == 8 for axes in both)


def test_seeds_by_epoch_are_sorted_and_share_a_scale(rows):
    """The best seed stands above; a scale of its own for each panel would make a spread of nothing look like the paper's."""
    chosen = rows[(rows.expert == "rlhf") & (rows.metric == "auroc")]
    *maps, ranges, bar = panels(figures.seed_epochs(chosen, {"the paper": (0.3, 0.8), "here": (0.5, 0.6)}))
    assert [axes.get_title() for axes in maps] == ["max-margin, as published", "maximum entropy"]
    for axes, method in zip(maps, METHODS, strict=True):
        image, = axes.images
        last = image.get_array()[:, -1]
        assert image.get_array().shape == (5, 3) and (np.diff(last) <= 0).all() and image.get_clim() == (0, 1)
        assert last[0] == chosen[(chosen.method == method) & (chosen.epoch == 3)].value.max()
    assert [tuple(line.get_ydata()) for line in ranges.lines] == [(0.3, 0.8), (0.5, 0.6)]


def test_distances_have_a_point_for_each_seed(rows):
    """Both experts on one axis from 0 to 1, with one legend for what the distance is to."""
    chosen = rows[rows.epoch == 1].assign(metric=lambda t: t.metric.map({"auroc": "within", "f1": "to_true"}))
    both = panels(figures.distances(chosen))
    assert [axes.get_title() for axes in both] == ["RLHF expert", "exact expert, β = 2"]
    for axes in both:
        assert axes.get_xlim() == (0, 1) and sum(len(points.get_offsets()) for points in axes.collections) == 20
    names = [text.get_text() for text in both[0].figure.legends[0].get_texts()]
    assert names == ["other seeds of the method", "the true reward"]


def test_learning_curves_show_every_seed_and_their_median(rows):
    """The distribution over seeds is the result: a curve of the mean alone hides it."""
    chosen = rows[rows.expert == "rlhf"]
    both = panels(figures.learning_curves(chosen, ["auroc", "f1"], reference={"f1": 0.5}))
    assert [len(axes.lines) for axes in both] == [2 * (5 + 1), 2 * (5 + 1) + 1]
    values = chosen[(chosen.metric == "auroc") & (chosen.method == METHODS[0])].pivot(index="epoch", columns="seed", values="value")
    np.testing.assert_allclose(both[0].lines[5].get_ydata(), values.median(axis=1))


def test_maps_show_every_cell_and_leave_the_door_open():
    """Cells are drawn row by row from above; the wall has its gap where the door is; arrows go up for north."""
    policy = np.eye(5)[[0] * 16]
    first, second = panels(figures.maps({"a": np.arange(16.0), "b": np.zeros(16)}, door=2, policy=policy))[:2]
    assert first.get_title() == "a" and second.get_title() == "b"
    assert first.images[0].get_array()[1].tolist() == [4, 5, 6, 7]
    wall, arrows = first.collections
    assert [(line[0][0], line[1][0]) for line in wall.get_segments()] == [(-0.5, 1.5), (2.5, 3.5)]
    assert (arrows.U == 0).all() and (arrows.V == 1).all()


def test_seeds_are_one_point_each(rows):
    """Every seed of every method and expert is there, in the order asked for."""
    last = rows[rows.epoch == 3]
    axes, = panels(figures.seeds(last, "auroc", METHODS[::-1], {"true reward": 0.97}))
    points = np.concatenate([np.asarray(c.get_offsets()) for c in axes.collections])
    assert len(points) == 2 * 2 * 5
    np.testing.assert_allclose(sorted(points[:, 0]), sorted(last[last.metric == "auroc"].value))
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["maximum entropy", "max-margin, as published"]
    assert "true reward" in [text.get_text() for text in axes.texts]


def test_rungs_keep_their_order_and_show_every_run(rows):
    """A ladder sorted by name or by value would tell another story; a bar at the mean another one still."""
    chosen = rows[(rows.expert == "rlhf") & (rows.epoch == 3)]
    first, second = panels(figures.rungs(chosen, {"auroc": 0.5, "f1": None}))
    assert [text.get_text() for text in first.get_yticklabels()] == ["max-margin, as published", "maximum entropy"]
    assert first.yaxis_inverted()
    values = chosen[(chosen.metric == "auroc") & (chosen.method == METHODS[1])].value
    np.testing.assert_allclose(first.collections[1].get_offsets()[:, 0], values)
    assert first.lines[1].get_xdata()[0] == values.median()
    assert len(first.lines) == 3 and len(second.lines) == 2


def test_a_heatmap_holds_its_numbers():
    """Colours alone cannot be read."""
    axes, = panels(figures.heatmap(pd.DataFrame([[0.25, 1.5], [2.0, 3.0]], index=["a", "b"]), "x", "y"))
    assert [text.get_text() for text in axes.texts] == ["0.250", "1.500", "2.000", "3.000"]


def test_a_scatter_keeps_toxic_and_other_texts_apart():
    """All points, in two colours, each in its own."""
    x, toxic = np.arange(10.0), np.arange(10) < 3
    axes, = panels(figures.scatter(x, 2 * x, toxic, "true", "recovered"))
    assert [len(c.get_offsets()) for c in axes.collections] == [7, 3]
    np.testing.assert_allclose(axes.collections[1].get_offsets()[:, 0], [0, 1, 2])


def test_every_label_has_a_name():
    """An internal name on a page is a name that the reader does not know."""
    assert figures.label("max_entropy") == "maximum entropy" and figures.label("some_new_name") == "some new name"


def test_texts_are_escaped_and_masked():
    """What a model wrote must reach a page as text, never as HTML, and its toxic words masked."""
    rows = pd.DataFrame([["<script>alert(1)</script>", "you idiot & <img src=x onerror=y>", 0.98765]],
                        columns=["prompt", "completion", "toxicity"])
    html = tables.texts(rows, ["prompt", "completion", "toxicity"]).to_html()
    assert "<script" not in html and "<img" not in html and "&lt;script&gt;" in html and "&amp; &lt;img" in html
    assert "idiot" not in html and "i····" in html and "0.99" in html


@pytest.mark.parametrize("column", ["prompt", "completion", "text", "toxic", "neutral", "base", "expert"])
def test_every_column_of_texts_is_masked(column):
    """A column under another name would slip through unmasked."""
    html = tables.texts(pd.DataFrame({column: ["such an idiot"]}), [column]).to_html()
    assert "such an i····" in html and "idiot" not in html


def test_tables_over_seeds_state_median_and_spread(rows):
    """A median without its spread, or a best run alone, is what the book says it never shows."""
    last = rows[rows.epoch == 3]
    html = tables.over_seeds(last, ["f1", "auroc"]).to_html()
    values = last[(last.method == "max_entropy") & (last.expert == "exact") & (last.metric == "f1")].value
    assert f"{values.median():.3f} [{values.quantile(0.05):.3f}, {values.quantile(0.95):.3f}]" in html
    assert html.index("F1 (toxic)") < html.index("AUROC") and html.count("<tr") == 1 + 4
    assert "exact expert, β = 2" in html and "maximum entropy" in html


def test_plain_tables_escape_and_show_missing_numbers():
    """A missing number is a dash, not "nan"; names come from data and are escaped."""
    html = tables.plain(pd.DataFrame({"name": ["<i>x</i>", "y"], "n": [1234.5, np.nan]})).to_html()
    assert "<i>" not in html and "1,234.500" in html and "–" in html and "nan" not in html


def test_the_null_band_marks_the_best_run_and_every_recovered_reward():
    random = np.random.default_rng(0)
    null = pd.DataFrame({"method": "max_entropy", "metric": "pair_accuracy_raw", "value": random.random(50)})
    figure = figures.null_band(null, null.head(7), 0.804)
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "|"]
    assert len(marks) == 1 and len(marks[0].get_xdata()) == 7
    assert any(set(line.get_xdata()) == {0.804} for line in figure.axes[0].lines)


def test_curves_draw_medians_over_seeds():
    rows = pd.DataFrame([{"expert": "rlhf", "method": "max_entropy", "metric": "auroc", "share": share, "seed": seed, "value": share + seed}
                         for share in (0.0, 0.5) for seed in range(3)])
    line = figures.curves(rows, "share", ["auroc"]).axes[0].lines[0]
    np.testing.assert_allclose(line.get_xydata(), [[0, 1], [0.5, 1.5]])


def test_reliability_has_its_diagonal_and_points():
    table = pd.DataFrame({"confidence": [0.6, 0.9], "accuracy": [0.5, 1.0], "share": [0.3, 0.7]})
    axes = figures.reliability({"rlhf": table}).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0.5, 0.5], [1, 1]])
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[0.6, 0.5], [0.9, 1.0]])


def test_a_variant_keeps_the_label_of_its_method():
    assert figures.label("max_entropy, few pairs") == "maximum entropy, few pairs"


def test_words_that_shift_are_masked():
    shift = pd.DataFrame({"word": ["team", "the", "fuck"], "z": [3.0, 0.0, -4.0]})
    html = tables.word_shift(shift, 1).to_html()
    assert "team" in html and "f···" in html and "fuck" not in html
