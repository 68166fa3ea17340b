"""Which videos lie in a tree of folders, and how large they are. Opens no video, and knows no data set.

The same videos as `magi.video.find_videos` finds, in the same order; what was seen of a folder can be kept, so that a
scan that was stopped goes on.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magi.data.datasets.journal import Journal
from magi.data.datasets.listing import in_order
from magi.video import VIDEO_SUFFIXES
from magi.video.reading import IMAGE_SUFFIXES

PART = 10_000  # videos of one folder after which the journal learns of them


@dataclass(frozen=True)
class Found:
    """What a scan has seen."""

    videos: tuple[tuple[str, int | None], ...]  # name relative to the root and bytes, None for a folder of pictures
    folders: dict[str, int]  # how many videos each folder holds itself; -1 if it is there under another name too


@dataclass(frozen=True)
class Folder:
    """One folder of a tree."""

    videos: dict[str, int | None]  # bytes by name in the folder; "" is the folder itself, if it holds numbered pictures
    folders: list[str]  # names of those in it


def scan(root: Path, tops: Sequence[str] = ("",), *, journal: Journal | None = None) -> Found:
    """Find every video file and folder of numbered images at or below `root`/`tops`; hidden names are skipped.

    A folder that the journal has seen, and that nothing was added to or taken from since, is not looked into again.
    """
    seen = _Seen(journal)
    videos: list[tuple[str, int | None]] = []
    counts: dict[str, int] = {}
    visited: set[str] = set()  # links to folders are followed, circles of them are not
    waiting = list(reversed(tops))
    while waiting:
        name = waiting.pop()
        real = os.path.realpath(root / name)
        if real in visited:
            counts[name] = -1
            continue
        visited.add(real)
        folder = seen.look_into(root, name)
        counts[name] = len(folder.videos)
        videos += [(_joined(name, video) or ".", size) for video, size in folder.videos.items()]
        waiting += [_joined(name, below) for below in reversed(folder.folders)]
    return Found(tuple(sorted(videos, key=lambda video: in_order(video[0]))), counts)


def look_into(path: Path, *, known: dict[str, int | None] | None = None, seen: Any = None) -> Folder:
    """What one folder holds, its folders sorted by name.

    Args:
        path: the folder.
        known: sizes that need not be asked for.
        seen: is called with every `PART` videos, name and bytes, whose sizes had to be asked for.
    """
    known = known or {}
    videos: dict[str, int | None] = {}
    asked: dict[str, int | None] = {}
    folders, pictures = [], False
    try:
        entries = os.scandir(path)
    except PermissionError as error:
        warnings.warn(f"not looked into: {path}: {error.strerror}", stacklevel=2)
        return Folder({}, [])
    with entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            stem, suffix = os.path.splitext(entry.name)
            if entry.is_dir():
                folders.append(entry.name)
            elif suffix.lower() in VIDEO_SUFFIXES:
                if entry.name not in known:
                    asked[entry.name] = _size(entry)
                videos[entry.name] = known[entry.name] if entry.name in known else asked[entry.name]
                if seen is not None and len(asked) == PART:
                    seen(asked)
                    asked = {}
            elif suffix.lower() in IMAGE_SUFFIXES and stem[-1:].isdecimal():
                pictures = True
    return Folder(videos | ({"": None} if pictures else {}), sorted(folders))


class _Seen:
    """What the journal knows of folders."""

    def __init__(self, journal: Journal | None) -> None:
        self.journal = journal
        self.folders: dict[str, tuple[int, Folder]] = {}  # those finished, with the time of their last change
        self.parts: dict[str, dict[str, int | None]] = {}  # what is known of the others
        for record in journal.records if journal is not None else ():
            if "part" in record:
                self.parts.setdefault(record["folder"], {}).update(record["part"])
            elif "folder" in record:
                self.folders[record["folder"]] = (record["changed"], Folder(record["videos"], record["folders"]))

    def look_into(self, root: Path, name: str) -> Folder:
        changed = (root / name).stat().st_mtime_ns
        before = self.folders.get(name)
        if before is not None and before[0] == changed:
            return before[1]
        journal = self.journal
        if journal is None:
            return look_into(root / name)
        folder = look_into(
            root / name,
            known=None if before is not None else self.parts.get(name),
            seen=lambda part: journal.add({"folder": name, "part": part}),
        )
        journal.add({"folder": name, "changed": changed, "videos": folder.videos, "folders": folder.folders})
        return folder


def _size(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat().st_size
    except OSError:  # a link that leads nowhere: whoever opens it will say so
        return None


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name
