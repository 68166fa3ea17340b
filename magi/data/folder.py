"""Training clips from the videos of a data set. Knows how they are read and what bad ones do; not which videos a data
set has, nor where in a video a clip lies.

``B`` clips, ``T`` frames, ``S`` side of the square.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from magi.choices import check_choices
from magi.data.clips import Clips
from magi.data.datasets.catalogue import DatasetName, Selection, Split, look
from magi.data.datasets.index import index_file, load_index
from magi.data.datasets.listing import Entry, Listing
from magi.data.order import ClipShape, Draws, IntervalRule, TooFew, candidates, draws_of
from magi.video import BadVideo, Frames, IsolatedReader, ReadableVideo, clip_indices, open_video, ticks

FIRST_LOOK = (
    8  # videos whose first frame is read when the source is made, so that a folder of the wrong kind fails at once
)
TOLERATED = 2  # bad videos that do not stop a run, however small the folder
FAIR_SAMPLE = 1000  # videos to be opened before their bad fraction speaks for the folder
MANY = 50_000  # videos from which on looking for them at every start is worth a word


@dataclass(frozen=True)
class FolderConfig:
    """Clips of `num_frames` frames, `size` x `size` pixels, from the videos at or below `path`.

    Frame intervals are U{min_interval..max_interval} and obey the `interval_rule` of `ClipShape` in short videos:
    "clamp" draws up to the largest that fits, "reject" takes another video, "fixed" is one interval.
    """

    path: str
    dataset: DatasetName = "folder"  # "folder" is any folder of videos
    split: Split | None = None  # None is all of UCF-101, and the training set of Kinetics-600
    annotations: str | None = None  # of UCF-101 or Kinetics-600, where they do not lie with the videos
    index: str | None = None  # as magi data index makes it; None is the one in `path`, if there is one
    num_frames: int = 16
    size: int = 64
    min_interval: int = 1
    max_interval: int = 25
    interval_rule: IntervalRule = "clamp"
    crop: Literal["centre", "random"] = "centre"  # which square of a picture that is none
    flip: bool = True  # mirror half of the clips left to right
    seed: int = 0
    exclude: tuple[str, ...] = ()  # videos or folders, relative to `path`; or to UCF-101's folder of classes
    max_frames: int = 1000  # of a video that are decoded; longer ones are used up to there
    max_bad_fraction: float = 0.01  # of videos that may be unreadable before the run stops
    bad_files: str | None = None  # where to list these, as JSON lines
    cache_mb: int = 256  # for frames of videos that were read, per process
    isolate: bool = True  # read in a process of its own, which a broken file may crash or hang

    def __post_init__(self) -> None:
        check_choices(self)
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        shape, _ = self.shape, self.selection  # which refuse what does not fit
        interval = shape.min_interval if shape.rule == "clamp" else shape.max_interval
        if self.max_frames <= (shape.num_frames - 1) * interval:
            raise ValueError(f"{self.num_frames} frames at interval {interval} exceed max_frames = {self.max_frames}")
        if self.cache_mb < 0:
            raise ValueError(f"cache_mb must not be negative, got {self.cache_mb}")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"max_bad_fraction must be between 0 and 1, got {self.max_bad_fraction}")

    @property
    def shape(self) -> ClipShape:
        """How clips are laid into videos."""
        return ClipShape(self.num_frames, self.min_interval, self.max_interval, self.interval_rule)

    @property
    def selection(self) -> Selection:
        """Which videos."""
        annotations = Path(self.annotations) if self.annotations is not None else None
        return Selection(Path(self.path), self.dataset, self.split, annotations)


class TooShort(BadVideo):
    """Nothing is wrong with the video but its length."""


class FolderSource:
    """A ``ClipSource`` over a data set of videos. All that it remembers saves time or words; no clip depends on it."""

    def __init__(self, config: FolderConfig) -> None:
        """List the videos, or read their index, and look at a few of them.

        Raises:
            ValueError: no such folder, no videos of the data set in it, an index of other or of changed data, an
                `exclude` that excludes nothing, or bad videos only.
        """
        self.config = config
        self.shape = config.shape
        self.listing = list_videos(config)
        self.bad: dict[Path, str] = {}  # videos met so far that could not be used, and why
        self._short: set[Path] = set()  # those of them that are only too short, which speaks for no damage
        self._opened: set[Path] = set()
        self._damaged: set[Path] = set()
        self._lengths: dict[int, int] = {}  # of videos that were opened, in frames
        self._open = IsolatedReader().open if config.isolate else open_video
        self._videos: dict[Path, ReadableVideo] = {}
        self._frames: dict[Path, Frames] = {}  # all frames of a video, as large as clips are
        self._never_whole: set[Path] = set()  # videos of which not all frames can be read
        self._free_bytes = config.cache_mb * 2**20
        count = len(self.listing.entries)
        for number in np.linspace(0, count - 1, min(FIRST_LOOK, count), dtype=int).tolist():
            path = self.listing.path(number)
            self._opened.add(path)
            try:
                self._open(path, max_frames=1).rgb([0], size=config.size)
            except BadVideo as error:
                self._note(path, error)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of which videos there are, in order: a run that is resumed with others would see other clips."""
        return self.listing.fingerprint()

    def clips(self, samples: Sequence[int]) -> Clips:
        """Return the clips (B, T, 3, S, S) at these positions, with the intervals that were used.

        Raises:
            ValueError: too many videos turned out to be bad, or none is long enough for the interval that was drawn.
        """
        chosen = [self._clip(sample) for sample in samples]
        video = torch.from_numpy(np.stack([frames for frames, _, _ in chosen]))  # (B, T, S, S, 3)
        labels = [label for _, _, label in chosen if label is not None]
        return Clips(
            video=rearrange(video, "b t h w c -> b t c h w").contiguous(),
            interval=torch.tensor([interval for _, interval, _ in chosen]),
            sample=torch.tensor(list(samples)),
            label=torch.tensor(labels) if len(labels) == len(chosen) else None,
        )

    def _clip(self, sample: int) -> tuple[Frames, int, int | None]:
        """The clip (T, S, S, 3) of this sample, its interval and its label."""
        draws = draws_of(self.config.seed, sample)
        for number in candidates(self.config.seed, sample, len(self.listing.entries)):
            try:
                frames, interval = self._read(number, draws)
                return frames, interval, self.listing.entries[number].label
            except BadVideo as error:
                self._note(self.listing.path(number), error)
            except TooFew:  # under "reject", for this draw alone
                continue
        longest = max(self._lengths.values())
        _, interval = self.shape.place(self.config.max_frames, draws)
        raise ValueError(
            f"{self.config.path}: no video is long enough for interval {interval}: {self.shape.num_frames} frames need "
            f"{1 + (self.shape.num_frames - 1) * interval}, the longest has {longest}; lower max_interval, or set "
            "interval_rule to clamp"
        )

    def _read(self, number: int, draws: Draws) -> tuple[Frames, int]:
        """Return the clip (T, S, S, 3) and the interval that these draws choose in this video."""
        path, video = self.listing.path(number), None
        if number not in self._lengths:
            video = self._video(path)
            self._lengths[number] = len(ticks(video.times))
        length = self._lengths[number]
        if length < self.shape.shortest:
            needed = f"{self.shape.num_frames} at interval {self.shape.min_interval} need {self.shape.shortest}"
            raise TooShort(path, f"is too short: it has {length} frames, {needed}")
        start, interval = self.shape.place(length, draws)
        video = video or self._video(path)
        indices = clip_indices(video.times, start=start, interval=interval, count=self.shape.num_frames)
        frames = self._pictures(path, video, indices, draws)
        return frames[:, :, ::-1] if self.config.flip and draws.flip < 0.5 else frames, interval

    def _video(self, path: Path) -> ReadableVideo:
        if path in self._videos:
            return self._videos[path]
        self._opened.add(path)
        video = self._open(path, max_frames=self.config.max_frames)
        if video.problem is not None and path not in self._damaged:
            self._damaged.add(path)
            warnings.warn(f"only the beginning is used of {path}: {video.problem}", stacklevel=2)
        if self._reserve(video.num_bytes):
            self._videos[path] = video
        return video

    def _pictures(self, path: Path, video: ReadableVideo, indices: NDArray[np.int64], draws: Draws) -> Frames:
        """These frames (T, S, S, 3), decoded alone; or, where all of a video can be kept, from what was kept."""
        size = self.config.size
        if self.config.crop == "random":
            return video.rgb(indices, size=size, top=draws.top, left=draws.left)
        if path not in self._frames:
            num_bytes = len(video.times) * size * size * 3
            if path in self._never_whole or not self._reserve(num_bytes):
                return video.rgb(indices, size=size)
            try:
                self._frames[path] = video.rgb(size=size)
            except BadVideo:  # perhaps not these frames
                self._never_whole.add(path)
                self._free_bytes += num_bytes
                return video.rgb(indices, size=size)
        return self._frames[path][indices]

    def _reserve(self, num_bytes: int) -> bool:
        """Whether so much can be kept for good.

        Nothing is ever evicted: in an epoch all videos come round once, so any that stays is as good as any other.
        """
        if num_bytes > self._free_bytes:
            return False
        self._free_bytes -= num_bytes
        return True

    def _note(self, path: Path, error: BadVideo) -> None:
        """Name a bad video once, and stop if there are too many."""
        if path in self.bad:
            return
        reason = self.bad[path] = error.reason if error.path == str(path) else str(error)  # an image is named itself
        if isinstance(error, TooShort):
            self._short.add(path)
        self._opened.add(path)
        count = len(self.listing.entries)
        warnings.warn(
            f"not used: {path}: {reason} (so far {len(self.bad)} of {count} videos; a share of "
            f"{self.config.max_bad_fraction:g} may be unreadable)",
            stacklevel=2,
        )
        if self.config.bad_files is not None:
            _append_once(Path(self.config.bad_files), {"path": str(path), "reason": reason})
        tolerated = max(TOLERATED, self.config.max_bad_fraction * max(len(self._opened), min(count, FAIR_SAMPLE)))
        if len(self.bad) == count:
            raise ValueError(f"{self.config.path}: none of its {count} videos can be used. The last: {error}")
        damaged = len(self.bad) - len(self._short)
        if damaged > tolerated:
            raise ValueError(
                f"{self.config.path}: {damaged} of the {len(self._opened)} videos opened so far cannot be read; "
                f"exclude them or raise max_bad_fraction (now {self.config.max_bad_fraction}). The last: {error}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what is kept: another process has its own, and its own reader."""
        return self.__dict__ | {"_videos": {}, "_frames": {}, "_free_bytes": self.config.cache_mb * 2**20}


def list_videos(config: FolderConfig) -> Listing:
    """Return the videos that `config` names, from their index if there is one.

    Raises:
        ValueError: see `FolderSource`.
    """
    selection = config.selection
    file = Path(config.index) if config.index is not None else index_file(selection)
    if config.index is not None or file.exists():
        listing = load_index(selection, file).listing
    else:
        chosen, found = look(selection)
        for remark in chosen.remarks:
            warnings.warn(remark, stacklevel=2)
        if len(found.videos) >= MANY:
            warnings.warn(
                f"{len(found.videos)} files were looked at; magi data index does it once and for all", stacklevel=2
            )
        listing = chosen.listing
    return _without(listing, config.exclude) if config.exclude else listing


def _without(listing: Listing, exclude: tuple[str, ...]) -> Listing:
    excluded = {PurePosixPath(Path(name).as_posix()) for name in exclude}
    kept: list[Entry] = []
    met: set[PurePosixPath] = set()
    for entry in listing.entries:
        name = PurePosixPath(entry.name)
        names = excluded & {name, *name.parents}
        met |= names
        kept += [] if names else [entry]
    unknown = excluded - met
    if unknown:
        raise ValueError(f"exclude names what is not in {listing.root}: {', '.join(sorted(map(str, unknown)))}")
    if not kept:
        raise ValueError(f"exclude leaves none of the {len(listing.entries)} videos in {listing.root}")
    return Listing(listing.root, tuple(kept), listing.classes)


def _append_once(file: Path, record: dict[str, str]) -> None:
    """Add a JSON line, unless another process has already done so."""
    line = json.dumps(record) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+", encoding="utf-8") as lines:
        lines.seek(0)
        if line not in lines:
            lines.write(line)
