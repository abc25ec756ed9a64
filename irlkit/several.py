"""RLHF on several GPUs: N processes of `accelerate launch` run the function that one would, each with its share of a step's completions.

A notebook that has used a GPU cannot be split into processes any more (accelerate's notebook_launcher refuses), and a function that was
made in it cannot be handed over. So the call is written down in a file, with each reward as what it is made of; the processes read that.
"""

import importlib
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch

from irlkit.parameters import ParameterError

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
          "--main_process_port", "0", "--multi_gpu"]  # which on a machine without a GPU means several processes of the CPU


def optimise(processes, model, prompts, rewards, output, scratch, **how):
    """`rlhf.optimise` in several processes. ParameterError for a reward that cannot be written down, or with a process's own last words."""
    scratch = Path(scratch)
    described = {name: describe(reward, scratch / "rewards" / name) for name, reward in rewards.items()}
    call, log = scratch / "call.json", scratch / "log.json"
    log.unlink(missing_ok=True)
    asked = {"model": model, "prompts": prompts, "rewards": described, "output": output, "scratch": str(scratch), **how}
    call.write_text(json.dumps(asked))
    command = [*LAUNCH, "--num_processes", str(processes), "-m", "irlkit.several", str(call), str(log)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode or not log.exists():
        lines = done.stderr.strip().splitlines()
        said = [line for line in lines if line.startswith("error: ")] or lines[-1:] or ["nothing was said"]
        raise ParameterError(f"RLHF in {processes} processes ended early: {said[0].removeprefix('error: ')}")
    return json.loads(log.read_text())


def describe(reward, folder):
    """What a reward is made of, for JSON; its arrays are written to `folder`. ParameterError for one that was made in a notebook."""
    if hasattr(reward, "save_pretrained"):
        reward.save_pretrained(folder)
        return {"load": _name(type(reward)), "folder": str(folder)}
    if isinstance(reward, partial) and not reward.args:
        return {"function": _name(reward.func), "with": reward.keywords}
    if hasattr(reward, "deviation"):
        inner = describe(reward.reward, folder)
        return {"scaled": _name(type(reward)), "reward": inner, "mean": reward.mean, "deviation": reward.deviation}
    return {"function": _name(reward), "with": {}}


def rebuild(described):
    """The reward that `describe` wrote down."""
    if "load" in described:
        return _named(described["load"]).from_pretrained(described["folder"])
    if "scaled" in described:
        return _named(described["scaled"])(rebuild(described["reward"]), described["mean"], described["deviation"])
    return partial(_named(described["function"]), **described["with"])


def _name(thing):
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "")
    if module in (None, "__main__") or not name.isidentifier():
        raise ParameterError(f"reward: {thing!r} cannot be handed to several processes; put it into a module, or use one process")
    return f"{module}:{name}"


def _named(name):
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def main(call, log):
    """One of the processes: 0, or 1 with a one-sentence error. The first one writes the log, rows of JSON."""
    from irlkit import rlhf

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    asked = json.loads(Path(call).read_text())
    asked["rewards"] = {name: rebuild(described) for name, described in asked["rewards"].items()}
    try:
        rows = rlhf.optimise(**asked)
    except ParameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if os.environ["RANK"] == "0":
        Path(log).write_text(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
