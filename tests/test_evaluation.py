"""Metrics have their closed forms, weighting removes what length alone would win, and intervals respect clusters."""

import types

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from irlkit import evaluation, features, rewards
from irlkit.evaluation import normalise, pair_accuracy, pair_weights

TRUE = np.array([3.0, 2.0, 1.0, -1.0, -2.0, 5.0])
TOXIC = TRUE < 0
ONE_OF_EACH = np.stack([TRUE, -TRUE, np.zeros(6), 100 * TRUE - 7])


def test_ranking_metrics_of_perfect_reversed_and_constant_scores():
    """A flipped label (a high reward predicts non-toxic) turns 1 into 0; scale and offset of a reward mean nothing."""
    np.testing.assert_allclose(evaluation.auroc(ONE_OF_EACH, TOXIC), [1, 0, 0.5, 1])
    np.testing.assert_allclose(evaluation.spearman(ONE_OF_EACH[[0, 1, 3]], TRUE), [1, -1, 1])
    np.testing.assert_allclose(evaluation.spearman(np.exp(TRUE)[None], TRUE), [1])


def test_pair_accuracy_of_perfect_reversed_and_constant_scores():
    """A tie counted as a win would give a constant reward an accuracy of one."""
    better, worse = ONE_OF_EACH[:, [0, 1, 5]], ONE_OF_EACH[:, [2, 3, 4]]
    np.testing.assert_allclose(pair_accuracy(better, worse), [1, 0, 0.5, 1])
    assert pair_accuracy(np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([3.0, 1.0])) == 0.75
    np.testing.assert_array_equal(evaluation.pair_wins(np.array([2.0, 1.0, 0.0]), 1.0), [1, 0.5, 0])


def test_labels_of_perfect_reversed_and_constant_scores():
    """The threshold lets as many fall below it as are toxic; F1 is of the toxic class, accuracy of both."""
    thresholds = evaluation.threshold(ONE_OF_EACH, TOXIC)
    assert ((ONE_OF_EACH < thresholds[:, None]).sum(1) == [2, 2, 0, 2]).all()
    accuracy, f1 = evaluation.labels_against(ONE_OF_EACH, TOXIC, thresholds)
    np.testing.assert_allclose(accuracy, [1, 2 / 6, 4 / 6, 1])
    np.testing.assert_allclose(f1, [1, 0, 0, 1])


def test_the_threshold_is_not_looked_up_in_the_test_split():
    """Test scores moved by a constant are all misjudged by a threshold from calibration: that must show."""
    thresholds = evaluation.threshold(TRUE[None], TOXIC)
    accuracy, _ = evaluation.labels_against(TRUE[None] + 100, TOXIC, thresholds)
    assert accuracy[0] == (~TOXIC).mean()


@pytest.mark.parametrize(("text", "plain"), [
    ("What a Day !", "what a day"), ("it ' s  me , you know .", "it's me, you know"), ("“Don’t” he said…", '"don\'t" he said…'),
    ("they ' re ( here ) ?!", "they're ( here)"), ("  tabs\tand\nlines ", "tabs and lines"), ("rock ' n roll", "rock ' n roll"),
    ("...", ""),
])
def test_text_of_one_format(text, plain):
    """Spaced punctuation and capitals tell the sides of ParaDetox apart: what is left of them flatters a blind reward."""
    assert normalise(text) == plain


@given(st.text(alphabet=st.one_of(st.sampled_from(" .,!?;:%)]}'’`stmdrelv"), st.characters())))
@example("A . ' S ;")
def test_text_of_one_format_stays_as_it_is(text):
    """If a second pass changed a text, the format would depend on what was normalised before."""
    once = normalise(text)
    assert normalise(once) == once


words = st.text("ab", min_size=1, max_size=6)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=30))
def test_weights_take_the_length_baseline_to_one_half(pairs):
    """Shorter rewrites are the rule in ParaDetox: unweighted, brevity alone beats the paper's best run."""
    preferred, other = zip(*(*pairs, ("a", "bb"), ("bbb", "aa")), strict=True)
    weights = pair_weights(preferred, other)
    assert weights.sum() == pytest.approx(1) and (weights > 0).all()
    for sign in (1, -1):
        scores = [np.array([sign * len(text) for text in side]) for side in (preferred, other)]
        assert pair_accuracy(*scores, weights) == pytest.approx(0.5, abs=1e-12)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_weights_do_not_depend_on_order_or_repetition(pairs, random):
    """A weight belongs to its pair: shuffled pairs have shuffled weights, doubled pairs half of them each."""
    weights = dict(zip(pairs, pair_weights(*zip(*pairs, strict=True)), strict=True))
    random.shuffle(pairs)
    np.testing.assert_allclose(pair_weights(*zip(*pairs, strict=True)), [weights[pair] for pair in pairs])
    np.testing.assert_allclose(pair_weights(*zip(*pairs, *pairs, strict=True)), [weights[pair] / 2 for pair in (*pairs, *pairs)])


def test_pairs_of_equal_length_keep_their_share():
    """Of 10 pairs, 4 of equal length: they weigh 0.4 together, however the rest divides."""
    weights = pair_weights(["aa"] * 4 + ["a"] * 5 + ["aaa"], ["bb"] * 10)
    np.testing.assert_allclose(weights, [0.1] * 4 + [0.06] * 5 + [0.3])


def test_intervals_cover_the_mean_as_often_as_they_say():
    """95 % intervals of a mean of 200 independent items: an interval too narrow would sell noise as a finding."""
    random, hits = np.random.default_rng(0), 0
    for number in range(60):
        values = random.normal(3.0, 1.0, 200)
        low, high = evaluation.cluster_interval(lambda counts, v=values: np.average(v, weights=counts), np.arange(200), number, 300)
        assert 0.2 < high - low < 0.36, "2 · 1.96 / √200 = 0.277"
        hits += low <= 3.0 <= high
    assert hits >= 51


def test_intervals_respect_clusters():
    """Ten copies of each item are no ten items: by clusters the interval stays as wide, item by item it shrinks by √10."""
    values = np.random.default_rng(1).normal(size=50)
    copies, clusters = np.repeat(values, 10), np.repeat(np.arange(50), 10)

    def width(numbers, of):
        low, high = evaluation.cluster_interval(lambda counts: np.average(of, weights=counts), numbers, 0, 2000)
        return high - low

    assert width(clusters, copies) == pytest.approx(width(np.arange(50), values), rel=0.1)
    assert width(np.arange(500), copies) < width(clusters, copies) / 2.5
    drawn = []
    evaluation.cluster_interval(lambda counts: drawn.append(counts) or 0.0, clusters, 0, 5)
    assert all((counts.reshape(50, 10) == counts.reshape(50, 10)[:, :1]).all() and counts.sum() == 500 for counts in drawn)


def test_intervals_repeat_with_their_seed():
    """A published interval must come out again."""
    intervals = [evaluation.cluster_interval(lambda counts: np.average(TRUE, weights=counts), np.arange(6), seed) for seed in (1, 1, 2)]
    assert intervals[0] == intervals[1] != intervals[2]


def test_what_is_reported_over_seeds():
    """n_seeds and plain floats: the summary is JSON."""
    assert evaluation.over_seeds(np.arange(21, dtype=np.float32)) == {
        "median": 10.0, "min": 0.0, "max": 20.0, "p5": 1.0, "p95": 19.0, "n_seeds": 21}


@pytest.fixture
def bench(tmp_path):
    """A bench of 40 prompts whose one feature is the true reward itself; pairs in which the rewrite has more of it."""
    random = np.random.default_rng(0)
    table = pd.DataFrame([{"prompt": p, "source": source, "split": ["train", "calibration", "test", "test"][p % 4], "completion": "x"}
                          for p in range(40) for source in ("base", "base", "base", "expert")])
    table["toxicity"] = random.uniform(0.01, 0.99, len(table))
    phi = -(np.log(table.toxicity) - np.log1p(-table.toxicity)).to_numpy(np.float32)[:, None]
    pairs = pd.DataFrame({"toxic": ["t1", "t1", "t2", "t3"], "neutral": ["n", "nnn", "n", "nn"]})
    pairs = pairs.assign(toxic_normalised=pairs.toxic, neutral_normalised=pairs.neutral)
    table.to_parquet(tmp_path / "demonstrations.parquet")
    pairs.to_parquet(tmp_path / "preferences.parquet")
    gap = np.array([[1.0], [2.0], [1.0], [-1.0]], np.float32)
    save_file(features.pack({"demonstrations": phi, "neutral": gap, "toxic": 0 * gap, "raw": gap}), tmp_path / "features.safetensors")
    return evaluation.Bench.load(types.SimpleNamespace(artifact=lambda name: tmp_path / name))


def test_the_true_reward_as_recovered_reward_is_perfect(bench):
    """End to end on artifacts: rows of the right split and source, signs, thresholds and weights all have to fit."""
    found = bench.metrics(np.array([[1.0], [-1.0]], np.float32))
    assert found["auroc"].tolist() == [1, 0]
    np.testing.assert_allclose(found["spearman"], [1, -1], atol=1e-3)
    np.testing.assert_allclose(found["pair_accuracy_raw"], [0.75, 0.25])
    weights = bench.truth.weights   # of lengths: shorter, longer, shorter, equal
    np.testing.assert_allclose(found["pair_accuracy"], [weights[:3].sum(), weights[3]])
    assert found["label_accuracy"][0] > 0.9 > 0.2 > found["label_accuracy"][1] and found["f1"][0] > 0.9


def test_the_bench_judges_base_completions_of_test_prompts_only(bench):
    """An expert's text or a training prompt among the judged would be a leak."""
    for split in ("train", "calibration", "test"):
        rows = bench.table.iloc[bench.rows(split)]
        assert set(rows.split) == {split} and set(rows.source) == {"base"}
    assert len(bench.truth.reward_test) == len(bench.rows("test")) == 60
    np.testing.assert_allclose(bench.truth.reward_test, bench.true_reward[bench.rows("test")])
    assert (bench.truth.toxic_test == (bench.truth.reward_test <= 0)).all()
    assert bench.truth.sentence.tolist() == [0, 0, 1, 2]


def test_the_true_reward_is_recomputed_from_its_probability(bench):
    """Bench and rewards must mean the same by r = −logit p, clipped at the same place."""
    p = bench.table.toxicity.to_numpy()
    np.testing.assert_allclose(bench.true_reward, np.log((1 - p) / p))
    assert rewards.CLIP == 1e-6


def test_intervals_hold_their_own_estimate(bench):
    """An interval of another statistic (unweighted, or of other clusters) would lie beside its estimate."""
    reward = np.array([1.0], np.float32)
    noisy = bench.metrics(reward[None])
    for metric, (low, high) in bench.intervals(reward, resamples=100).items():
        assert low <= noisy[metric][0] <= high and low < high or metric == "auroc" and low == high == 1


def test_paired_tests_compare_seed_by_seed():
    """Unpaired, a difference of 0.01 would drown in the spread between seeds."""
    random = np.random.default_rng(0)
    level = random.normal(0, 1, 30)
    values = {"reference": level, "better": level + 0.01 + random.normal(0, 0.001, 30), "same": level + random.normal(0, 0.01, 30)}
    rows = pd.DataFrame([{"method": method, "seed": seed, "metric": "auroc", "value": v}
                         for method, found in values.items() for seed, v in enumerate(found)])
    table = evaluation.paired_tests(rows, "reference", ["auroc"]).set_index("method")
    assert table.difference["better"] == pytest.approx(0.01, abs=1e-3) and table.p["better"] < 1e-4
    assert table.p["same"] > 0.05 and set(table.index) == {"better", "same"}


def test_the_best_of_many_is_high():
    """The median of the maximum of 78 uniform numbers is 0.5^(1/78); of one it is the median."""
    values = np.random.default_rng(1).random(5000)
    assert evaluation.best_of(values, 78) == pytest.approx(0.5 ** (1 / 78), abs=0.005)
    assert evaluation.best_of(values, 1) == pytest.approx(0.5, abs=0.06)
    assert evaluation.best_of(values[:3], 78) == values[:3].max(), "fewer runs than asked for: drawn again"
