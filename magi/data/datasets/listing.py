"""The videos of a data set by number: what an index holds and a source takes clips from. Opens no video."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = 3  # names that stand for many in a message


@dataclass(frozen=True, slots=True)
class Entry:
    """A video of a data set."""

    name: str  # relative to the root, with forward slashes; unique, and the same on every machine
    label: int | None = None  # number of its class
    num_bytes: int | None = (
        None  # of its file when the index was built; None for a folder of pictures, or where unknown
    )
    num_frames: int | None = None  # that intervals are laid into; None where nobody has counted


@dataclass(frozen=True)
class Listing:
    """The videos of a data set, in an order that is the same wherever and whenever it is listed."""

    root: Path
    entries: tuple[Entry, ...]
    classes: tuple[str, ...] = ()  # names by label

    def path(self, number: int) -> Path:
        """Where video `number` lies.

        Raises:
            ValueError: not below the root: an index may come from anywhere.
        """
        return below(self.root, self.entries[number].name)

    def fingerprint(self) -> str:
        """SHA-256 of what the videos are, as far as names, sizes and labels tell; not of where they lie."""
        digest = hashlib.sha256()
        for entry in self.entries:
            digest.update(repr((entry.name, entry.label, entry.num_bytes)).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Tree:
    """Where the videos of a data set are to be looked for, and what says which of them belong to it."""

    root: Path
    tops: tuple[str, ...] = ("",)  # folders below the root that hold all of them; "" is the root itself
    annotations: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """The videos of a data set that were found, and what is odd about it."""

    listing: Listing
    missing: tuple[str, ...] = ()  # videos that the annotations name and the disk does not have
    unlisted: tuple[str, ...] = ()  # videos on the disk that no annotation names
    remarks: tuple[str, ...] = ()  # for the user, each in one line


def below(root: Path, name: str) -> Path:
    """The place of this name below a folder, whoever wrote the name.

    Raises:
        ValueError: it is no name, is absolute, or climbs out of the folder.
    """
    if not isinstance(name, str) or name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise ValueError(f"{name!r} is no place below {root}; what names it is damaged, or made to do harm: delete it")
    return root / name


def in_order(name: str) -> list[str]:
    """Sort by this: folder by folder, so that "a/z" comes before "a b/a"."""
    return name.split("/") if name != "." else []  # the root itself, a folder of pictures


def examples(names: Sequence[str]) -> str:
    """The first few of many names, for a message."""
    return ", ".join(names[:EXAMPLES]) + (" ..." if len(names) > EXAMPLES else "")
