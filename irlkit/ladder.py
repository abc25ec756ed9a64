"""A ladder of model sizes in one family: a model with fewer of its blocks, fitted again to what the whole one writes.

The blocks in the middle are left out: the first ones know the tokens, the last ones the output layer. Fitting the small model to samples
of the whole one by cross-entropy makes it a language model again (book, eq. distillation; Kim and Rush, 2016).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import statsmodels.api as sm
import torch
from sklearn.linear_model import RidgeCV
from transformers import AutoConfig, AutoModelForCausalLM, DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

from irlkit import experts
from irlkit.demonstrations import exact_choices
from irlkit.evaluation import pair_wins
from irlkit.features import cut
from irlkit.generation import default_threads, fingerprint, log_probs, named_blocks, sample, tokenizer_of
from irlkit.parameters import ParameterError
from irlkit.reading import best_linear
from irlkit.rlhf import Progress


def rung(model, blocks, prompts, tokens, output, *, epochs=1.0, learning_rate=1e-3, batch=16, seed=0, threads=None):
    """The model in folder `model` with `blocks` of its blocks (as `shortened`), fitted again, as a folder; for all its own folder.

    `prompts` and `tokens` (lists of ids, without the end) are completions by the whole model, on which the blocks and the last norm are
    fitted; the output layer, which may be shared with the embeddings, stays. Done once: the same call again returns `output` as it is.
    Raises ParameterError for a number of blocks that the model does not have.
    """
    count = AutoConfig.from_pretrained(model).num_hidden_layers
    if not 1 <= blocks <= count:
        raise ParameterError(f"sizes: {blocks} blocks asked for; the model has 1 to {count}")
    if blocks == count:
        return Path(model)
    prompts, tokens = list(prompts), [[int(token) for token in own] for own in tokens]
    asked = [fingerprint(model, prompts, tokens), blocks, epochs, learning_rate, batch, seed]
    note = Path(output) / "rung.json"
    if not (note.exists() and json.loads(note.read_text()) == asked):
        torch.set_num_threads(threads or default_threads())
        network = shortened(model, blocks)
        _fit(network, model, prompts, tokens, epochs, learning_rate, batch, seed, output)
        network.save_pretrained(output)
        tokenizer_of(model).save_pretrained(output)
        note.write_text(json.dumps(asked))
    return Path(output)


def shortened(model, blocks):
    """The network in folder `model` with its first ⌈`blocks`/2⌉ and its last ⌊`blocks`/2⌋ blocks."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    _, own = named_blocks(network)
    kept = [*range(-(-blocks // 2)), *range(len(own) - blocks // 2, len(own))]
    for place, number in enumerate(kept):
        own[place] = own[number]
        for module in own[place].modules():
            if hasattr(module, "layer_idx"):  # its place in the cache of keys and values
                module.layer_idx = place
    cut(network, [blocks])
    network.config.num_hidden_layers = blocks
    if getattr(network.config, "layer_types", None):
        network.config.layer_types = [network.config.layer_types[number] for number in kept]
    return network


def parameters(model):
    """Number of parameters of the model in folder `model`; shared ones count once."""
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    return sum(weights.numel() for weights in {id(weights): weights for weights in network.parameters()}.values())


def loss(model, prompts, tokens, **how):
    """Cross-entropy in nats a token of completions `tokens` (lists of ids) after their prompts under the model in folder `model`."""
    scored = log_probs(model, prompts, tokens, **how)
    return float(-np.concatenate(scored).mean())


@dataclass(frozen=True)
class Lesson:
    """What is recovered from a trained model, by several readers; the `bed` of rerlhf.trained.

    base: table (prompt, sample, completion) of the base model's completions of `prompts` [P], with their `split` [P]; readers:
    {name: (experts.Reader, the Bench on which its rewards are judged)}; samples: completions a prompt of the trained model; seeds:
    rewards recovered by each reader. `how` goes to generation.sample.
    """

    base: pd.DataFrame
    prompts: list
    split: np.ndarray
    readers: dict
    samples: int
    seeds: int
    seed: int
    how: dict
    true_reward: str

    @property
    def identity(self):
        readers = {name: [reader.model, reader.layers, len(judge.table), len(judge.pairs)]
                   for name, (reader, judge) in self.readers.items()}
        return [list(self.base.completion), self.prompts, readers, self.samples, self.seeds, self.seed, self.how]

    def measure(self, model, base):
        """{metric: value} of the model in folder `model`, trained from that in `base`.

        toxicity and kl on its test prompts (experts.effect); and of each reader's rewards READER.METRIC, the median over seeds, with
        READER.METRIC.p5 and .p95.
        """
        shown = sample(model, self.prompts, samples=self.samples, seed=self.seed, description="completions", **self.how).to_pandas()
        tested = shown[self.split[shown.prompt] == "test"]
        found = experts.effect(model, base, self.prompts, tested, self.true_reward, engine=self.how["engine"])
        return found | self.recovered(
            lambda reader: experts.recover(*experts.demonstrations(self.base, shown, self.split, reader), self.seeds, self.seed))

    def recovered(self, weights_of):
        """{READER.METRIC: median, …} of the rewards `weights_of(reader)` [S, p] of each reader."""
        found = {}
        for name, (reader, judge) in self.readers.items():
            for metric, values in judge.metrics(weights_of(reader)).items():
                low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
                found |= {f"{name}.{metric}": middle, f"{name}.{metric}.p5": low, f"{name}.{metric}.p95": high}
        return {key: float(value) for key, value in found.items()}

    def ceilings(self):
        """The same of the best linear reward that can be fitted to the true reward, on the judges' training texts; no seeds."""
        found = {}
        for name, (_, judge) in self.readers.items():
            rows = judge.rows("train")
            weights = RidgeCV(np.logspace(-3, 3, 13)).fit(judge.features[rows], judge.true_reward[rows]).coef_[None].astype(np.float32)
            found |= {f"{name}.{metric}": float(value[0]) for metric, value in judge.metrics(weights).items()}
        return found

    def exact(self, reward, beta=2.0, picks=4):
        """The same of an exact expert's picks among the base completions, with their rewards `reward` [n] (nats)."""
        table = self.base.assign(source="base", split=self.split[self.base.prompt])

        def weights(reader):
            phi = reader(table.completion)
            return best_linear(phi, *(exact_choices(table, phi, reward, beta, picks, part, seeds, self.seed)
                                      for part, seeds in (("train", 1), ("calibration", 1), ("train", self.seeds))))[0]

        return self.recovered(weights)


def _fit(network, model, prompts, tokens, epochs, learning_rate, batch, seed, output):
    network.requires_grad_(False)
    _, blocks = named_blocks(network)
    norms = [module for name, module in network.base_model.named_children() if "norm" in name]
    for part in [*blocks, *norms]:
        part.requires_grad_(True)
    tokenizer = tokenizer_of(model)
    trainer = Trainer(
        network, data_collator=DataCollatorForSeq2Seq(tokenizer), train_dataset=_examples(tokenizer, prompts, tokens),
        args=TrainingArguments(
            output_dir=f"{output}-training", num_train_epochs=epochs, per_device_train_batch_size=batch, learning_rate=learning_rate,
            lr_scheduler_type="linear", train_sampling_strategy="group_by_length", seed=seed, save_strategy="no",
            report_to=[], disable_tqdm=True, use_cpu=not torch.cuda.is_available()))
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress(description="distilling"))
    trainer.train()


def _examples(tokenizer, prompts, tokens):
    """Token ids with labels that ask for the completion alone (−100 elsewhere)."""
    starts = tokenizer(list(prompts)).input_ids
    return datasets.Dataset.from_list([
        {"input_ids": [*start, *own], "labels": [-100] * len(start) + list(own), "length": len(start) + len(own)}
        for start, own in zip(starts, tokens, strict=True)])


def size_effect(blocks, values):
    """Ordinary least squares of `values` [n] on log2 of `blocks` [n]: {"slope", "low", "high"}, with its 95 % interval."""
    fit = sm.OLS(np.asarray(values, float), sm.add_constant(np.log2(np.asarray(blocks, float)))).fit()
    low, high = fit.conf_int()[1]
    return {"slope": float(fit.params[1]), "low": float(low), "high": float(high)}


def two_runs_say(smaller, larger):
    """Share of all pairs, one run of each size, in which the smaller model's value is the higher one; a tie counts half."""
    return float(pair_wins(np.asarray(smaller)[:, None], np.asarray(larger)[None]).mean())
