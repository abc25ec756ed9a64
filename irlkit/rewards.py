"""True rewards: functions of texts, r(text) = −logit p(toxic), with p from a classifier. The one by default is linear in words.

It is that of alt-profanity-check 1.9.1 (five linear SVMs on TF-IDF, each with a sigmoid calibration,
averaged), trained by its authors on Jigsaw and Twitter comments. It runs here from plain arrays, without its pickles.
"""

from __future__ import annotations

import json
import re
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from irlkit import assets
from irlkit.machine import at_once, device, in_memory
from irlkit.parameters import ParameterError

LINEAR = "linear-toxicity"
CLIP = 1e-6  # p is kept in [CLIP, 1 − CLIP], so |logit| <= 13.8
MASKED_FROM = 0.7  # a word is masked for display when it alone is this probably toxic
SURE_FROM = 0.99  # and inside an unknown word from here on


def convert_linear_toxicity(model: Path, vectorizer: Path, folder: Path) -> None:
    """Write the pickled classifier as ``arrays.safetensors`` (idf [V], coef [5, V], intercept, a, b [5]) and ``words.json``."""
    import joblib
    from safetensors.numpy import save_file

    words, members = joblib.load(vectorizer), joblib.load(model).calibrated_classifiers_
    arrays = {
        "idf": words.idf_,
        "coef": np.concatenate([m.estimator.coef_ for m in members]),
        "intercept": np.concatenate([m.estimator.intercept_ for m in members]),
        "a": np.array([m.calibrators[0].a_ for m in members]),
        "b": np.array([m.calibrators[0].b_ for m in members]),
    }
    save_file(arrays, folder / "arrays.safetensors")
    in_order = sorted(words.vocabulary_, key=words.vocabulary_.get)
    (folder / "words.json").write_text(json.dumps(in_order, ensure_ascii=False), encoding="utf-8")


class LinearToxicity:
    """Probability that a text is toxic: p = mean over k of σ(−a_k f_k − b_k) with f_k = w_k · tfidf(text) + c_k."""

    def __init__(self, folder: Path | str | None = None):
        from safetensors.numpy import load_file
        from sklearn.feature_extraction.text import TfidfVectorizer

        folder = assets.linear_toxicity() if folder is None else Path(folder)
        self.words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        self._arrays = load_file(folder / "arrays.safetensors")
        self._tfidf = TfidfVectorizer(vocabulary=self.words)
        self._tfidf.idf_ = self._arrays["idf"]

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Probabilities in [0, 1], shape [len(texts)]."""
        if len(texts) == 0:
            return np.zeros(0)
        return self._probability(self._tfidf.transform(texts) @ self._arrays["coef"].T)

    def _probability(self, products: np.ndarray) -> np.ndarray:
        """Products w_k · tfidf, shape [n, 5], to probabilities, shape [n]."""
        from scipy.special import expit

        margins = products + self._arrays["intercept"]
        return expit(-(self._arrays["a"] * margins + self._arrays["b"])).mean(1)

    @cached_property
    def word_probability(self) -> dict[str, float]:
        """Word -> probability that a text of this word alone is toxic."""
        return dict(zip(self.words, self._probability(self._arrays["coef"].T).tolist(), strict=True))


@cache
def linear_toxicity() -> LinearToxicity:
    """The classifier, loaded once in a process."""
    return LinearToxicity()


class SequenceClassifier:
    """The same probability from a transformers model that classifies texts, such as a RoBERTa; one label must be called toxic."""

    def __init__(self, folder: Path | str, batch: int = 64):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.tokenizer, self.batch = AutoTokenizer.from_pretrained(folder), at_once(batch)
        self.network = AutoModelForSequenceClassification.from_pretrained(folder).eval().to(device())
        names = {str(name).lower(): number for number, name in self.network.config.id2label.items()}
        if "toxic" not in names:
            raise ParameterError(f"true_reward: the classifier in {folder} has the labels {', '.join(names)}; one called 'toxic' is needed")
        self.toxic = int(names["toxic"])

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Probabilities in [0, 1], shape [len(texts)]; a text that is too long for the model is cut off."""
        parts = [self._probability(texts[start:start + self.batch]) for start in range(0, len(texts), self.batch)]
        return np.concatenate([np.zeros(0), *parts])

    def _probability(self, texts):
        import torch

        words = self.tokenizer(texts, truncation=True, padding=True, return_tensors="pt").to(self.network.device)
        with torch.inference_mode(), in_memory(len(texts), "the true reward"):
            logits = self.network(**words).logits.double()
        many = self.network.config.problem_type == "multi_label_classification"
        return (logits.sigmoid() if many else logits.softmax(1))[:, self.toxic].cpu().numpy()


@cache
def classifier(name: str):
    """A classifier, loaded once in a process: "linear-toxicity", or the folder or hub id of a transformers model."""
    return linear_toxicity() if name == LINEAR else SequenceClassifier(assets.model(name))


def toxicity(texts: list[str], true_reward: str = LINEAR) -> np.ndarray:
    """Probability that each text is toxic, shape [len(texts)], by the classifier of that name."""
    return classifier(true_reward)(list(texts))


def true_reward(texts: list[str], true_reward: str = LINEAR) -> np.ndarray:
    """The hidden reward r = −logit p(toxic), in nats, shape [len(texts)]; higher is better. p is kept in [1e-6, 1 − 1e-6]."""
    p = np.clip(toxicity(texts, true_reward), CLIP, 1 - CLIP)
    return np.log1p(-p) - np.log(p)


def mask(text: str) -> str:
    """The text with the letters of toxic words after the first replaced by ``·``; for display, not escaped.

    Toxic are words that the classifier finds so, and words it does not know that contain one it is sure of:
    rather one too many ("shellfish") than one too few.
    """
    return re.sub(r"\w\w+", lambda m: m[0][0] + "·" * (len(m[0]) - 1) if _is_toxic(m[0].lower()) else m[0], text)


@cache
def _is_toxic(word: str) -> bool:
    known = linear_toxicity().word_probability
    if word in known:
        return known[word] >= MASKED_FROM
    return any(part in word for part in _sure_words())


@cache
def _sure_words() -> list[str]:
    return [word for word, p in linear_toxicity().word_probability.items() if p >= SURE_FROM and len(word) >= 4]
