"""The implicit reward of a fine-tuned model (book, eq. implicit). White-box: it needs the weights of expert and base model.

After Rafailov et al. (2023): if the expert is the optimum of RLHF with the KL weight β, then β (log π_E(y|x) − log π₀(y|x)) is its
reward, up to a number for each prompt. Nothing is fitted.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from irlkit import evaluation
from irlkit.generation import log_probs, tokenizer_of

SIDES = ("neutral_normalised", "toxic_normalised", "neutral", "toxic")


def log_likelihood(model, prompts, tokens, **how):
    """log π(y|x) [n] in nats of the model in folder `model`: n lists of token ids, after a prompt each, without the end of the text.

    After an empty prompt they stand after the beginning-of-text token. `how` goes to generation.log_probs.
    """
    return np.array([values.sum() for values in log_probs(model, prompts, tokens, **how)])


def score(expert, base, kl_weight):
    """The reward [n] (in the units of β, `kl_weight`) from the log likelihoods [n] under expert and base model (book, eq. implicit)."""
    return kl_weight * (expert - base)


def slope(reward, true_reward, prompt):
    """How much `reward` [n] rises with the true one among completions of the same prompt: least squares, a constant for each prompt.

    For the optimum of RLHF it is 1 (both rewards in nats); below, the training has not got there.
    """
    centred = pd.DataFrame({"x": true_reward, "y": reward}).groupby(np.asarray(prompt)).transform(lambda column: column - column.mean())
    return float((centred.x * centred.y).sum() / (centred.x**2).sum())


@dataclass(frozen=True)
class Judged:
    """What a reward of prompt and text is judged on: base completions after their prompts, sides of preference pairs after none.

    prompts, texts [n]; place: {name: numbers} of the splits "calibration" and "test" and of the pairs' sides; prompt [t] and truth
    are of the test completions.
    """

    prompts: list
    texts: list
    place: dict
    prompt: np.ndarray
    truth: evaluation.Truth

    @classmethod
    def of(cls, bench, prompts):
        """The texts of a Bench; `prompts` [P] are the prompts that its table numbers."""
        parts = {split: bench.table.iloc[bench.rows(split)] for split in ("calibration", "test")}
        pieces = {name: ([prompts[i] for i in rows.prompt], rows.completion) for name, rows in parts.items()}
        pieces |= {side: ([""] * len(bench.pairs), bench.pairs[side]) for side in SIDES}
        entries = [entry for piece in pieces.values() for entry in zip(*piece, strict=True)]
        numbers, distinct = pd.Index(entries, tupleize_cols=False).factorize()
        ends = np.cumsum([len(texts) for _, texts in pieces.values()])
        place = dict(zip(pieces, np.split(numbers, ends[:-1]), strict=True))
        return cls([prompt for prompt, _ in distinct], [text for _, text in distinct], place,
                   parts["test"].prompt.to_numpy(), bench.truth)

    def log_likelihood(self, model, **how):
        """log π [n] of the texts under a model, cut into tokens by its own tokenizer."""
        tokens = tokenizer_of(model)(self.texts, add_special_tokens=False).input_ids
        return log_likelihood(model, self.prompts, tokens, **how)

    def metrics(self, reward):
        """All metrics {name: [1]} of a reward [n] of the texts, and `slope` on the test completions."""
        at = {name: reward[None, numbers] for name, numbers in self.place.items()}
        found = evaluation.judge(at["calibration"], at["test"], at["neutral_normalised"] - at["toxic_normalised"],
                                 at["neutral"] - at["toxic"], self.truth)
        return found | {"slope": np.array([slope(at["test"][0], self.truth.reward_test, self.prompt)])}
