"""Text files from users: UTF-8 or a clear refusal."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from irlkit.cache import AssetError


def read_prompts(path: Path) -> list[str]:
    """Distinct, stripped prompts of a ``.txt`` or ``.jsonl`` file, in order."""
    lines = read_text(path).split("\n")
    if path.suffix == ".txt":
        return distinct(lines, path)
    return distinct((_json_text(line, path, n) for n, line in enumerate(lines, 1) if line.strip()), path)


def _json_text(line: str, path: Path, number: int) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise AssetError(f'line {number} of {path} is not of the form {{"text": "…"}}') from error
    if not isinstance(text, str):
        raise AssetError(f'line {number} of {path}: "text" must be a string')
    return text


def distinct(texts: Iterable[str], source: Path | str) -> list[str]:
    found = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if not found:
        raise AssetError(f"{source} holds no prompt: give a file with one prompt a line")
    return found


def read_text(path: Path) -> str:
    if not path.is_file():
        raise AssetError(f"file {path} does not exist")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise AssetError(f"file {path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
