"""The table of chapters (chapters.yaml) and the values that a profile gives to their parameters."""

import json
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
TABLE = yaml.safe_load(Path(__file__).with_name("chapters.yaml").read_text(encoding="utf-8"))
CHAPTERS: dict[str, dict] = TABLE["chapters"]

QUICK = ("laptop", "smoke")


class UserError(Exception):
    """A mistake in what was asked for; its text is the one sentence that the user sees."""


def run_by(profile: str) -> list[str]:
    """The chapters that a whole run of `profile` runs: all, but in the quick profiles no heavy ones."""
    return [name for name in CHAPTERS if profile not in QUICK or not CHAPTERS[name].get("heavy")]


def find(number: str) -> str:
    """Full name of the chapter that `number` ("05" or "05-reward-accuracy") begins; UserError if none or several do."""
    names = [name for name in CHAPTERS if name == number or name.split("-")[0] == number.zfill(2)]
    if len(names) != 1:
        raise UserError(f"no notebook {number!r}; allowed: {', '.join(CHAPTERS)}")
    return names[0]


def outputs(name: str) -> list[str]:
    """What chapter `name` leaves in its run folder, paths relative to that folder."""
    own = [f"notebooks/{name}.ipynb", f"rows/{name}.csv", f"summary/{name}.json"]
    return own + CHAPTERS[name]["writes"]


def modules(name: str) -> list[str]:
    """The source files whose change makes the results of chapter `name` old, relative to the project's root."""
    return [f"irlkit/{module}.py" for module in CHAPTERS[name]["modules"]]


def profile_values(profile: str) -> dict[str, dict]:
    """Parameter values by notebook of profiles/PROFILE.yaml; none for `laptop`, which is the notebooks' defaults."""
    path = ROOT / "profiles" / f"{profile}.yaml"
    if profile == "laptop" and not path.exists():
        return {}
    if not path.exists():
        known = sorted({"laptop", *(p.stem for p in path.parent.glob("*.yaml"))})
        raise UserError(f"no profile {profile!r}; allowed: {', '.join(known)} (or write profiles/{profile}.yaml)")
    return _checked(yaml.safe_load(path.read_text(encoding="utf-8")) or {}, path)


def _checked(values: dict, path: Path) -> dict[str, dict]:
    shown = path.relative_to(ROOT)
    if not isinstance(values, dict) or not all(isinstance(v, dict) for v in values.values()):
        raise UserError(f"{shown} must map notebook names to parameters, like '05-reward-accuracy: {{seed: 3}}'")
    unknown = sorted(set(values) - set(CHAPTERS))
    if unknown:
        raise UserError(f"{shown} names no notebook with {unknown[0]!r}; allowed: {', '.join(CHAPTERS)}")
    return values


def tracked(profile: str, name: str) -> str:
    """The values that decide the result of chapter `name`, as one line of text that changes when they do.

    YAML rather than JSON, because YAML 1.1 reads JSON's 1e-05 as a string.
    """
    values = profile_values(profile).get(name, {})
    return yaml.safe_dump(values, default_flow_style=True, sort_keys=True, width=10**6, allow_unicode=True).strip()


def read_json(path: Path) -> dict:
    """A JSON file's content (notebooks are JSON)."""
    return json.loads(Path(path).read_text(encoding="utf-8"))
