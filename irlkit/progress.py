"""Progress of long work: a bar with an estimate in a terminal, or in the file named by $IRLKIT_PROGRESS; never in a notebook."""

import os
import sys
import warnings

import datasets
import transformers
from tqdm import tqdm


def bar(iterable=None, *, total=None, description="", unit="it"):
    """A tqdm bar over `iterable`, or one to be updated by hand; silent where nobody can see it."""
    path = os.environ.get("IRLKIT_PROGRESS")
    stream = open(path, "w", encoding="utf-8", buffering=1) if path else sys.stderr
    return tqdm(iterable, total=total, desc=description, unit=unit, file=stream, ascii=True, ncols=90,
                disable=not (path or sys.stderr.isatty()))


def hush():
    """Silence the libraries' own bars, and two notices that say nothing about the work, where there is no terminal."""
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message=".*(gradient_checkpointing|activation_checkpointing).*", category=FutureWarning)


hush()
