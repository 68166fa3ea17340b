"""The videos of a data set by number: what an index holds and a source takes clips from. Opens no video."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A video of a data set."""

    name: str  # relative to the root, with forward slashes; unique, and the same on every machine
    label: int | None = None  # number of its class
    num_bytes: int | None = (
        None  # of its file when the index was built; None for a folder of pictures, or where unknown
    )


@dataclass(frozen=True)
class Listing:
    """The videos of a data set, in an order that is the same wherever and whenever it is listed."""

    root: Path
    entries: tuple[Entry, ...]
    classes: tuple[str, ...] = ()  # names by label

    def path(self, number: int) -> Path:
        """Where video `number` lies."""
        return self.root / self.entries[number].name

    def fingerprint(self) -> str:
        """SHA-256 of what the videos are, as far as names, sizes and labels tell; not of where they lie."""
        digest = hashlib.sha256()
        for entry in self.entries:
            digest.update(repr((entry.name, entry.label, entry.num_bytes)).encode())
        return digest.hexdigest()
