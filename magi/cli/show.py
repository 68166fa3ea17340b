"""What several verbs say and do alike: quantities, progress, and folders that are not written over."""

from __future__ import annotations

import sys
from pathlib import Path


def quantity(value: float, unit: str = "") -> str:
    """Four figures and a decimal prefix: 808,678,944 is 808.7 M."""
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}".strip()


def progress(done: int, total: int, what: str) -> None:
    """Show how far a loop is: a line that renews itself on a terminal, the last one alone elsewhere."""
    if sys.stdout.isatty():
        print(f"\r{done} of {total} {what}", end="\n" if done == total else "", flush=True)
    elif done == total:
        print(f"{done} {what}", flush=True)


def new_folder(path: Path) -> Path:
    """Make a folder for results.

    Raises:
        ValueError: it is there and not empty.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists and is not an empty folder; give another --out, or delete it")
    path.mkdir(parents=True, exist_ok=True)
    return path
