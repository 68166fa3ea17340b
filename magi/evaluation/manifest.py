"""The real clips of a protocol: drawn once by seed and rule, kept in a file, and the same ever after.

    {"magi_manifest": 1, "protocol": "latte", "protocol_fingerprint": ..., "source": ..., "clips": 2048}
    ["Archery/v_Archery_g01_c01.avi", 17, 3, 0]        video, start, interval, label
    ...
    {"sha256": ...}                                    of all lines above

Knows the numbers and lengths of videos, not their pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from magi.checkpoint import write_whole
from magi.data.datasets.listing import Listing
from magi.evaluation.protocols import ANY, Protocol
from magi.seeds import generator

VERSION = 1

Lengths = Callable[[int], int | None]
"""Frames of video number i at its nominal rate; None for one that cannot be read."""


@dataclass(frozen=True)
class RealClip:
    """A clip of a video."""

    video: str
    """Relative to the folder of the data set, with forward slashes."""
    start: int
    interval: int
    label: int | None = None


@dataclass(frozen=True)
class Manifest:
    """The real clips of a protocol, in order; generated clip i of a prediction continues real clip i."""

    protocol: str
    protocol_fingerprint: str
    source: str
    """`Listing.fingerprint`: names, sizes and labels of all videos there were to choose from."""
    clips: tuple[RealClip, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file that `write` makes, its last line aside."""
        return hashlib.sha256(_body(self)).hexdigest()


def draw(protocol: Protocol, listing: Listing, lengths: Lengths) -> Manifest:
    """Choose the real clips of a protocol: a function of the protocol, the listing and the lengths alone.

    Videos are taken in a keyed permutation, or in order where the protocol takes the first. A video's random start is
    keyed on its name, so that it does not depend on which others there are.

    Raises:
        ValueError: a video is too short and the protocol refuses it, or the videos do not give enough clips.
    """
    number = len(listing.entries)
    order = range(number) if protocol.pick == "first" else _order(protocol.seed, number)
    found: list[list[RealClip]] = []
    have = 0
    rounds = protocol.real_per_video != 1  # else the first videos that are long enough are all that is opened
    for video in order:
        if not rounds and have == protocol.real_count:
            break
        entry, length = listing.entries[video], lengths(video)
        if length is None:
            continue
        if length < protocol.fewest_frames or length < protocol.span:
            if protocol.short_videos == "refuse":
                raise ValueError(
                    f"{listing.root / entry.name} has {length} frames; protocol {protocol.name} needs "
                    f"{max(protocol.fewest_frames, protocol.span)} of every video: leave it out"
                )
            continue
        starts = _starts(protocol, entry.name, length)
        found.append([RealClip(entry.name, start, protocol.real_interval, entry.label) for start in starts])
        have += len(starts)
    if have < protocol.real_count:
        raise ValueError(
            f"{listing.root}: protocol {protocol.name} needs {protocol.real_count:,} clips and the {number:,} videos "
            f"give {have:,}; --clips N takes fewer, and renames the protocol"
        )
    chosen = _chosen(protocol, found)
    return Manifest(protocol.name, protocol.fingerprint, listing.fingerprint(), chosen)


def _order(seed: int, number: int) -> list[int]:
    return [int(video) for video in generator(seed, "protocol videos").permutation(number)]


def _starts(protocol: Protocol, name: str, length: int) -> list[int]:
    """Where the clips of a video begin."""
    room = length - protocol.span
    if protocol.offset == "first":
        return [0]
    if protocol.offset == "centre":
        return [room // 2]
    if protocol.offset == "tiles":
        step = protocol.clip_frames * protocol.real_interval
        starts = list(range(0, room + 1, step))
        return starts if protocol.real_per_video == ANY else starts[: protocol.real_per_video]
    assert protocol.real_per_video != ANY, "random starts have no end"
    key = int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")
    places = generator(protocol.seed, "protocol start", key).permutation(room + 1)  # no clip twice
    return [int(place) for place in places[: protocol.real_per_video]]


def _chosen(protocol: Protocol, found: list[list[RealClip]]) -> tuple[RealClip, ...]:
    """So many clips: of cut-up videos any, each as likely; else one of each video before a second of any."""
    if protocol.offset == "tiles":
        flat = [clip for clips in found for clip in clips]
        some = generator(protocol.seed, "protocol tiles").permutation(len(flat))[: protocol.real_count]
        return tuple(flat[int(place)] for place in some)
    longest = max((len(clips) for clips in found), default=0)
    rounds = [clips[turn] for turn in range(longest) for clips in found if turn < len(clips)]
    return tuple(rounds[: protocol.real_count])


def _lines(manifest: Manifest) -> Iterator[str]:
    yield json.dumps(
        {
            "magi_manifest": VERSION,
            "protocol": manifest.protocol,
            "protocol_fingerprint": manifest.protocol_fingerprint,
            "source": manifest.source,
            "clips": len(manifest.clips),
        }
    )
    for clip in manifest.clips:
        yield json.dumps([clip.video, clip.start, clip.interval, clip.label])


def _body(manifest: Manifest) -> bytes:
    return "".join(f"{line}\n" for line in _lines(manifest)).encode()


def write(manifest: Manifest, file: Path) -> None:
    """Write the file whole: its name never stands for half of it."""
    last = json.dumps({"sha256": manifest.fingerprint})
    write_whole(file, f"{_body(manifest).decode()}{last}\n")


def read(file: Path) -> Manifest:
    """Read a manifest and check its hash.

    Raises:
        ValueError: not a manifest, one of another format, or a damaged one.
    """
    data = file.read_bytes()
    last = data.rfind(b"\n", 0, -1) + 1
    try:
        header = json.loads(data[: data.find(b"\n") + 1])
        version = header["magi_manifest"]
        told = json.loads(data[last:])["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no manifest of real clips, or a damaged one; delete it to draw anew") from error
    if version != VERSION:
        raise ValueError(f"{file} has format {version!r}; this version reads format {VERSION}")
    if told != hashlib.sha256(data[:last]).hexdigest():
        raise ValueError(f"{file} is damaged: its SHA-256 does not fit; delete it to draw anew")
    rows: list[list[Any]] = [json.loads(line) for line in data[:last].splitlines()[1:]]
    clips = tuple(RealClip(*row) for row in rows)
    return Manifest(header["protocol"], header["protocol_fingerprint"], header["source"], clips)


def reuse_or_draw(file: Path, protocol: Protocol, listing: Listing, lengths: Lengths) -> Manifest:
    """The manifest of an earlier run if there is one, else a new one, written to `file`.

    Raises:
        ValueError: the file is of another protocol or of other videos, with both values; or see `draw` and `read`.
    """
    if not file.exists():
        write(draw(protocol, listing, lengths), file)
    manifest = read(file)
    remedy = "give another --work, or delete it to draw anew"
    if manifest.protocol_fingerprint != protocol.fingerprint:
        raise ValueError(
            f"{file} is of protocol {manifest.protocol} ({manifest.protocol_fingerprint[:12]}), not of {protocol.name} "
            f"({protocol.fingerprint[:12]}); {remedy}"
        )
    if manifest.source != listing.fingerprint():
        raise ValueError(
            f"{file} was drawn from other videos ({manifest.source[:12]}) than {listing.root} holds "
            f"({listing.fingerprint()[:12]}); {remedy}"
        )
    return manifest


def lengths_of(listing: Listing, open_frames: Callable[[Path], int | None]) -> Lengths:
    """Lengths from the index where it has counted, else by opening the video."""
    return partial(_length, listing, open_frames)


def _length(listing: Listing, open_frames: Callable[[Path], int | None], video: int) -> int | None:
    counted = listing.entries[video].num_frames
    return counted if counted is not None else open_frames(listing.path(video))
