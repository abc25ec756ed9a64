"""Word features: which words a text is made of, weighed by how rare they are (TF-IDF), for rewards that read no model at all."""

from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from irlkit.parameters import ParameterError


@dataclass(frozen=True)
class Words:
    """TF-IDF over the words of the texts it was fitted on; a word that is not among them counts for nothing."""

    vectorizer: TfidfVectorizer

    @classmethod
    def fit(cls, texts, least=2):
        """Fit on training base completions only; a word must stand in at least `least` of them (ParameterError if none does)."""
        vectorizer = TfidfVectorizer(min_df=least, dtype=np.float32)
        try:
            return cls(vectorizer.fit(texts))
        except ValueError:
            raise ParameterError(f"least: no word stands in {least} of the {len(texts)} texts; give more or a smaller number") from None

    def __call__(self, texts):
        """Features [n, V] (float32), each row of length one; zeros for a text of unknown words alone."""
        return self.vectorizer.transform(texts).toarray()


def side_by_side(blocks, penalties):
    """Blocks of features [n, p_b] as one [n, Σp_b], each divided by the root of its penalty.

    A fit with penalty λ = 1 on the result is one with penalty λ_b on the weights of block b (book, eq. penalties).
    """
    if len(blocks) != len(penalties) or min(penalties) <= 0:
        raise ParameterError(f"penalties: {list(penalties)} given; {len(blocks)} are needed, one a block, each above 0")
    return np.concatenate([block / np.float32(penalty**0.5) for block, penalty in zip(blocks, penalties, strict=True)], 1)
