"""Traces of style: shares and z by hand, and indicators of words."""

import numpy as np
import pandas as pd
import pytest

from irlkit import traces


@pytest.fixture
def table():
    """Ten texts of each source: "team" in eight of the expert's and two of the base model's, "the" in all."""
    expert = ["the team works"] * 8 + ["the rain falls"] * 2
    base = ["the team works"] * 2 + ["the rain falls"] * 8
    return pd.DataFrame({"completion": expert + base, "source": ["expert"] * 10 + ["base"] * 10})


def test_what_rises_comes_first(table):
    """Sides exchanged, or a difference without its error, would order the words otherwise."""
    shift = traces.word_shift(table, at_least=2).set_index("word")
    assert set(shift.index[:2]) == {"team", "works"} and set(shift.index[-2:]) == {"rain", "falls"}
    share = {"expert": 8.5 / 11, "base": 2.5 / 11}
    error = np.sqrt(sum(p * (1 - p) / 10 for p in share.values()))
    assert shift.z["team"] == pytest.approx((share["expert"] - share["base"]) / error)
    assert shift.z["the"] == pytest.approx(0, abs=1e-9)


def test_rare_words_are_left_out(table):
    table.loc[0, "completion"] = "the team works oddly"
    assert "oddly" not in set(traces.word_shift(table, at_least=2).word)


def test_indicators_say_which_words_a_text_holds():
    found = traces.indicators(["The TEAM, the team", "rain", ""], ["team", "rain"])
    assert found.tolist() == [[1, 0], [0, 1], [0, 0]] and found.dtype == np.float32
    assert traces.indicators(["a", "b"], []).shape == (2, 0)
