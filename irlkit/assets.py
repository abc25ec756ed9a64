"""Models, prompts, rewards and preference data by name: pinned, checked, cached, offline once fetched.

``python -m irlkit.assets fetch`` fetches everything the book needs; loading a name never touches the network.
A local path or a Hugging Face Hub id works in place of a name.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from irlkit import cache
from irlkit.cache import AssetError
from irlkit.recipes import ASSETS
from irlkit.textfiles import distinct, read_prompts, read_text

if TYPE_CHECKING:
    import pandas as pd

DATA = Path(__file__).resolve().parent.parent / "data"
PREFERENCES = {"paradetox": DATA / "paradetox-dev.tsv"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
COMPUTE_TYPES = ("float32", "int8", "int8_float32", "int16")
CONVERSIONS_KEPT = 4  # CTranslate2 models in the cache, the latest; each takes 0.14 to 0.54 GB
IN_USE = 3600  # seconds after its last use for which a conversion is never removed: another process may be sampling from it


MODELS, PROMPTS = ("smollm2-135m-instruct", "gemma-3-270m"), ("realtoxicityprompts",)


def fetch(name: str) -> Path:
    """Fetch and convert an asset unless it is cached and intact, and return its folder; a corrupt one is built again."""
    if name in ASSETS:
        return cache.store(name, *ASSETS[name])
    if HUB_ID.fullmatch(name):
        return model(name)
    raise AssetError(f"unknown asset {name!r}; known: {', '.join(ASSETS)}, or the Hugging Face Hub id of a model (owner/name)")


def cached(name: str) -> Path:
    """The folder of a named asset, checked; AssetError when it was never fetched or is corrupt. Never uses the network."""
    folder = cache.root() / name
    if not folder.is_dir():
        raise AssetError(f"{name!r} is not in the cache {cache.root()}: run `python -m irlkit.assets fetch {name}` once, with a network")
    cache.check(folder)
    return folder


def model(name: str = "smollm2-135m-instruct") -> Path:
    """Folder for ``from_pretrained``: of a named model, a local folder, or a Hub id."""
    if name in MODELS:
        return cached(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _model_folder(folder)
    if not HUB_ID.fullmatch(name):
        raise AssetError(f"model {name!r} is neither a known name ({', '.join(MODELS)}), a folder, nor a Hub id (owner/name)")
    return _from_hub(name)


def _model_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file() or not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        raise AssetError(f"model folder {folder} lacks config.json or weights (*.safetensors): give a folder that save_pretrained wrote")
    return folder


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, ignore_patterns=["*.h5", "*.msgpack", "*.onnx", "*.gguf"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise AssetError(f"{name!r} is no local path, and the Hugging Face Hub did not give it ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def ctranslate2_model(folder: Path | str, compute_type: str = "float32") -> Path:
    """The model in ``folder`` converted for CTranslate2, cached by the content of its files, whatever the folder is called."""
    if compute_type not in COMPUTE_TYPES:
        raise AssetError(f"unknown compute type {compute_type!r}; allowed: {', '.join(COMPUTE_TYPES)}")
    path = cache.store(_conversion(_content(folder), compute_type), lambda into: _convert(Path(folder), into, compute_type), 1200)
    os.utime(path)
    _forget_old_conversions()
    return path


def _content(folder: Path | str) -> dict[str, dict]:
    return cache.checksums(_model_folder(Path(folder)))


def _conversion(content: dict[str, dict], compute_type: str) -> str:
    named = json.dumps([compute_type, content], sort_keys=True)
    return f"ctranslate2/{compute_type}-{hashlib.sha256(named.encode()).hexdigest()[:16]}"


def forget(folder: Path | str) -> None:
    """Remove from the cache what was converted of the model in ``folder``: for models of which there are many, each used once."""
    content = _content(folder)  # half a gigabyte to read: once for all
    for compute_type in COMPUTE_TYPES:
        shutil.rmtree(cache.root() / _conversion(content, compute_type), ignore_errors=True)


def _convert(folder: Path, into: Path, compute_type: str) -> None:
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):
        """Reads GPT-NeoX as transformers 5 has it: ctranslate2 4.8 looks for two of its parts by their older names."""

        def load_model(self, *args, **kwargs):
            network = super().load_model(*args, **kwargs)
            if network.config.model_type == "gpt_neox":
                network.config.rotary_pct = network.config.rope_parameters["partial_rotary_factor"]
                network.embed_out = network.get_output_embeddings()
            return network

    quantization = None if compute_type == "float32" else compute_type
    Converter(str(folder)).convert(str(into), quantization=quantization, force=True)


def _forget_old_conversions() -> None:
    latest = sorted((cache.root() / "ctranslate2").iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)
    for folder in (path for path in latest[CONVERSIONS_KEPT:] if path.stat().st_mtime < time.time() - IN_USE):
        shutil.rmtree(folder, ignore_errors=True)


def prompts(name: str = "realtoxicityprompts") -> list[str]:
    """Distinct prompts, stripped: of a name, a file, or a data set (folder or Hub id) with a column text or prompt.

    Such a column holds strings or, as that of allenai/real-toxicity-prompts, dicts with a ``text``.
    A ``.txt`` file holds one prompt a line; a ``.jsonl`` file one ``{"text": "…"}`` a line.
    """
    if name in PROMPTS:
        return read_prompts(cached(name) / "prompts.jsonl")
    if Path(name).suffix in (".txt", ".jsonl"):
        return read_prompts(Path(name).expanduser())
    rows = _dataset(name, "prompts", PROMPTS)
    column = next((c for c in ("text", "prompt") if c in rows.column_names), None)
    if column is None:
        raise AssetError(f"data set {name!r} has no column 'text' or 'prompt', only {', '.join(rows.column_names)}")
    return distinct((str(text["text"] if isinstance(text, dict) else text) for text in rows[column]), name)


def _dataset(name: str, what: str, known):
    if not Path(name).is_dir() and not HUB_ID.fullmatch(name):
        raise AssetError(f"{what} {name!r} are neither a known name ({', '.join(known)}), a file, a folder, nor a Hub id (owner/name)")
    import datasets

    try:
        return datasets.load_dataset(name, split="train")
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise AssetError(f"{what} {name!r} could not be loaded as a data set ({_first_line(error)})") from error


def preferences(name: str = "paradetox") -> pd.DataFrame:
    """People's preferences, one row a (toxic sentence, neutral rewrite): columns pair, sentence, toxic, neutral.

    ``pair`` numbers the rows; rewrites of the same toxic text share ``sentence``.
    """
    import pandas as pd

    path = PREFERENCES.get(name, Path(name).expanduser())
    if path.suffix == ".tsv":
        text = io.StringIO(read_text(path))
        wide = pd.read_csv(text, sep="\t", quoting=csv.QUOTE_NONE, dtype=str, keep_default_na=False)
    else:
        wide = _dataset(name, "preferences", PREFERENCES).to_pandas()
        wide = wide.rename(columns={"en_toxic_comment": "toxic", "en_neutral_comment": "neutral1"})
    return _pairs(wide, name)


def _pairs(wide: pd.DataFrame, source: str) -> pd.DataFrame:
    neutral = [c for c in wide.columns if c.startswith("neutral")]
    if "toxic" not in wide.columns or not neutral:
        raise AssetError(f"preferences {source!r} need the columns 'toxic' and 'neutral1', not {', '.join(wide.columns)}")
    wide["sentence"] = wide["toxic"].factorize()[0]
    pairs = wide.melt(["sentence", "toxic"], neutral, value_name="neutral", ignore_index=False).sort_index(kind="stable")
    pairs = pairs[pairs["neutral"].fillna("").str.strip() != ""].reset_index(drop=True)
    if pairs.empty:
        raise AssetError(f"preferences {source!r} hold no pair: give rows with 'toxic' and at least one 'neutral1'")
    return pairs.assign(pair=pairs.index)[["pair", "sentence", "toxic", "neutral"]]


def linear_toxicity() -> Path:
    """Folder with the arrays of the linear toxicity classifier (``irlkit.rewards`` reads them)."""
    return cached("linear-toxicity")


def main(arguments: list[str]) -> int:
    """``fetch [NAME ...]``: all named assets, or those given; 0, or 1 with a one-sentence error."""
    if arguments[:1] != ["fetch"]:
        print(f"usage: python -m irlkit.assets fetch [NAME ...]    names: {', '.join(ASSETS)}", file=sys.stderr)
        return 2
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in arguments[1:] or ASSETS:
        start, was_there = time.monotonic(), cache.is_intact(cache.root() / name)
        try:
            folder = fetch(name)
        except AssetError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        if not was_there:
            print(f"{name}: fetched into {folder} ({time.monotonic() - start:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
