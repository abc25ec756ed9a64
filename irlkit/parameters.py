"""Typed, range-checked parameters: an unknown name or a bad value fails before any work, in one sentence."""

from __future__ import annotations

import os
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


def _classifier(name: str) -> str:
    return name if name == "linear-toxicity" else _model(name)


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
ModelOrNone = Annotated[str, AfterValidator(lambda name: name and _model(name))]
Classifier = Annotated[str, AfterValidator(_classifier)]
Prompts = Annotated[str, AfterValidator(_prompts)]
PromptsOrNone = Annotated[str, AfterValidator(lambda name: name and _prompts(name))]
Preferences = Annotated[str, AfterValidator(_preferences)]
Place = Annotated[str, Field(pattern=r"^(root|mean|max|last)( \d+)+$")]
Layers = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Size = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=4, max_length=4)]
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

        Running that cell again, when names of later cells are there too, looks at the known names only; where a later cell
        made a folder of a model's name, the folder is taken.
        """
        values = {name: str(value) if isinstance(value, Path) else value for name, value in namespace.items() if _is_parameter(name, value)}
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


class Written(Settings):
    """Settings of the notebooks in which a language model writes."""

    base_model: Model = "smollm2-135m-instruct"
    max_new_tokens: int = Field(24, ge=1, le=512)
    engine: Literal["ctranslate2", "transformers"] = "ctranslate2"


class Sampled(Written):
    """… from prompts of its own choice."""

    precision: Literal["int8", "int16", "float32"] = "float32"
    prompts: Prompts = "realtoxicityprompts"
    prompt_limit: int = Field(400, ge=0)
    split_seed: int = Field(0, ge=0)


class Training(Settings):
    """What decides the trained expert; the notebooks that speak of the same expert must be given the same values."""

    steps: int = Field(12, ge=1)
    learning_rate: float = Field(1e-4, gt=0, lt=1)
    kl_weight: float = Field(0.3, ge=0)
    batch: int = Field(64, ge=2)
    group: int = Field(4, ge=2)
    frozen_blocks: int = Field(15, ge=0)
    max_prompt_tokens: int = Field(24, ge=1)
    keep: list[Annotated[int, Field(ge=1)]] = [2, 5]

    @model_validator(mode="after")
    def _whole_groups(self):
        if self.batch % self.group:
            raise ValueError(f"batch = {self.batch} must be a multiple of group = {self.group}")
        return self


class Fitted(Settings):
    """Settings of the notebooks that fit rewards."""

    seeds: int = Field(20, ge=2, le=1000)
    beta: float = Field(2.0, gt=0)
    demonstrations: int = Field(32, ge=1)
    sample_size: int = Field(100, ge=2)
    learning_rate: float = Field(1e-4, gt=0, lt=1)


def check_vocabulary(sequences: list[list[int]], size: int, tokenizer, model) -> None:
    """Refuse ids of the tokenizer that a model with a vocabulary of ``size`` does not have; a larger vocabulary is no obstacle."""
    largest = max((max(ids) for ids in sequences if ids), default=-1)
    if largest >= size:
        raise ParameterError(
            f"base_model: the tokenizer of {model} gives token {largest} ({tokenizer.convert_ids_to_tokens(largest)!r}), "
            f"but the model's vocabulary ends at {size - 1}: these two do not belong together"
        )


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
