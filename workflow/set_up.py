"""Make .venv from requirements.lock: python workflow/set_up.py [address of a PyTorch wheel index].

Started by ``make`` with any Python; writes .venv/.ready last. What an earlier, interrupted set-up left behind is
looked at file by file, and only what is not whole is installed again.
"""

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / ".ready"
PYTHON = VENV / "bin" / "python"

# Run by the new environment: the pinned packages of which a file is missing, one a line.
BROKEN = """
import importlib.metadata as md, pathlib, re, sys
for line in pathlib.Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
    name = re.match(r"[\\w.-]*", line)[0]
    found = next(iter(md.distributions(name=name)), None) if name else None
    if found and not (found.files and all(file.locate().exists() for file in found.files if file.suffix != ".pyc")):
        print(line)
"""


def main(torch_index: str | None) -> int:
    STAMP.unlink(missing_ok=True)
    print("setting up .venv from requirements.lock (some minutes, once)", flush=True)
    try:
        set_up(torch_index)
    except (subprocess.CalledProcessError, OSError) as error:
        return refuse(f"set-up stopped ({error}); run the same command again, it goes on from here")
    STAMP.touch()
    return 0


def refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


def set_up(torch_index: str | None) -> None:
    """Every step can be repeated: on what is already there and whole it does nothing."""
    venv.EnvBuilder(with_pip=True, symlinks=True).create(VENV)
    if subprocess.run([str(PYTHON), "-m", "pip", "--version"], capture_output=True).returncode:  # cut short in its own making
        venv.EnvBuilder(with_pip=True, symlinks=True, clear=True).create(VENV)
    torch = next(line for line in LOCK.read_text(encoding="utf-8").splitlines() if line.startswith("torch=="))
    if torch_index:
        pip("install", "--no-deps", "--index-url", torch_index, torch)
    elif not installed("torch") and not has_gpu() and sys.platform == "linux":
        warn_of_cuda(torch)
    pip("install", "-r", LOCK)
    for requirement in broken_packages():
        pip("install", "--no-deps", "--force-reinstall", requirement)
    pip("install", "--no-deps", "-e", ROOT)


def pip(*arguments: object) -> None:
    """Run the environment's pip, with its progress bars on a terminal and quietly elsewhere."""
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    command = [PYTHON, "-m", "pip", arguments[0], "--disable-pip-version-check", *quiet, *arguments[1:]]
    subprocess.run([str(part) for part in command], check=True)


def broken_packages() -> list[str]:
    done = subprocess.run([str(PYTHON), "-c", BROKEN, str(LOCK)], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def installed(package: str) -> bool:
    command = [str(PYTHON), "-c", f"import importlib.metadata as m; m.version({package!r})"]
    return subprocess.run(command, capture_output=True).returncode == 0


def has_gpu() -> bool:
    return Path("/proc/driver/nvidia").exists()


def warn_of_cuda(torch: str) -> None:
    """Say how to get the small build, when pip's index has only the one with CUDA. Asking downloads nothing."""
    command = [str(PYTHON), "-m", "pip", "index", "versions", "--disable-pip-version-check", "torch"]
    offered = subprocess.run(command, capture_output=True, text=True).stdout
    if torch.split("==")[1] in offered and torch.split("==")[1] + "+cpu" not in offered:
        print(
            "notice: this machine has no NVIDIA GPU, but pip's index offers only the PyTorch build with CUDA (gigabytes that\n"
            "  nothing here needs). To install the CPU build instead, stop this and run: make setup TORCH_INDEX=ADDRESS,\n"
            '  with the address that pytorch.org\'s "Get Started" page shows for Linux, Pip, CPU. Going on without it.',
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
