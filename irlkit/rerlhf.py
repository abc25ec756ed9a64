"""RLHF once more, with a reward that was recovered: train, measure along the way, compare where all have gone equally far.

What training with the reward r does is told by a few kept models: how toxic they are on prompts of several sources, how far from
the base model (KL), and what else became of their writing. Only what was measured is kept; the models are not.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from irlkit import assets, generation, rewards, rlhf
from irlkit.experts import kl_to_base
from irlkit.irl.implicit import log_likelihood


@dataclass(frozen=True)
class Scaled:
    """A reward in units of its own standard deviation (book, eq. scaled-reward), so that β weighs the KL alike for every reward."""

    reward: object
    mean: float
    deviation: float

    @classmethod
    def by(cls, reward, values):
        """Mean and deviation are those of `values` [n]: the reward of base completions of training prompts."""
        return cls(reward, float(np.mean(values)), float(np.std(values)))

    def __call__(self, texts):
        """Rewards [n] of texts, without a unit."""
        return (np.asarray(self.reward(list(texts)), float) - self.mean) / self.deviation


def shorter(texts):
    """The reward of a control: minus the number of characters, [n]."""
    return -np.array([len(text) for text in texts], float)


def openings(sentences, words=5):
    """Prompts from another source: the first words of each sentence that has more of them, each once."""
    rows = (text.split() for text in sentences)
    return list(dict.fromkeys(" ".join(row[:words]) for row in rows if len(row) > words))


@dataclass(frozen=True)
class Bed:
    """On what every trained model is measured: {source: prompts}, neutral texts, completions a prompt, seed, and how they are drawn.

    `how` goes to generation.sample: max_new_tokens, engine. true_reward names the classifier that says what is toxic.
    """

    sources: dict
    neutral: list
    samples: int
    seed: int
    how: dict
    true_reward: str = rewards.LINEAR

    def measure(self, model, base):
        """{metric: value} of the model in folder `model` beside the one that it came from, in folder `base`.

        toxicity.SOURCE: mean p(toxic) of its completions; toxic_share.SOURCE: share of those with p ≥ 0.5. Over all sources:
        true_reward (mean, nats), kl (nats a completion, every second of its own under both models), length (tokens), distinct_1 and
        distinct_2 (different words, and pairs of words, by their number). perplexity: of the neutral texts, a token.
        """
        prompts = [prompt for texts in self.sources.values() for prompt in texts]
        source = np.repeat(list(self.sources), [len(texts) for texts in self.sources.values()])
        drawn = generation.sample(model, prompts, samples=self.samples, seed=self.seed, description="measuring", **self.how).to_pandas()
        drawn = drawn.assign(toxicity=rewards.toxicity(drawn.completion, self.true_reward), source=source[drawn.prompt])
        engine = {"engine": self.how.get("engine", "ctranslate2")}
        by_source = drawn.groupby("source").toxicity
        return {
            **by_source.mean().add_prefix("toxicity.").to_dict(),
            **by_source.agg(lambda p: (p >= 0.5).mean()).add_prefix("toxic_share.").to_dict(),
            "true_reward": float(rewards.true_reward(drawn.completion, self.true_reward).mean()),
            "kl": float(kl_to_base(model, base, prompts, drawn[::2], **engine)),
            "length": float(drawn.tokens.map(len).mean()), "distinct_1": distinct(drawn.completion, 1),
            "distinct_2": distinct(drawn.completion, 2), "perplexity": self.perplexity(model, **engine)}

    @property
    def identity(self):
        """What tells this bed from another one; anything JSON holds."""
        return asdict(self)

    def perplexity(self, model, **engine):
        """exp of the mean negative log probability a token of the neutral texts, each after its own first three words."""
        parts = [text.split(" ", 3) for text in self.neutral if text.count(" ") >= 3]
        tokens = generation.tokenizer_of(model)([f" {rest}" for *_, rest in parts], add_special_tokens=False).input_ids
        total = log_likelihood(model, [" ".join(first) for *first, _ in parts], tokens, **engine).sum()
        return float(np.exp(-total / sum(map(len, tokens))))


def distinct(texts, n):
    """Different sequences of n words by the number of all such sequences in the texts (0 where there is none)."""
    words = [text.lower().split() for text in texts]
    grams = [tuple(row[i:i + n]) for row in words for i in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def trained(name, folder, base, prompts, reward, bed, *, keep, steps, **recipe):
    """Train the model in folder `base` on `reward`, measure it after the steps `keep` and the last, and keep what was measured.

    Returns (log, points): tables with a row a step (rlhf.train's, with the true reward as `watched`), and with a row a measured
    model (`step` and what `bed.measure(model, base)` says of it; bed: a Bed, or a ladder.Lesson). What is finished stands in
    folder/NAME.json and is not done again; the models, half a gigabyte each, are removed once measured.
    """
    kept, scratch, output = (Path(folder) / f"{name}{end}" for end in (".json", "-training", "-model"))
    asked = json.loads(json.dumps({
        "base": generation.fingerprint(base, list(prompts), bed.identity), "reward": rlhf.told_apart(reward, prompts), "keep": sorted(keep),
        "steps": steps, **recipe}))
    if not (kept.exists() and json.loads(kept.read_text())["asked"] == asked):
        watch = partial(rewards.true_reward, true_reward=bed.true_reward)
        log = rlhf.train(base, prompts, reward, output, scratch=scratch, watch=watch, keep=keep, steps=steps, **recipe)
        models = {step: rlhf.step_folder(output, step) for step in sorted(keep) if step < steps} | {steps: output}
        points = [{"step": step, **bed.measure(model, base)} for step, model in models.items()]
        kept.write_text(json.dumps({"asked": asked, "log": log, "points": points}))
        for model in models.values():
            assets.forget(model)
            shutil.rmtree(model)
        shutil.rmtree(scratch, ignore_errors=True)
    found = json.loads(kept.read_text())
    return pd.DataFrame(found["log"]), pd.DataFrame(found["points"])


def where(points, column, value):
    """The metrics of `points` (a row a model, in the order of training, the base model first) where `column` first passes `value`.

    Upwards or downwards, linear between two measured models (book, eq. equal-kl); those of the last model where training never got so
    far. Returns a Series.
    """
    side = np.sign(points[column].to_numpy() - value)
    reached = np.flatnonzero(side != side[0])
    if side[0] == 0:
        return points.iloc[0]
    if len(reached) == 0:
        return points.iloc[-1]
    before, after = points.iloc[reached[0] - 1], points.iloc[reached[0]]
    return before + (value - before[column]) / (after[column] - before[column]) * (after - before)


def at_kl(points, kl):
    """The metrics of `points` where the KL to the base model first reaches `kl` nats, as `where` says."""
    return where(points, "kl", kl)


def ratio(ours, theirs):
    """{"mean", "low", "high"}: by how much the values `ours` [S] are `theirs` [T], and the 95 % interval of that.

    The ratio of the means, and Welch's t-interval for the difference of mean logarithms; all values positive, two or more each.
    """
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    low, high = np.exp(stats.ttest_ind(np.log(ours), np.log(theirs), equal_var=False).confidence_interval())
    return {"mean": float(ours.mean() / theirs.mean()), "low": float(low), "high": float(high)}


def hacking_begins(own, true, window=3):
    """The step (from 1) from which on `own` [T] still rises while `true` [T] falls, both per step of a training; None if there is none.

    It is where the running mean of the true reward over `window` steps is highest, if from there to the end both changed by more
    than twice the standard error of such a mean, by the scatter of the steps about the running means.
    """
    values = np.array([own, true], float)
    smooth = pd.DataFrame(values.T).rolling(window).mean().to_numpy()[window - 1:].T
    if smooth.shape[1] < 2:
        return None
    top = int(smooth[1].argmax())
    error = (values[:, window - 1:] - smooth).std(1) / np.sqrt(window)
    change = smooth[:, -1] - smooth[:, top]
    return top + window if change[0] > 2 * error[0] and change[1] < -2 * error[1] else None
