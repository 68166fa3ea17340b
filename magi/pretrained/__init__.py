"""The networks that ship with the package, one folder each: weights, configuration, and a card that says how they were
made. Most are models to sample from; a detector, which only looks, has weights of another name."""

from __future__ import annotations

from pathlib import Path

SHELF = Path(__file__).parent


def names() -> list[str]:
    """The pretrained models there are to sample from."""
    return sorted(path.parent.name for path in SHELF.glob("*/model.safetensors"))


def find(name: str | Path) -> Path:
    """The folder of a pretrained model if `name` is one, else the folder that `name` says."""
    return SHELF / str(name) if str(name) in names() else Path(name)
