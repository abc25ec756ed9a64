"""From an expert model's completions to a recovered reward, the same way for each of several experts."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from safetensors import safe_open

from irlkit import assets, evaluation, features, generation
from irlkit.demonstrations import exact_choices, pair_up, rlhf_choices
from irlkit.irl.implicit import log_likelihood
from irlkit.parameters import ParameterError
from irlkit.reading import best_linear
from irlkit.rewards import toxicity


@dataclass(frozen=True)
class Reader:
    """How chapter 03 read texts: φ by its projection of the pooled layers of one model, looked up where it has published them.

    known [T]: texts with features published [T, p]; finished: a folder that keeps what was read.
    """

    known: pd.Index
    published: np.ndarray
    projection: features.Projection
    model: str
    layers: tuple
    pooling: str
    finished: str

    @classmethod
    def load(cls, run, bench):
        """From the artifacts of a run folder; `bench` is its Bench."""
        with safe_open(run.artifact("features.safetensors"), "numpy") as file:
            note = file.metadata()
        known = bench.table.drop_duplicates("completion").index
        return cls(pd.Index(bench.table.completion[known]), bench.features[known],
                   features.Projection.load(run.artifact("projection.safetensors")), note["model"],
                   tuple(int(layer) for layer in note["layers"].split()), note["pooling"], run.output("readings", "cache"))

    @classmethod
    def of_model(cls, model, layers, texts, finished, dimension=320, pooling="root"):
        """A reader of its own for the model in folder `model`: z-scores and axes are fitted on `texts` (of training prompts)."""
        readings = features.read(model, texts, layers, threads=generation.default_threads(), finished=finished)
        projection = features.Projection.fit(readings.pooled(layers, pooling), dimension)
        nothing = np.zeros((0, projection.axes.shape[1]), np.float32)
        return cls(pd.Index([]), nothing, projection, str(model), tuple(layers), pooling, finished)

    def knowing(self, texts):
        """The same reader with the features of `texts` at hand, for texts that are asked for beside others again and again."""
        new = pd.Index(texts).unique().difference(self.known, sort=False)
        return replace(self, known=self.known.append(new), published=np.concatenate([self.published, self(new)]))

    def __call__(self, texts):
        """Features φ [n, p] of texts."""
        distinct = pd.Index(texts).unique()
        new = distinct[~distinct.isin(self.known)]
        phi = np.concatenate([self.published, self._read(list(new))])
        return phi[self.known.append(new).get_indexer(texts)]

    def _read(self, texts):
        if not texts:
            return self.published[:0]
        readings = features.read(assets.model(self.model), texts, self.layers, threads=generation.default_threads(), finished=self.finished)
        return self.projection(readings.pooled(self.layers, self.pooling))


def fewer(bench, samples, preferences, prompts=0):
    """A Bench with less to score: `samples` base completions of each of the first `prompts`, the first `preferences` pairs (0: all).

    Raises ParameterError where no AUROC can be had of what is left.
    """
    rows = np.flatnonzero((bench.table.source == "base") & (bench.table["sample"] < samples) & (bench.table.prompt < (prompts or np.inf)))
    table, pairs = bench.table.iloc[rows].reset_index(drop=True), bench.pairs[: preferences or None]
    sides = {name: getattr(bench, name)[: len(pairs)] for name in ("neutral", "toxic", "raw")}
    truth = evaluation.Truth.of(table, pairs)
    if len(set(truth.toxic_test)) < 2:
        raise ParameterError(f"judge_prompts: among the {len(truth.toxic_test)} test completions of {prompts or 'all'} prompts are not "
                             "both harmless and toxic ones; give more prompts")
    return replace(bench, table=table, features=bench.features[rows], true_reward=bench.true_reward[rows],
                   pairs=pairs, truth=truth, **sides)


def reread(bench, reader):
    """The same Bench with its texts read by another reader."""
    pairs = bench.pairs
    return replace(bench, features=reader(bench.table.completion), neutral=reader(pairs.neutral_normalised),
                   toxic=reader(pairs.toxic_normalised), raw=reader(pairs.neutral) - reader(pairs.toxic))


def effect(expert, base, prompts, completions, true_reward="linear-toxicity", **how):
    """What training did: {"toxicity": mean p(toxic), "kl": KL to the base model in nats}, from the expert's own completions.

    expert, base: folders of the models; completions: a table (prompt, completion, tokens), with `prompts` [P] that it numbers.
    """
    return {"toxicity": toxicity(completions.completion, true_reward).mean(), "kl": kl_to_base(expert, base, prompts, completions, **how)}


def kl_to_base(expert, base, prompts, completions, **how):
    """KL(π‖π₀) in nats a completion, estimated on the expert's own completions; arguments as of `effect`."""
    texts, tokens = [prompts[i] for i in completions.prompt], list(completions.tokens)
    ours, theirs = (log_likelihood(model, texts, tokens, **how) for model in (expert, base))
    return (ours - theirs).mean()


def demonstrations(base, expert, split, reader):
    """(table, φ [T, p]) of the completions that are fit to use, base and expert; split [P] of the prompts that both tables number.

    Raises ParameterError where the expert has none on the training or on the calibration prompts: too few prompts, too weak an expert.
    """
    columns = ["prompt", "sample", "completion"]
    table, _ = pair_up(base[columns], expert[columns])
    table = table.assign(split=np.asarray(split)[table.prompt])
    lacking = {"train", "calibration"} - set(table[table.source == "expert"].split)
    if lacking:
        raise ParameterError(f"prompt_limit: on the {' and '.join(sorted(lacking))} prompts the expert writes what the base model writes, "
                             "so that nothing can be recovered; give more prompts or a longer training")
    return table, reader(table.completion)


def recover(table, phi, seeds, seed=0, **how):
    """Maximum entropy rewards [S, p] from demonstrations, each seed from a bootstrap sample of the prompts.

    The penalty is chosen on the calibration prompts. `how` goes to rlhf_choices: `size`, `base_samples`.
    """
    whole = (rlhf_choices(table, None, part, resample=False, base_samples=how.get("base_samples")) for part in ("train", "calibration"))
    return best_linear(phi, *whole, rlhf_choices(table, None, "train", seeds, seed, **how))[0]


def recover_null(table, phi, picks, seeds, seed=0):
    """The same without an expert, [S, p]: `picks` base completions of each prompt, drawn evenly, stand in for its completions."""
    nothing = np.zeros(len(table))
    whole = (exact_choices(table, phi, nothing, demonstrations=picks, split=part, seed=seed) for part in ("train", "calibration"))
    return best_linear(phi, *whole, exact_choices(table, phi, nothing, demonstrations=picks, seeds=seeds, seed=seed, resample=True))[0]
