"""A ladder of model sizes in one family: a model with fewer of its blocks, fitted again to what the whole one writes.

Cutting blocks off leaves the output layer with states that it has never seen; fitting the small model to samples of the whole one by
cross-entropy makes it a language model again. Samples at temperature 1 make that loss the KL divergence from the whole model, up to
a constant (distillation by samples; Kim and Rush, 2016).
"""

import json
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

from irlkit.features import cut
from irlkit.generation import default_threads, fingerprint, log_probs, tokenizer_of
from irlkit.parameters import ParameterError
from irlkit.rlhf import Progress


def rung(model, blocks, prompts, tokens, output, *, epochs=1.0, learning_rate=1e-3, trained_blocks=3, batch=16, seed=0, threads=None):
    """The model in folder `model` with its first `blocks` blocks, fitted again, as a folder; the model's own folder for all its blocks.

    `prompts` and `tokens` (lists of ids, without the end) are completions by the whole model, on which the highest `trained_blocks`
    blocks and the last norm are fitted; the output layer is shared with the embeddings and stays. Done once: the same
    call again returns `output` as it is. Raises ParameterError for a number of blocks that the model does not have.
    """
    count = AutoConfig.from_pretrained(model).num_hidden_layers
    if not 1 <= blocks <= count:
        raise ParameterError(f"sizes: {blocks} blocks asked for; the model has 1 to {count}")
    if blocks == count:
        return Path(model)
    prompts, tokens = list(prompts), [[int(token) for token in own] for own in tokens]
    asked = [fingerprint(model, prompts, tokens), blocks, epochs, learning_rate, trained_blocks, batch, seed]
    note = Path(output) / "rung.json"
    if not (note.exists() and json.loads(note.read_text()) == asked):
        torch.set_num_threads(threads or default_threads())
        network = shortened(model, blocks)
        _fit(network, model, prompts, tokens, epochs, learning_rate, trained_blocks, batch, seed, output)
        network.save_pretrained(output)
        tokenizer_of(model).save_pretrained(output)
        note.write_text(json.dumps(asked))
    return Path(output)


def shortened(model, blocks):
    """The network in folder `model` with its first `blocks` blocks alone."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    cut(network, [blocks])
    network.config.num_hidden_layers = blocks
    if getattr(network.config, "layer_types", None):
        network.config.layer_types = network.config.layer_types[:blocks]
    return network


def loss(model, prompts, tokens, **how):
    """Cross-entropy in nats a token of completions `tokens` (lists of ids) after their prompts under the model in folder `model`."""
    scored = log_probs(model, prompts, tokens, **how)
    return float(-np.concatenate(scored).mean())


def _fit(network, model, prompts, tokens, epochs, learning_rate, trained_blocks, batch, seed, output):
    network.requires_grad_(False)
    base = network.base_model
    blocks = next(module for module in base.modules() if isinstance(module, torch.nn.ModuleList))
    for part in [*blocks[-trained_blocks:], *[module for name, module in base.named_children() if "norm" in name]]:
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
