"""RLHF with TRL's RLOO trainer and any reward of ours (book, equations of the objective and of its gradient).

RLOO (Ahmadian et al., 2024) draws several completions of a prompt; each is held against the mean reward of the others.
The reward is r(y) − β log(π(y|x) / π₀(y|x)), with the KL taken over the whole completion.
"""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import datasets
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import RLOOConfig, RLOOTrainer

from irlkit import several
from irlkit.generation import checked_ids, default_threads, named_blocks, tokenizer_of
from irlkit.machine import at_once, has_bfloat16, in_memory
from irlkit.parameters import ParameterError
from irlkit.progress import bar

LOGGED = ("step", "reward", "seconds", "kl", "length")


class Trainer(RLOOTrainer):
    """TRL's trainer with log probabilities of the completion's tokens alone.

    On a CPU, TRL 1.16 runs the output layer over the prompt's positions as well and in float chunks: with 49,152 words
    in the vocabulary that took 44 % of a step. The entropy of each position is left out (logged as 0).
    """

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        logits = model(input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=logits_to_keep + 1,
                       use_cache=False).logits[:, :-1] / self.temperature
        targets = input_ids[:, -logits_to_keep:]
        log_probs = -F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        return log_probs, torch.zeros_like(log_probs), None


def train(model, prompts, reward, output, *, steps, scratch, watch=None, learning_rate=1e-4, kl_weight=0.3, batch=64, group=4,
          max_new_tokens=24, frozen_blocks=0, keep=(), save_every=5, seed=0, threads=None, processes=None):
    """Fine-tune the model in folder `model` on `reward` and save it to the folder `output`; returns the log, a row a step.

    `reward(texts) -> [n]` sees the completions; another such function, `watch`, is only logged: its mean over a step's completions
    is the row's `watched`. A step draws `batch` completions, `group` for each prompt.
    `kl_weight` is β, in units of reward per nat. `frozen_blocks` lowest blocks (and then the embeddings) are not
    trained (ParameterError if that is all of them). The model after each of the steps `keep` is saved as well, to the folder
    `step_folder(output, step)`. A checkpoint is kept in `scratch` every `save_every` steps: the same
    call goes on from the last one, one with other parameters begins anew, one with more steps trains on, and one that is
    finished is not run again. On several GPUs, or with several `processes`, each process draws its share of a step's completions
    (module `several`); which GPUs are used is what CUDA_VISIBLE_DEVICES says.
    Raises ParameterError where there are fewer prompts than a step needs (TRL would take no step and say nothing), where a step cannot
    be shared out evenly, and where memory runs out, with what to try.
    """
    processes = max(1, torch.cuda.device_count()) if processes is None else processes
    if batch % processes:
        raise ParameterError(f"batch: {batch} completions a step cannot be shared out evenly over {processes} processes, one for each GPU")
    if len(prompts) * group < batch:
        raise ParameterError(f"batch: {batch} completions, {group} of each prompt, need {batch // group} training prompts; "
                             f"there are {len(prompts)}")
    asked = {"model": str(model), "prompts": list(prompts), "learning_rate": learning_rate,
             "kl_weight": kl_weight, "batch": batch, "group": group, "max_new_tokens": max_new_tokens,
             "frozen_blocks": frozen_blocks, "keep": sorted(keep), "seed": seed, "reward": told_apart(reward, prompts)}
    finished = Path(output) / "training.json"
    if finished.exists() and (done := json.loads(finished.read_text()))["asked"] == asked | {"steps": steps}:
        return done["log"]
    checked_ids(model, tokenizer_of(model), prompts)
    rewards = {"score": reward} | ({"watched": watch} if watch else {})
    how = {"steps": steps, "learning_rate": learning_rate, "kl_weight": kl_weight, "batch": batch, "group": group,
           "max_new_tokens": max_new_tokens, "frozen_blocks": frozen_blocks, "keep": list(keep), "save_every": save_every, "seed": seed,
           "threads": threads or default_threads(), "checkpoint": _checkpoint(Path(scratch), asked)}
    run = optimise if processes == 1 else partial(several.optimise, processes)
    log = run(str(model), list(prompts), rewards, str(output), str(scratch), **how)
    finished.write_text(json.dumps({"asked": asked | {"steps": steps}, "log": log}))
    return log


def optimise(model, prompts, rewards, output, scratch, *, steps, learning_rate, kl_weight, batch, group, max_new_tokens, frozen_blocks,
             keep, save_every, seed, threads, checkpoint):
    """What `train` does once all is checked, from a checkpoint (or None) on: in one process, or in each of several. Returns the log.

    rewards: {name: reward}; the first one is trained on, others are only logged.
    """
    torch.set_num_threads(threads)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    _freeze(network, frozen_blocks)
    share = batch // int(os.environ.get("WORLD_SIZE", 1))
    part = max(size for size in range(1, at_once(share) + 1) if share % size == 0)
    trainer = Trainer(
        model=network, reward_funcs=[_as_trl(reward, name) for name, reward in rewards.items()], processing_class=tokenizer_of(model),
        train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
        args=RLOOConfig(
            output_dir=scratch, max_steps=steps, learning_rate=learning_rate, lr_scheduler_type="constant",
            beta=kl_weight, per_device_train_batch_size=part, gradient_accumulation_steps=share // part, num_generations=group,
            temperature=1.0, seed=seed,
            max_completion_length=max_new_tokens, logging_steps=1, save_steps=save_every, save_total_limit=1,
            reward_weights=[1.0, 0.0][:len(rewards)], report_to=[], disable_dropout=True, gradient_checkpointing=False,
            bf16=has_bfloat16(), use_cpu=not torch.cuda.is_available(), disable_tqdm=True))
    trainer.remove_callback(PrinterCallback)
    if trainer.is_world_process_zero():
        trainer.add_callback(Progress())
    trainer.add_callback(_Keep(trainer, keep, output))
    with in_memory(part, "RLHF"):
        trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(output)
    return [_row(entry) for entry in trainer.state.log_history if "reward" in entry]


class Progress(TrainerCallback):
    """One bar over the steps, begun where a resumed run goes on."""

    def __init__(self, description="RLHF"):
        self.description = description

    def on_train_begin(self, args, state, control, **_):
        self.bar = bar(total=state.max_steps, description=self.description, unit="step")
        self.bar.update(state.global_step)

    def on_step_end(self, args, state, control, **_):
        self.bar.update(state.global_step - self.bar.n)


class _Keep(TrainerCallback):
    """Saves the model, as it is then, after some of the steps."""

    def __init__(self, trainer, steps, output):
        self.trainer, self.steps, self.output = trainer, steps, output

    def on_step_end(self, args, state, control, **_):
        if state.global_step in self.steps:
            self.trainer.save_model(str(step_folder(self.output, state.global_step)))


def step_folder(output, step):
    """Where `train` keeps the model after a step: beside its output."""
    return Path(f"{output}-step{step}")


def _checkpoint(scratch, asked):
    """The last checkpoint in `scratch` that was made with the same parameters, or None (and an empty folder)."""
    note = scratch / "asked.json"
    text = json.dumps(asked, sort_keys=True)
    if note.exists() and note.read_text() == text:
        return get_last_checkpoint(str(scratch))
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    note.write_text(text)
    return None


def _freeze(network, blocks):
    count = network.config.num_hidden_layers
    if blocks >= count:
        raise ParameterError(f"frozen_blocks: {blocks} would leave nothing to train; the model has {count} blocks")
    if blocks:
        _, layers = named_blocks(network)
        for part in (network.get_input_embeddings(), *layers[:blocks]):
            part.requires_grad_(False)


def _as_trl(reward, name):
    """The reward as TRL calls it and names it in its log."""
    def score(completions, **_):
        return [float(value) for value in reward(completions)]
    score.__name__ = name
    return score


def told_apart(reward, prompts):
    """What tells a reward from another one: its values on a few texts, rounded."""
    return [round(float(value), 3) for value in reward(list(prompts[:8]))]


def _row(entry):
    """One step's figures: mean rewards, and the KL per completion in nats (TRL logs it per token; not at all where β is 0)."""
    kl = entry.get("kl", float("nan")) * entry["completions/mean_length"]
    watched = {"watched": entry["rewards/watched/mean"]} if "rewards/watched/mean" in entry else {}
    return {"step": entry["step"], "reward": entry["rewards/score/mean"], "seconds": entry["step_time"],
            "kl": kl, "length": entry["completions/mean_length"]} | watched
