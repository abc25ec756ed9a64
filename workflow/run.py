"""Run the notebooks of a profile: python workflow/run.py --profile smoke [--notebook 05 06] [--cores 1].

Checks every parameter first, then asks Snakemake for what is missing or old in runs/PROFILE, on two cores, and
prints what each notebook is doing. A killed run goes on with the same command. Exit code 0 only if all is done.
"""

import argparse
import fcntl
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import chapters
import psutil
from chapters import ROOT, UserError

LOG = ROOT / "runs" / "log.txt"
ANSI = re.compile(r"\x1b\[[0-9;]*m")
SECONDS_BETWEEN_LOOKS = 2.0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="laptop", help="laptop (the notebooks' defaults) or a file of profiles/")
    parser.add_argument("--notebook", nargs="+", default=[], help="notebooks by their numbers, with those that they need")
    parser.add_argument("--cores", type=int, default=2, help="processor cores to keep busy (2)")
    asked = parser.parse_args(arguments)
    try:
        return run(asked.profile, asked.notebook, asked.cores)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(profile: str, notebooks: list[str], cores: int = 2) -> int:
    """Bring runs/PROFILE up to date; returns the exit code."""
    if not re.fullmatch(r"[\w-]+", profile):
        raise UserError(f"profile {profile!r}: a name has letters, digits, - and _ only")
    targets = [f"runs/{profile}/{path}" for notebook in notebooks for path in chapters.outputs(chapters.find(notebook))]
    if cores < 1:
        raise UserError(f"cores: {cores}; at least one is needed")
    check_parameters(profile)
    with take_log() as log:
        started = time.time()
        unlock_after_kill(profile, log)
        # The log is the lock: it is held until the last process that writes to it has gone, Snakemake's orphans included.
        process = subprocess.Popen(snakemake(profile, *targets, "--cores", str(cores)), cwd=ROOT, stdout=log, stderr=log)
        log.write(f"process {process.pid}\n".encode())
        try:
            watch(process, ROOT / "runs" / profile, started)
        except KeyboardInterrupt:
            stop(process)
            print("\nstopped; the same command goes on from what is finished", file=sys.stderr)
            return 130
    return report(process.returncode, profile, started)


def check_parameters(profile: str) -> None:
    """Ask the package whether it takes the profile's values, before any notebook starts; UserError if not."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(chapters.profile_values(profile), file)
        file.flush()
        done = subprocess.run([sys.executable, "-m", "irlkit.settings", "check", file.name], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1].removeprefix("error: ")
        raise UserError(f"profiles/{profile}.yaml, {reason}")


def take_log():
    """Open runs/log.txt for this run alone; UserError if another run is alive."""
    LOG.parent.mkdir(exist_ok=True)
    log = LOG.open("a+b", buffering=0)
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        found = re.search(r"process (\d+)", LOG.read_text(encoding="utf-8", errors="replace"))
        process = f" (process {found[1]})" if found else ""
        raise UserError(f"another run is at work in runs/{process}: wait until it ends, or stop it") from None
    log.truncate(0)
    return log


def unlock_after_kill(profile: str, log) -> None:
    """Remove the lock that a killed Snakemake left; safe, as the log says that no other run is alive."""
    locks = ROOT / ".snakemake" / "locks"
    if locks.is_dir() and any(locks.iterdir()):
        print("a run was killed here: going on from what it finished", flush=True)
        subprocess.run(snakemake(profile, "--unlock"), cwd=ROOT, stdout=log, stderr=log, check=True)


def snakemake(profile: str, *arguments: str) -> list[str]:
    folder = ROOT / "workflow"
    return [sys.executable, "-m", "snakemake", "--snakefile", str(folder / "Snakefile"), "--directory", str(ROOT),
            "--profile", str(folder / "profiles" / "laptop"), *arguments, "--config", f"profile={profile}"]


def watch(process: subprocess.Popen, folder: Path, started: float) -> None:
    """Print a line whenever a notebook gets on, until Snakemake ends."""
    shown: dict[str, str] = {}
    while process.poll() is None:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        for name in chapters.CHAPTERS:
            news = progress(folder / "logs" / f"{name}.ipynb", started)
            if news and shown.get(name) != news:
                shown[name] = news
                print(f"{clock(time.time() - started)}  {name}  {news}", flush=True)


def stop(process: subprocess.Popen, patience: float = 20.0) -> None:
    """End Snakemake and the notebooks that it runs; what they were writing is made again by the next run."""
    alive = psutil.Process(process.pid).children(recursive=True) + [psutil.Process(process.pid)]
    for one in alive:
        one.terminate()
    for one in psutil.wait_procs(alive, timeout=patience)[1]:
        one.kill()
    process.wait()


def progress(log: Path, started: float) -> str:
    """Where a running notebook is, and the last line that its running cell printed; empty if it did not run now."""
    if not log.exists() or log.stat().st_mtime < started:
        return ""
    try:
        notebook = chapters.read_json(log)
    except ValueError:   # read while Papermill was writing it; the next look shows it
        return ""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    states = [cell["metadata"].get("papermill", {}).get("status") for cell in cells]
    if "failed" in states:
        return "failed"
    done = states.count("completed")
    if done == len(cells):
        return f"done, {notebook['metadata']['papermill']['duration']:.0f} s" if finished(notebook) else ""
    printed = last_line(cells[done], log.with_suffix(".progress")) if done < len(cells) else ""
    return f"cell {done + 1} of {len(cells)}" + (f": {printed}" if printed else "")


def finished(notebook: dict) -> bool:
    return notebook["metadata"].get("papermill", {}).get("duration") is not None


def last_line(cell: dict, bar: Path) -> str:
    """The bar of a running cell's long work, else the last line that it printed; at most 90 characters."""
    text = "".join("".join(output.get("text", "")) for output in cell["outputs"])
    text += bar.read_text(encoding="utf-8") if bar.exists() else ""
    lines = [line.strip() for line in re.split(r"[\r\n]", ANSI.sub("", text)) if line.strip()]
    return lines[-1][:90] if lines else ""


def report(code: int, profile: str, started: float) -> int:
    """Print how the run ended: for each failed notebook its error's last lines, never the notebook's JSON."""
    if code == 0:
        print(f"{clock(time.time() - started)}  runs/{profile} is up to date")
        return 0
    failed = [name for name in chapters.CHAPTERS
              if progress(ROOT / "runs" / profile / "logs" / f"{name}.ipynb", started) == "failed"]
    for name in failed:
        log = ROOT / "runs" / profile / "logs" / f"{name}.ipynb"
        print(f"error: {name} failed; its notebook as far as it came: {log.relative_to(ROOT)}", file=sys.stderr)
        print("\n".join("    " + line for line in error_lines(log)), file=sys.stderr)
    if not failed:
        print("error: no notebook's own error; from runs/log.txt:", file=sys.stderr)
        print("\n".join("    " + line for line in log_lines()), file=sys.stderr)
    return code if code > 0 else 1


def error_lines(log: Path, count: int = 12) -> list[str]:
    """The last lines of the traceback in a failed notebook."""
    outputs = [out for cell in chapters.read_json(log)["cells"] for out in cell.get("outputs", [])]
    trace = "\n".join(line for out in outputs if out["output_type"] == "error" for line in out["traceback"])
    return [line for line in ANSI.sub("", trace).splitlines() if line.strip()][-count:]


def log_lines(count: int = 8) -> list[str]:
    """The lines of runs/log.txt before Snakemake's own report of the first error, or its last ones."""
    lines = [line for line in ANSI.sub("", LOG.read_text(encoding="utf-8", errors="replace")).splitlines() if line.strip()]
    ends = [number for number, line in enumerate(lines) if line.startswith(("RuleException", "Error in rule"))]
    end = ends[0] if ends and ends[0] > 0 else len(lines)
    return lines[max(0, end - count):end]


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60:3d}:{int(seconds) % 60:02d}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)   # `kill` and Ctrl-C end a run alike
    sys.exit(main(sys.argv[1:]))
