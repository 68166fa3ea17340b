"""Latent frames on the disk as soon as each is finished: a kill costs the frame in the making, and no other.

A journal is one file of records: what the frames are of, as JSON, then frame after frame as safetensors. The checksum
of a record covers all that precede it, so a frame of another video, or in another place, is not taken for one of
these. What a kill tore or the disk lost ends the list; the frames from there on are made again, and are the same. Knows
files and tensors, not how frames are made.

Shapes: B videos, C latent channels, h x w latent size.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from safetensors.torch import load, save
from torch import Tensor

from magi.checkpoint import compare_configs, write_whole

FORMAT = 1
HEAD = 82  # bytes before the body of a record: its length, its checksum
SECONDS = 1.0  # of work that a power failure may cost; a kill takes nothing back that was written


class Journal:
    """The finished latent frames of a batch of videos, the next one after `done` others."""

    def __init__(self, path: Path, of: Mapping[str, Any]) -> None:
        """Read the journal of an interrupted call; without one, be ready to begin it.

        Args:
            path: of the file.
            of: plain data that decides every bit of the frames.

        Raises:
            ValueError: the file is the journal of something else, which is named, or its beginning is damaged.
        """
        self.path = path
        self.of = of
        self.done = 0
        self.frames: list[Tensor] = []  # (B, C, h, w) each, found
        self.added = 0  # frames since
        self._begun = False  # whether there is a file that says what it is of
        self._digest = ""
        self._file: BinaryIO | None = None
        self._flushed = 0.0
        if path.exists():
            self._read()

    def keep(self, made: Iterable[Tensor]) -> Iterator[Tensor]:
        """The frames (B, C, h, w), of which the first are those found, and each other one once it is written. The file
        is there from this call on."""
        if not self._begun:
            self._begin()
        return self._keeping(made)

    def turn(self, done: int, *, files: Sequence[Path]) -> None:
        """Go on to the next batch, after `done` videos; their files reach the disk before their frames are let go."""
        for path in {*files, *(file.parent for file in files)}:  # what is in them, and their names
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        self.close()
        self.frames, self.added, self.done = [], 0, done
        self._begin()

    def close(self) -> None:
        """Let go of the file, which stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Delete the file: all that it was kept for is finished."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _begin(self) -> None:
        """Put a journal without frames in the place of whatever is there."""
        body = json.dumps({"format": FORMAT, "done": self.done, "of": self.of})
        head, self._digest = _head("", body.encode())
        write_whole(self.path, head.decode() + body)
        self._begun = True

    def _keeping(self, made: Iterable[Tensor]) -> Iterator[Tensor]:
        for number, frame in enumerate(made):
            if number >= len(self.frames):
                self._append(frame)
            yield frame

    def _append(self, frame: Tensor) -> None:
        if self._file is None:
            self._file = self.path.open("ab")
        body = save({"frame": frame.cpu().contiguous()})
        head, self._digest = _head(self._digest, body)
        self._file.write(head + body)
        self._file.flush()
        self.added += 1
        if (now := time.monotonic()) > self._flushed + SECONDS:
            os.fsync(self._file.fileno())
            self._flushed = now

    def _read(self) -> None:
        records, end = _whole_records(self.path)
        if not records:
            raise ValueError(f"{self.path} is damaged at its beginning; delete what was begun with it, and begin anew")
        (begun, _), *frames = records
        self._take(json.loads(begun))
        self.frames = [load(body)["frame"] for body, _ in frames]
        _, self._digest = records[-1]
        lost = self.path.stat().st_size - end
        if lost:
            warnings.warn(
                f"{self.path}: {lost} bytes after {len(self.frames)} whole frames are torn or damaged; what they held "
                "is made again",
                stacklevel=3,
            )
            os.truncate(self.path, end)

    def _take(self, begun: dict[str, Any]) -> None:
        """The first record: is this the journal that was meant?"""
        if begun["format"] != FORMAT:
            raise ValueError(f"{self.path} has format {begun['format']!r}; this version of magi reads format {FORMAT}")
        check_same(self.path, begun["of"], self.of)
        self.done, self._begun = begun["done"], True


def check_same(path: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises:
    ValueError: two sets of settings differ; with every name and both values.
    """
    differences = compare_configs(saved, json.loads(json.dumps(now)))  # tuples become lists
    if differences:
        raise ValueError(f"{path} was begun with other settings: {'; '.join(differences)}; resume with the same ones")


def _head(before: str, body: bytes) -> tuple[bytes, str]:
    """What stands before a record, and its checksum, which follows on that of the record before."""
    digest = hashlib.sha256(before.encode() + body).hexdigest()
    return f"{len(body):016d} {digest}\n".encode(), digest


def _whole_records(path: Path) -> tuple[list[tuple[bytes, str]], int]:
    """The records of a file, body and checksum, up to the first that is not whole, and where they end."""
    size, end, digest, records = path.stat().st_size, 0, "", []
    with path.open("rb") as file:
        while len(head := file.read(HEAD)) == HEAD and head[:16].isdigit() and end + HEAD + int(head[:16]) <= size:
            body = file.read(int(head[:16]))
            expected, digest = _head(digest, body)
            if head != expected:
                break
            records.append((body, digest))
            end = file.tell()
    return records, end
