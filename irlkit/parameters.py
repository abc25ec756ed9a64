"""Typed, range-checked parameters: an unknown name or a bad value fails before any work, in one sentence."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

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


def check_vocabulary(sequences: list[list[int]], size: int, tokenizer, model) -> None:
    """Refuse ids of the tokenizer that a model with a vocabulary of ``size`` does not have; a larger vocabulary is no obstacle."""
    largest = max((max(ids) for ids in sequences if ids), default=-1)
    if largest >= size:
        raise ParameterError(
            f"base_model: the tokenizer of {model} gives token {largest} ({tokenizer.convert_ids_to_tokens(largest)!r}), but the model's vocabulary "
            f"ends at {size - 1}: these two do not belong together"
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
