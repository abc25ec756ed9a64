"""What each notebook can be asked for: one class a notebook, typed and range-checked.

``python -m irlkit.settings check params.json`` checks a file of parameters, {NN-name: {parameter: value}}, without running a notebook.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from irlkit.parameters import (
    Classifier,
    Fitted,
    Layers,
    Model,
    ModelOrNone,
    ParameterError,
    Place,
    Preferences,
    PromptsOrNone,
    Sampled,
    Settings,
    Size,
    Training,
    Written,
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


class DataAndReward(Sampled):
    chat: bool = False
    true_reward: Classifier = "linear-toxicity"
    samples: int = Field(4, ge=2, le=64)
    temperature: float = Field(1.0, gt=0, le=2)
    preferences: Preferences = "paradetox"


class RLHF(Training, Sampled):
    chat: bool = False
    expert_model: ModelOrNone = ""
    true_reward: Classifier = "linear-toxicity"
    expert_samples: int = Field(2, ge=1, le=64)


class Demonstrations(Sampled):
    preferences: Preferences = "paradetox"
    preference_limit: int = Field(800, ge=0)
    layers: list[int] = Field([0, 2, 5, 10, 15], min_length=1)
    penalty: float = Field(2e-3, gt=0)
    dimension: int = Field(256, ge=1)
    precision_texts: int = Field(60, ge=1)


class MaxMarginIRL(Fitted):
    epochs: int = Field(30, ge=1)


class RewardAccuracy(Fitted):
    true_reward: Classifier = "linear-toxicity"
    seeds: int = Field(50, ge=2, le=1000)
    null_runs: int = Field(200, ge=2, le=1000)
    sizes: list[Annotated[int, Field(ge=2)]] = Field([50, 200, 800], min_length=1)
    noise: list[Annotated[float, Field(ge=0, le=1)]] = Field([0.0, 0.1, 0.2, 0.4, 0.6, 0.8], min_length=1)
    resamples: int = Field(200, ge=20)
    show: int = Field(8, ge=0, le=50)


class ReadingPlace(Fitted):
    seeds: int = Field(10, ge=2, le=1000)
    base_model: Model = "smollm2-135m-instruct"
    deep_texts: int = Field(80, ge=0)
    layers: Layers = [0, 2, 5, 10, 15, 20, 25, 30]
    places: list[Place] = Field(["last 30", "last 15", "mean 15", "root 0 2 5 10 15"], min_length=1)
    trained_blocks: list[Annotated[int, Field(ge=0)]] = Field([27, 30], min_length=2, max_length=2)
    model_seeds: int = Field(2, ge=2, le=100)
    model_epochs: int = Field(3, ge=1)
    prompt_limit: int = Field(180, ge=0)
    preference_limit: int = Field(150, ge=0)
    head_layers: Layers = [0, 2]
    units: int = Field(32, ge=1)
    epochs: int = Field(8, ge=1)


class WhichExpert(Training, Written):
    true_reward: Classifier = "linear-toxicity"
    prompt_limit: int = Field(150, ge=0)
    expert_samples: int = Field(2, ge=1, le=64)
    seeds: int = Field(20, ge=2, le=1000)
    kl_weights: list[Annotated[float, Field(ge=0)]] = []
    judge_prompts: int = Field(300, ge=0)
    preference_limit: int = Field(100, ge=0)


class NonIdentifiability(Fitted):
    epochs: int = Field(30, ge=1)
    sizes: list[Annotated[int, Field(ge=2)]] = Field([50, 400], min_length=1)
    tolerances: list[Annotated[float, Field(gt=0)]] = Field([0.003, 0.03], min_length=1)
    penalty: float = Field(1e-4, ge=0)
    members: int = Field(12, ge=2)
    starts: int = Field(1, ge=0)
    iterations: int = Field(10, ge=1)
    resamples: int = Field(200, ge=20)
    tolerance: float = Field(0.01, gt=0)
    penalties: list[Annotated[float, Field(ge=0)]] = Field([1e-3], min_length=1)
    fractions: list[Annotated[float, Field(gt=0, lt=1)]] = Field([0.25], min_length=1)
    second_beta: float = Field(0.5, gt=0)


class ModelSize(Training, Written):
    true_reward: Classifier = "linear-toxicity"
    other_model: Model = "gemma-3-270m"
    other_learning_rate: float = Field(2e-5, gt=0, lt=1)
    sizes: list[Annotated[int, Field(ge=1)]] = Field([10, 30], min_length=2)
    distil_texts: int = Field(400, ge=16)
    runs: int = Field(2, ge=1, le=20)
    seeds: int = Field(20, ge=2, le=1000)
    steps: int = Field(4, ge=1)
    batch: int = Field(32, ge=2)
    keep: list[Annotated[int, Field(ge=1)]] = [2]
    prompt_limit: int = Field(100, ge=0)
    samples: int = Field(4, ge=2, le=64)
    judge_prompts: int = Field(200, ge=0)
    preference_limit: int = Field(100, ge=0)

    @model_validator(mode="after")
    def _an_interval(self):
        if len(self.sizes) * self.runs < 3:
            raise ValueError(f"{len(self.sizes)} sizes with {self.runs} runs each give no interval: at least three trainings are needed")
        return self


class AgainThroughRLHF(Training, Written):
    true_reward: Classifier = "linear-toxicity"
    transfer_model: Model = "gemma-3-270m"
    transfer_learning_rate: float = Field(2e-5, gt=0, lt=1)
    seeds: int = Field(2, ge=2, le=20)
    steps: int = Field(4, ge=1)
    kl_weight: float = Field(0.1, ge=0)
    batch: int = Field(32, ge=2)
    keep: list[Annotated[int, Field(ge=1)]] = [2]
    held_out: int = Field(50, ge=1)
    second_source: PromptsOrNone = ""
    samples: int = Field(1, ge=1, le=64)
    neutral_texts: int = Field(50, ge=1)
    poor_of: int = Field(50, ge=1)
    sample_size: int = Field(100, ge=2)


class ReleasedCode(Settings):
    seeds: int = Field(20, ge=2, le=1000)
    runs: int = Field(100, ge=2, le=1000)
    base_model: Model = "smollm2-135m-instruct"
    layer: int = Field(30, ge=1)
    texts: int = Field(120, ge=0)
    held_out: int = Field(160, ge=0)
    preference_limit: int = Field(80, ge=0)
    sample_size: int = Field(100, ge=2, multiple_of=2)
    learning_rate: float = Field(1e-4, gt=0, lt=1)
    epochs: int = Field(30, ge=1)
    harmless_share: float = Field(0.5345, gt=0, lt=1)


class PaperScale(Settings):
    pythia_70m: Size = [6, 512, 2048, 50304]
    pythia_410m: Size = [24, 1024, 4096, 50304]
    roberta_base: Size = [12, 768, 3072, 50265]
    prompts: int = Field(2000, ge=1)
    pairs: int = Field(19744, ge=1)
    prompt_tokens: int = Field(60, ge=1)
    sentence_tokens: int = Field(15, ge=1)
    bfloat16: float = Field(312e12, gt=0)
    float32: float = Field(19.5e12, gt=0)
    bandwidth: float = Field(1.555e12, gt=0)
    memory: float = Field(40.0, gt=0)
    utilisation: float = Field(0.3, gt=0, le=1)
    wait: float = Field(0.001, ge=0)


NOTEBOOKS: dict[str, type[Settings]] = {
    "00-tabular-irl": TabularIRL,
    "01-data-and-true-reward": DataAndReward,
    "02-rlhf": RLHF,
    "03-demonstrations": Demonstrations,
    "04-max-margin-irl": MaxMarginIRL,
    "05-reward-accuracy": RewardAccuracy,
    "05b-reading-place": ReadingPlace,
    "05c-which-expert": WhichExpert,
    "06-non-identifiability": NonIdentifiability,
    "09-model-size": ModelSize,
    "10-rlhf-again": AgainThroughRLHF,
    "11-released-code": ReleasedCode,
    "14-paper-scale": PaperScale,
}


def check_file(path: Path) -> dict[str, Settings]:
    """Settings by notebook from a JSON file {NN-name: {parameter: value}}; ParameterError names what is wrong, and where."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ParameterError(f"parameter file {path} is not readable as JSON ({error})") from error
    if not isinstance(values, dict) or not all(isinstance(own, dict) for own in values.values()):
        raise ParameterError(f"parameter file {path} must hold one JSON object: {{NN-name: {{parameter: value}}}}")
    return {notebook: _checked(notebook, own) for notebook, own in values.items()}


def _checked(notebook: str, parameters: dict) -> Settings:
    if notebook not in NOTEBOOKS:
        raise ParameterError(f"unknown notebook {notebook!r}; allowed: {', '.join(NOTEBOOKS)}")
    try:
        return NOTEBOOKS[notebook].checked(parameters)
    except ParameterError as error:
        raise ParameterError(f"{notebook}: {error}") from None


def main(arguments: list[str]) -> int:
    """0 when the parameters are allowed; 1 with a one-sentence error; 2 when called wrongly."""
    if len(arguments) != 2 or arguments[0] != "check":
        print("usage: python -m irlkit.settings check params.json", file=sys.stderr)
        return 2
    try:
        check_file(Path(arguments[1]))
    except ParameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
