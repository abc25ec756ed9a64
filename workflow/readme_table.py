"""Write the README's results from results/summary.json: python workflow/readme_table.py."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- /results -->)", re.DOTALL)
METRICS = {"pair_accuracy": "pair accuracy (people)", "auroc": "AUROC (true reward)", "spearman": "Spearman (true reward)"}
METHODS = {
    "max_margin_published": "max-margin, loss as published",
    "max_margin": "max-margin, well-posed",
    "hinge": "hinge on pairs",
    "logistic": "logistic, unpaired",
    "bradley_terry": "Bradley–Terry",
    "max_entropy": "maximum entropy",
}
EXPERTS = {"irl": "RLHF expert", "irl_exact": "exact expert"}


def block(summary: dict | None) -> str:
    """The README's lines between its two markers; ``summary`` is None before anything was published."""
    if not summary:
        return "No run is published yet: `make book` makes one of your own.\n"
    rows = [(f"{METHODS[m]}, {EXPERTS[e]}", f"{e}.{m}") for e in EXPERTS for m in METHODS]
    rows += [(key.replace(".", ": ").replace("_", " "), key) for key in _others(summary)]
    lines = ["| recovered reward | " + " | ".join(METRICS.values()) + " |", "| --- " * (len(METRICS) + 1) + "|"]
    lines += [f"| {label} | " + " | ".join(_cell(summary.get(f"{key}.{m}")) for m in METRICS) + " |" for label, key in rows]
    return _caption(summary) + "\n\n" + "\n".join(lines) + "\n"


def _caption(summary: dict) -> str:
    base, expert, kl = (summary[f"rlhf.{name}"] for name in ("mean_toxicity.base", "mean_toxicity.expert", "kl"))
    seeds = summary["irl.max_entropy.pair_accuracy"]["n_seeds"]
    again = ""
    if "rerlhf.ratio" in summary:
        again = ("At equal KL, RLHF with the recovered reward leaves {mean:.2f} times (95 % interval {low:.2f} to {high:.2f}) the "
                 "toxicity of RLHF with the true one. ").format(**summary["rerlhf.ratio"])
    return (
        f"Profile `{summary['profile']}`. RLHF took the mean toxicity of held-out prompts from {base:.3f} to {expert:.3f}, {kl:.1f} nats "
        f"away from the base model. {again}The table gives medians [lowest, highest] over {seeds} seeds."
    )


def _others(summary: dict) -> list[str]:
    """ "baseline.NAME" and "ceiling.NAME" of the summary's keys, in its order."""
    found = [re.match(r"(baseline|ceiling)\.[^.]+", key) for key in summary]
    return list(dict.fromkeys(match[0] for match in found if match))


def _cell(value: dict | float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, dict):
        spread = f" [{value['min']:.3f}, {value['max']:.3f}]" if "min" in value else ""
        return f"{value['median']:.3f}{spread}"
    return f"{value:.3f}"


def updated(readme: str, summary_file: Path) -> str:
    """The README's text with the block that belongs to the summary file."""
    summary = json.loads(summary_file.read_text(encoding="utf-8")) if summary_file.exists() else None
    return BLOCK.sub(lambda _: block(summary), readme)


def main() -> int:
    readme = ROOT / "README.md"
    readme.write_text(updated(readme.read_text(encoding="utf-8"), ROOT / "results" / "summary.json"), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
