"""What a planted bug is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest import MonkeyPatch

Plant = Callable[[MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    """A bug: what it is, how to plant it until the patch is undone, and the tests each of which must fail."""

    name: str
    plant: Plant
    tests: tuple[str, ...]
