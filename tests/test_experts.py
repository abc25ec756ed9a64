"""From an expert to a reward: texts are looked up or read alike, and a planted goal is found."""

import numpy as np
import pandas as pd
import pytest
from conftest import PROMPTS

from irlkit import experts
from irlkit.generation import log_probs, sample
from irlkit.parameters import ParameterError

pytestmark = pytest.mark.usefixtures("tiny_cache")


def test_what_is_read_stands_where_what_is_published_stands(bench, reader):
    """Another layer, pooling or projection for new texts: the fit would tell experts from base texts by how they were read."""
    known = list(bench.table.completion[:20])
    np.testing.assert_array_equal(reader(known), bench.features[:20])
    error = np.linalg.norm(reader._read(known) - bench.features[:20]) / np.linalg.norm(bench.features[:20])
    assert error < 0.02, "only the rounding to 8 bits differs"
    mixed = reader([known[3], "a new text", known[5], "a new text"])
    np.testing.assert_array_equal(mixed[[0, 2]], bench.features[[3, 5]])
    np.testing.assert_array_equal(mixed[1], mixed[3])
    assert np.abs(mixed[1] - mixed[0]).max() > 0.01


def test_texts_that_a_reader_knows_are_not_read_again(reader, monkeypatch):
    texts = ["the cat sat", "a new text", "the cat sat"]
    before = reader(texts)
    knowing = reader.knowing(texts)
    monkeypatch.setattr(experts.features, "read", lambda *_, **__: pytest.fail("read again"))
    np.testing.assert_array_equal(knowing(texts), before)
    assert len(knowing.known) == len(reader.known) + 2 and len(knowing.known) == len(knowing.published)


def test_another_reader_reads_all_that_is_judged(bench, neox, tmp_path):
    """Pairs read by one model and completions by another would be judged by no reward at all."""
    train = list(bench.table.completion[bench.table.split == "train"])
    own = experts.Reader.of_model(neox, [0, 2], train, str(tmp_path), dimension=8)
    again = experts.reread(bench, own)
    assert again.features.shape == (len(bench.table), 8) and again.normalised.shape == (3, 8)
    np.testing.assert_allclose(again.features.mean(0) + 1, own(bench.table.completion).mean(0) + 1, rtol=1e-5)
    np.testing.assert_allclose(own(train).mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(again.raw, own(bench.pairs.neutral) - own(bench.pairs.toxic), atol=1e-6)
    np.testing.assert_allclose(again.neutral, own(bench.pairs.neutral_normalised), atol=1e-6)


def picked(bench, prefer):
    """An expert that takes the first base completion for which `prefer` is largest, and says it in words of its own."""
    best = bench.table.assign(score=bench.table.completion.map(prefer)).sort_values("score", ascending=False).groupby("prompt").head(1)
    return best.sort_values("prompt").assign(sample=0, completion=best.completion + ".")


def test_a_planted_goal_is_found(bench, reader):
    """Splits, choice sets or features of other prompts would leave nothing of it."""
    def goal(text):
        return text.count("cat") - text.count("fool")
    split = bench.table.groupby("prompt").split.first()
    table, phi = experts.demonstrations(bench.table, picked(bench, goal), split, reader)
    assert len(table) == len(phi) and set(table.source) == {"base", "expert"} and (table.split == split[table.prompt].to_numpy()).all()
    test = bench.rows("test")
    truth = bench.table.completion.iloc[test].map(goal)
    found = [np.corrcoef(bench.features[test] @ w, truth)[0, 1] for w in experts.recover(table, phi, 5)]
    assert len(found) == 5 and min(found) > 0.5 and len(set(found)) == 5
    null = [np.corrcoef(bench.features[test] @ w, truth)[0, 1] for w in experts.recover_null(bench.table, bench.features, 1, 5)]
    assert abs(np.median(null)) < np.median(found) - 0.3


def test_an_expert_that_is_the_base_model_is_refused(bench, reader):
    """Greedy texts of a weak expert are the base model's own: the fit would fail on an empty array, far from the cause."""
    split = bench.table.groupby("prompt").split.first()
    same = bench.table[bench.table["sample"] == 0]
    with pytest.raises(ParameterError, match="on the calibration and train prompts the expert writes what the base model writes"):
        experts.demonstrations(bench.table, same, split, reader)


def test_fewer_texts_are_judged_as_those_texts(bench):
    """A truth of all texts beside scores of some would pair each score with another text."""
    some = experts.fewer(bench, 2, 2)
    assert len(some.pairs) == len(some.neutral) == len(some.truth.weights) == 2
    kept = bench.table["sample"] < 2
    pd.testing.assert_frame_equal(some.table, bench.table[kept].reset_index(drop=True))
    np.testing.assert_array_equal(some.features, bench.features[kept])
    np.testing.assert_array_equal(some.truth.reward_test, bench.true_reward[kept & (bench.table.split == "test")])
    assert len(experts.fewer(bench, 99, 0).table) == len(bench.table)
    assert set(experts.fewer(bench, 99, 0, prompts=30).table.prompt) == set(range(30))
    with pytest.raises(ParameterError, match="judge_prompts: among the 0 test completions of 1 prompts"):
        experts.fewer(bench, 99, 0, prompts=1)


def test_the_effect_is_measured_on_the_experts_own_completions(llama, neox, monkeypatch):
    """KL of the wrong direction, or against the expert itself, is small or negative."""
    monkeypatch.setattr(experts, "toxicity", lambda texts, _: np.array([len(text) for text in texts]))
    rows = sample(llama, PROMPTS, samples=3, max_new_tokens=6, engine="transformers", threads=1).to_pandas()
    assert experts.effect(llama, llama, PROMPTS, rows, engine="transformers", threads=1)["kl"] == 0
    found = experts.effect(llama, neox, PROMPTS, rows, engine="transformers", threads=1)
    ours, theirs = (np.array([values.sum() for values in log_probs(
        model, [PROMPTS[i] for i in rows.prompt], list(rows.tokens), engine="transformers", threads=1)]) for model in (llama, neox))
    assert found["kl"] == pytest.approx((ours - theirs).mean()) and found["kl"] > 0
    assert found["toxicity"] == pytest.approx(rows.completion.str.len().mean())
