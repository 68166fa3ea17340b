"""The models that ship with the package, one folder each: weights, configuration, and a card that says how they were made."""

from __future__ import annotations

from pathlib import Path

SHELF = Path(__file__).parent


def pretrained(name: str = "world64") -> Path:
    """The folder of a model that ships with the package.

    Raises:
        ValueError: there is none of that name.
    """
    known = sorted(path.parent.name for path in SHELF.glob("*/config.json"))
    if name not in known:
        raise ValueError(f"no pretrained model {name!r}; there {'is' if len(known) == 1 else 'are'} {', '.join(known) or 'none'}")
    return SHELF / name
