"""The ladder of mends: its order, what each rung is shown and how it is judged, and that a planted reward is recovered at its end."""

import numpy as np
import pandas as pd
import pytest

from irlkit import ablation, evaluation
from irlkit.ablation import Sample
from irlkit.released import Reading, Recipe

WIDTH = 5
PLANTED = np.array([2.0, -1.0, 1.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def world():
    """A toy table (300 training, 60 calibration, 60 test prompts) whose expert texts are better under PLANTED: (Sample, Reading)."""
    random, rows, states = np.random.default_rng(0), [], {}
    for prompt in range(420):
        split = "train" if prompt < 300 else "calibration" if prompt < 360 else "test"
        drawn = random.normal(size=(12, WIDTH))
        best = drawn @ PLANTED
        order = [*range(3), 3 + int(best[3:].argmax())]
        for number, (source, state) in enumerate(zip(["base"] * 3 + ["expert"], drawn[order], strict=True)):
            text = f"text {prompt} {number}"
            states["", text] = state
            toxicity = 1 / (1 + np.exp(state @ PLANTED))
            rows.append((prompt, number, text, toxicity, source, split))
    pairs = pd.DataFrame({"neutral_normalised": [f"good {n}" for n in range(30)], "toxic_normalised": [f"evil {n}" for n in range(30)]})
    for number in range(30):
        good, evil = sorted(random.normal(size=(2, WIDTH)), key=lambda state: -state @ PLANTED)
        states |= {("", f"good {number}"): good, ("", f"evil {number}"): evil}
    table = pd.DataFrame(rows, columns=["prompt", "sample", "completion", "toxicity", "source", "split"])
    reading = Reading(np.array(list(states.values()), np.float32), {key: row for row, key in enumerate(states)})
    return Sample.of(table, pairs, 0, 100, 0), reading


def test_the_ladder_adds_one_mend_at_a_time():
    """A rung that mends two defects, or undoes one, tells nothing."""
    recipes = list(ablation.ladder().values())
    counts = [sum(vars(recipe).values()) for recipe in recipes]
    assert recipes[0] == Recipe() and counts == list(range(len(ablation.MENDS) + 1))
    for name, recipe in ablation.alone().items():
        assert {mend for mend, on in vars(recipe).items() if on} == {name, *ablation.NEEDS.get(name, ())}


def test_a_sample_has_the_texts_of_its_roles(world):
    """Expert and base of one prompt stand side by side; nothing of the test prompts is trained on."""
    sample, _ = world
    table = sample.table
    for role, source, split in (("expert", "expert", "train"), ("stand_in", "base", "train"),
                                ("calibration_expert", "expert", "calibration"), ("test", "base", "test")):
        chosen = table.iloc[sample.rows[role]]
        assert set(chosen.source) == {source} and set(chosen.split) == {split}
    prompts = {role: table.prompt.to_numpy()[sample.rows[role]] for role in ("expert", "base", "stand_in")}
    assert (prompts["expert"] == prompts["base"]).all() and (prompts["expert"] == prompts["stand_in"]).all()
    assert not set(sample.rows["base"]) & set(sample.rows["stand_in"])
    assert len(sample.rows["test"]) == 100 and len(sample.rows["calibration"]) == 60
    assert len(Sample.of(table, sample.pairs, 10, 5, 3).rows["calibration"]) == 5


def test_what_is_seen_is_enough(world):
    """Every text that a fit or a judgement looks up was read, for glued and whole texts."""
    sample, _ = world
    for recipe in (Recipe(), Recipe(one_by_one=True), Recipe(one_by_one=True, whole_text=True)):
        draws = sample.draws(2, 6)
        keys = list(dict.fromkeys(ablation.seen(sample, [(recipe, draws)])))
        states = np.random.default_rng(0).normal(size=(len(keys), WIDTH)).astype(np.float32)
        reading = Reading(states, {key: row for row, key in enumerate(keys)})
        weights = ablation.train(sample, reading, recipe, draws, epochs=1)
        found = ablation.judge(weights, sample, reading, recipe, draws, 0.5)
        assert all(values.shape == (2,) and np.isfinite(values).all() for values in found.values())


def test_a_planted_reward_is_recovered_by_the_mended_code(world):
    """The end of the ladder on data for which the truth is linear: a wrong pairing, sign or threshold would show."""
    sample, reading = world
    recipe = ablation.ladder()["all_pairs"]
    draws = sample.draws(4)
    weights = ablation.train(sample, reading, recipe, draws)
    cosine = weights @ PLANTED / np.linalg.norm(weights, axis=1) / np.linalg.norm(PLANTED)
    found = ablation.judge(weights, sample, reading, recipe, draws, 0.5)
    assert (cosine > 0.9).all()
    assert (found["auroc"] > 0.95).all() and (found["pair_accuracy"] > 0.9).all() and (found["label_accuracy"] > 0.85).all()


def test_a_constant_shift_decides_labels_by_sign_only(world):
    """The uncentred sign is what a calibrated threshold mends; ranks do not move. The last feature becomes a constant."""
    sample, reading = world
    shifted = Reading(np.c_[reading.features[:, :-1], np.ones(len(reading.features))].astype(np.float32), reading.row)
    weights = np.array([[*PLANTED[:-1], shift] for shift in (0.0, 50.0)])
    draws = sample.draws(2, 20)
    by_sign = ablation.judge(weights, sample, shifted, Recipe(held_out=True), draws, 0.5345)
    calibrated = ablation.judge(weights, sample, shifted, Recipe(held_out=True, calibrated=True), draws, 0.5345)
    np.testing.assert_allclose(by_sign["label_accuracy"], [1, 0.5345])
    assert calibrated["label_accuracy"][0] == pytest.approx(calibrated["label_accuracy"][1], abs=0.02)
    assert calibrated["label_accuracy"][0] > 0.9
    assert by_sign["auroc"].tolist() == [1, 1]


def test_training_texts_are_judged_where_nothing_is_held_out(world):
    """A reward that is right on the run's own texts and wrong elsewhere must look right, as in the released code."""
    sample, reading = world
    draws = sample.draws(1, 10)
    mine = {key for role in ("expert", "base") for key in sample.texts(role)[draws[0]]}
    flip = np.array([1 if text in mine else -1 for _, text in reading.row])[:, None]
    turned = Reading((reading.features * flip).astype(np.float32), reading.row)
    found = [ablation.labels(PLANTED[None], sample, turned, Recipe(held_out=flag), draws, 0.5) for flag in (False, True)]
    assert [labels["label_accuracy"][0] for labels in found] == [1.0, 0.0]


def test_label_accuracy_weighs_the_classes():
    """By hand: three of four harmless and one of two toxic texts right, at the paper's share; a class alone makes up the whole."""
    harmless = np.array([[True] * 4 + [False] * 2])
    label = np.array([[True, True, True, False, False, True]])
    assert ablation.label_accuracy(label, harmless, 0.5345)[0] == pytest.approx(0.5345 * 0.75 + 0.4655 * 0.5)
    assert ablation.label_accuracy(label[:, :4], harmless[:, :4], 0.5345)[0] == pytest.approx(0.75)


def test_a_run_is_a_bootstrap_sample_that_does_not_depend_on_the_others(world):
    """More runs must not change the first ones: the ladder's seeds are the first of the many runs behind the best of 78."""
    sample, _ = world
    np.testing.assert_array_equal(sample.draws(5, 10)[:3], sample.draws(3, 10))
    assert sample.draws(2).shape == (2, 300) and len(np.unique(sample.draws(1))) < 300


def test_book_features_are_found_by_text(world):
    """Each role's rows of the published arrays belong to its own texts."""
    sample, reading = world
    features = reading.of(sample.table.completion)
    sides = {side: reading.of(sample.pairs[f"{side}_normalised"]) for side in ("neutral", "toxic")}
    bench = evaluation.Bench(sample.table, features, None, sample.pairs, sides["neutral"], sides["toxic"], None, None)
    book = ablation.of_the_book(sample, bench)
    for role in sample.rows:
        np.testing.assert_array_equal(book.of(sample.texts(role)), reading.of(sample.texts(role)))
