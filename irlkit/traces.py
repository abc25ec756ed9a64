"""Traces of style: words that an expert writes more, or less, often than the base model on the same prompts."""

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer


def word_shift(table, at_least=5):
    """Words by how their share of texts differs between expert and base, what rises first.

    `table` has the columns completion and source. Returns the columns word, base, expert (share of texts that hold the
    word) and z, the difference over its standard error; words in fewer than `at_least` texts are left out.
    """
    counter = CountVectorizer(min_df=at_least, binary=True, token_pattern=r"\b\w+\b")
    found = counter.fit_transform(table.completion)
    expert = (table.source == "expert").to_numpy()
    counts = {name: np.asarray(found[rows].sum(0)).ravel() for name, rows in (("base", ~expert), ("expert", expert))}
    size = {"base": (~expert).sum(), "expert": expert.sum()}
    share = {name: (counts[name] + 0.5) / (size[name] + 1) for name in counts}
    error = np.sqrt(sum(share[name] * (1 - share[name]) / size[name] for name in share))
    shift = pd.DataFrame({"word": counter.get_feature_names_out(), **share, "z": (share["expert"] - share["base"]) / error})
    return shift.sort_values("z", ascending=False, ignore_index=True)


def indicators(texts, words):
    """Which of `words` each text holds: [n, len(words)], float32."""
    words = list(words)
    if not words:
        return np.zeros((len(texts), 0), np.float32)
    return CountVectorizer(vocabulary=words, binary=True, token_pattern=r"\b\w+\b").transform(texts).toarray().astype(np.float32)
