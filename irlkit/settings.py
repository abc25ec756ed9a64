"""What each notebook can be asked for: typed, range-checked; an unknown name or a bad value fails before any work.

``python -m irlkit.settings check NN-name params.json`` checks a file of parameters without running a notebook.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from irlkit import assets


class ParameterError(ValueError):
    """A parameter is unknown or its value is not allowed; the message is one sentence."""


def _model(name: str) -> str:
    """A model that can be loaded at once; a Hub id is only looked at, not fetched."""
    if not _is_hub_id(name):
        assets.model(name)
    return name


def _prompts(name: str) -> str:
    """Prompts that can be read: a name, a file that is UTF-8 and not empty, a data set's folder or Hub id."""
    if not _is_hub_id(name):
        assets.prompts(name)
    return name


def _preferences(name: str) -> str:
    if not _is_hub_id(name):
        assets.preferences(name)
    return name


def _is_hub_id(name: str) -> bool:
    is_file_name = Path(name).suffix in (".txt", ".jsonl", ".tsv")
    return bool(assets.HUB_ID.fullmatch(name)) and not Path(name).exists() and not is_file_name


def _readable(folder: str) -> str:
    if not Path(folder).is_dir():
        raise ValueError(f"folder {folder} does not exist: give a run folder, such as results")
    return folder


def _writable(folder: str) -> str:
    """A folder that can be written to, or made: its nearest existing parent is a writable folder."""
    path = Path(folder).absolute()
    parent = next(p for p in (path, *path.parents) if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"{parent} is not a folder that can be written to: give one that is")
    return folder


Model = Annotated[str, AfterValidator(_model)]
Prompts = Annotated[str, AfterValidator(_prompts)]
Preferences = Annotated[str, AfterValidator(_preferences)]
ReadableFolder = Annotated[str, AfterValidator(_readable)]
WritableFolder = Annotated[str, AfterValidator(_writable)]


class Settings(BaseModel):
    """What every notebook takes. Types are strict: "3" is no int, True no int; 3 is a float. A list stays a list."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)

    inputs: str = "results"
    outputs: WritableFolder = "runs/mine"
    seed: int = Field(0, ge=0, lt=2**31)

    @classmethod
    def checked(cls, parameters: dict[str, Any]) -> Self:
        """Settings from parameters; ParameterError says in one sentence what is wrong and what is allowed."""
        allowed = ", ".join(cls.model_fields)
        for name in parameters:
            if name not in cls.model_fields:
                raise ParameterError(f"unknown parameter {name!r}; allowed: {allowed}")
        try:
            return cls(**parameters)
        except ValidationError as error:
            raise ParameterError("; ".join(_sentence(e) for e in error.errors())) from None

    @classmethod
    def from_notebook(cls, namespace: dict[str, Any]) -> Self:
        """Settings from a notebook's ``globals()``, in the first cell after its parameters.

        Running that cell again, when names of later cells are there too, looks at the known names only.
        """
        values = {name: value for name, value in namespace.items() if _is_parameter(name, value)}
        if any(isinstance(value, cls) for value in namespace.values()):
            values = {name: value for name, value in values.items() if name in cls.model_fields}
        return cls.checked(values)


def _is_parameter(name: str, value: Any) -> bool:
    """Whether a global name is the notebook's own and plain: not private, imported, or one of IPython's."""
    of_ipython = name in ("In", "Out", "exit", "quit", "get_ipython", "open")
    return not (name.startswith("_") or of_ipython or isinstance(value, (ModuleType, BaseModel)) or callable(value))


def _sentence(error: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "parameters"
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return f"parameter {where!r} = {error['input']!r}: {message}" if error["loc"] else message


def check_context(prompts: list[str], tokenizer, context: int, new_tokens: int) -> None:
    """Refuse prompts that leave no room for ``new_tokens`` in the model's context; all lengths in tokens."""
    room = context - new_tokens
    for number, ids in enumerate(tokenizer(prompts)["input_ids"], 1):
        if len(ids) > room:
            start = prompts[number - 1][:40]
            raise ParameterError(
                f"prompt {number} ({start!r}…) has {len(ids)} tokens, "
                f"but with {new_tokens} new ones at most {room} fit into the context of {context}"
            )


class TabularIRL(Settings):
    seeds: int = Field(20, ge=2, le=1000)
    layout: int = Field(0, ge=0, lt=2**31)
    size: int = Field(8, ge=4, le=16)
    slip: float = Field(0.1, ge=0, le=0.9)
    discount: float = Field(0.95, gt=0, le=0.99)
    beta: float = Field(0.5, ge=0.05, le=10)
    demonstrations: list[Annotated[int, Field(ge=1)]] = Field([10, 100, 1000], min_length=1)
    steps: int = Field(150, ge=2)
    penalty: float = Field(0.1, gt=0)
    epsilon: float = Field(0.05, gt=0)
    hill: float = 10.0
    changed_slip: float = Field(0.4, ge=0, le=0.9)


class Sampled(Settings):
    """Settings of the notebooks that sample from a language model."""

    base_model: Model = "smollm2-135m-instruct"
    prompts: Prompts = "realtoxicityprompts"
    prompt_limit: int = Field(600, ge=0)
    split_seed: int = Field(0, ge=0)
    max_new_tokens: int = Field(24, ge=1, le=512)
    engine: Literal["ctranslate2", "transformers"] = "ctranslate2"
    precision: Literal["int8", "int16", "float32"] = "float32"


class DataAndReward(Sampled):
    samples: int = Field(4, ge=2, le=64)
    temperature: float = Field(1.0, gt=0, le=2)
    preferences: Preferences = "paradetox"


class RLHF(Sampled):
    steps: int = Field(14, ge=1)
    learning_rate: float = Field(1e-4, gt=0, lt=1)
    kl_weight: float = Field(0.3, ge=0)
    batch: int = Field(64, ge=2)
    group: int = Field(4, ge=2)
    frozen_blocks: int = Field(15, ge=0)
    max_prompt_tokens: int = Field(24, ge=1)
    expert_samples: int = Field(2, ge=1, le=64)

    @model_validator(mode="after")
    def _whole_groups(self):
        if self.batch % self.group:
            raise ValueError(f"batch = {self.batch} must be a multiple of group = {self.group}")
        return self


class Demonstrations(Sampled):
    preferences: Preferences = "paradetox"
    preference_limit: int = Field(800, ge=0)
    layers: list[int] = Field([0, 2, 5, 10, 15], min_length=1)
    penalty: float = Field(2e-3, gt=0)
    dimension: int = Field(512, ge=1)
    precision_texts: int = Field(200, ge=1)


class Fitted(Settings):
    """Settings of the notebooks that fit rewards."""

    seeds: int = Field(20, ge=2, le=1000)
    beta: float = Field(2.0, gt=0)
    demonstrations: int = Field(32, ge=1)
    sample_size: int = Field(100, ge=2)
    learning_rate: float = Field(1e-4, gt=0, lt=1)


class MaxMarginIRL(Fitted):
    epochs: int = Field(30, ge=1)


class RewardAccuracy(Fitted):
    seeds: int = Field(50, ge=2, le=1000)
    null_runs: int = Field(200, ge=2, le=1000)
    sizes: list[Annotated[int, Field(ge=2)]] = Field([50, 100, 200, 400, 800, 1600, 3200], min_length=1)
    noise: list[Annotated[float, Field(ge=0, le=1)]] = Field([0.0, 0.1, 0.2, 0.4, 0.6, 0.8], min_length=1)
    resamples: int = Field(200, ge=20)
    show: int = Field(8, ge=0, le=50)


NOTEBOOKS: dict[str, type[Settings]] = {
    "00-tabular-irl": TabularIRL,
    "01-data-and-true-reward": DataAndReward,
    "02-rlhf": RLHF,
    "03-demonstrations": Demonstrations,
    "04-max-margin-irl": MaxMarginIRL,
    "05-reward-accuracy": RewardAccuracy,
}


def check_file(notebook: str, path: Path) -> Settings:
    """Settings of a notebook from a JSON file of parameters; ParameterError names what is wrong."""
    if notebook not in NOTEBOOKS:
        raise ParameterError(f"unknown notebook {notebook!r}; allowed: {', '.join(NOTEBOOKS)}")
    try:
        parameters = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ParameterError(f"parameter file {path} is not readable as JSON ({error})") from error
    if not isinstance(parameters, dict):
        raise ParameterError(f"parameter file {path} must hold one JSON object: {{name: value}}")
    return NOTEBOOKS[notebook].checked(parameters)


def main(arguments: list[str]) -> int:
    """0 when the parameters are allowed; 1 with a one-sentence error; 2 when called wrongly."""
    if len(arguments) != 3 or arguments[0] != "check":
        print("usage: python -m irlkit.settings check NN-name params.json", file=sys.stderr)
        return 2
    try:
        check_file(arguments[1], Path(arguments[2]))
    except ParameterError as error:
        print(f"error: {arguments[1]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
