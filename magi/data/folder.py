"""Training clips from a folder of videos. Knows which video, interval and start a sample has; not how files are read.

Everything about a sample follows from its position and the seed: epoch e takes the videos in the e-th keyed
permutation, and a video that cannot be used is replaced by the next of the same permutation, every time anew.

``B`` clips, ``T`` frames, ``S`` side of the square.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from magi.choices import check_choices
from magi.data.clips import Clips
from magi.seeds import generator
from magi.video import BadVideo, DecodedVideo, Frames, clip_indices, decode_video, find_videos, probe, ticks

FIRST_LOOK = 8  # videos probed when the source is made, so that a folder of the wrong kind fails at once
TOLERATED = 2  # bad videos that do not stop a run, however small the folder
FAIR_SAMPLE = 1000  # videos to be opened before their bad fraction speaks for the folder


@dataclass(frozen=True)
class FolderConfig:
    """Clips of `num_frames` frames, `size` x `size` pixels, from the videos at or below `path`.

    Frame intervals are U{min_interval..max_interval}. In a video too short for the largest they end at the largest that
    fits (`interval_rule` "clamp"), or else it is not used, so that all intervals are equally likely ("fixed").
    """

    path: str
    num_frames: int = 16
    size: int = 64
    min_interval: int = 1
    max_interval: int = 25
    interval_rule: Literal["clamp", "fixed"] = "clamp"
    flip: bool = True  # mirror half of the clips left to right
    seed: int = 0
    exclude: tuple[str, ...] = ()  # videos or folders, relative to `path`
    max_frames: int = 1000  # of a video that are decoded; longer ones are used up to there
    max_bad_fraction: float = 0.01  # of videos that may be unreadable before the run stops
    bad_files: str | None = None  # where to list these, as JSON lines
    cache_mb: int = 256  # for decoded videos, per process

    def __post_init__(self) -> None:
        check_choices(self)
        if self.num_frames < 1 or self.size < 1:
            raise ValueError(f"num_frames and size must be at least 1, got {self.num_frames} and {self.size}")
        if not 1 <= self.min_interval <= self.max_interval:
            raise ValueError(f"need 1 <= min_interval <= max_interval, got {self.min_interval} and {self.max_interval}")
        interval = self.max_interval if self.interval_rule == "fixed" else self.min_interval
        if self.max_frames <= (self.num_frames - 1) * interval:
            raise ValueError(f"{self.num_frames} frames at interval {interval} exceed max_frames = {self.max_frames}")
        if self.cache_mb < 0:
            raise ValueError(f"cache_mb must not be negative, got {self.cache_mb}")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"max_bad_fraction must be between 0 and 1, got {self.max_bad_fraction}")


class TooShort(BadVideo):
    """Nothing is wrong with the video but its length."""


class FolderSource:
    """A ``ClipSource`` over a folder of videos. All that it remembers saves time or words; no clip depends on it."""

    def __init__(self, config: FolderConfig) -> None:
        """List the folder and look at a few of its videos.

        Raises:
            ValueError: no such folder, no videos in it, an `exclude` that excludes nothing, or bad videos only.
        """
        self.config = config
        self.videos = _listed(config)
        self.bad: dict[Path, str] = {}  # videos met so far that could not be used, and why
        self._short: set[Path] = set()  # those of them that are only too short, which speaks for no damage
        self._opened: set[Path] = set()
        self._damaged: set[Path] = set()
        self._cache: dict[Path, DecodedVideo] = {}
        self._free_bytes = config.cache_mb * 2**20
        for place in np.linspace(0, len(self.videos) - 1, min(FIRST_LOOK, len(self.videos)), dtype=int):
            path = self.videos[place]
            self._opened.add(path)
            try:
                probe(path)
            except BadVideo as error:
                self._note(path, error)

    def clips(self, samples: Sequence[int]) -> Clips:
        """Return the clips (B, T, 3, S, S) at these positions, with the intervals that were used.

        Raises:
            ValueError: too many videos turned out to be bad.
        """
        chosen = [self._clip(sample) for sample in samples]
        video = torch.from_numpy(np.stack([frames for frames, _ in chosen]))  # (B, T, S, S, 3)
        return Clips(
            video=rearrange(video, "b t h w c -> b t c h w").contiguous(),
            interval=torch.tensor([interval for _, interval in chosen]),
            sample=torch.tensor(list(samples)),
        )

    def _clip(self, sample: int) -> tuple[Frames, int]:
        epoch, position = divmod(sample, len(self.videos))
        order = _permutation(self.config.seed, epoch, len(self.videos))
        draws = generator(self.config.seed, "folder clip", sample).random(3)
        for step in range(len(self.videos)):
            path = self.videos[order[(position + step) % len(self.videos)]]
            try:
                return self._read(path, draws)
            except BadVideo as error:
                self._note(path, error)
        raise AssertionError("a folder without a usable video is refused by _note")

    def _read(self, path: Path, draws: NDArray[np.float64]) -> tuple[Frames, int]:
        """Return the clip (T, S, S, 3) and the interval that these draws from [0, 1) choose in this video."""
        decoded = self._decode(path)
        indices, interval = self._choose(decoded, draws)
        frames = decoded.rgb(indices, size=self.config.size)
        return frames[:, :, ::-1] if self.config.flip and draws[2] < 0.5 else frames, interval

    def _choose(self, decoded: DecodedVideo, draws: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
        config = self.config
        num_frames = len(ticks(decoded.times))
        steps = config.num_frames - 1  # of one interval each, from the first frame of a clip to its last
        largest = config.max_interval
        if config.interval_rule == "clamp" and steps:
            largest = max(config.min_interval, min(largest, (num_frames - 1) // steps))
        if num_frames <= steps * largest:
            needed = f"{config.num_frames} at interval {largest} need {steps * largest + 1}"
            raise TooShort(decoded.path, f"is too short: it has {num_frames} frames, {needed}")
        interval = config.min_interval + int(draws[0] * (largest - config.min_interval + 1))
        start = int(draws[1] * (num_frames - steps * interval))
        return clip_indices(decoded.times, start=start, interval=interval, count=config.num_frames), interval

    def _decode(self, path: Path) -> DecodedVideo:
        if path in self._cache:
            return self._cache[path]
        self._opened.add(path)
        decoded = decode_video(path, max_frames=self.config.max_frames)
        if decoded.problem is not None and path not in self._damaged:
            self._damaged.add(path)
            warnings.warn(f"only the beginning is used of {path}: {decoded.problem}", stacklevel=2)
        # Nothing is ever evicted: in an epoch all videos come round once, so any that stays is as good as any other.
        if decoded.num_bytes <= self._free_bytes:
            self._free_bytes -= decoded.num_bytes
            self._cache[path] = decoded
        return decoded

    def _note(self, path: Path, error: BadVideo) -> None:
        """Name a bad video once, and stop if there are too many."""
        if path in self.bad:
            return
        reason = self.bad[path] = error.reason if error.path == str(path) else str(error)  # an image is named itself
        if isinstance(error, TooShort):
            self._short.add(path)
        self._opened.add(path)
        warnings.warn(f"not used: {path}: {reason}", stacklevel=2)
        if self.config.bad_files is not None:
            _append_once(Path(self.config.bad_files), {"path": str(path), "reason": reason})
        trusted = max(len(self._opened), min(len(self.videos), FAIR_SAMPLE))
        tolerated = max(TOLERATED, self.config.max_bad_fraction * trusted)
        if len(self.bad) == len(self.videos):
            raise ValueError(
                f"{self.config.path}: none of its {len(self.videos)} videos can be used. The last: {error}"
            )
        damaged = len(self.bad) - len(self._short)
        if damaged > tolerated:
            raise ValueError(
                f"{self.config.path}: {damaged} of the {len(self._opened)} videos opened so far cannot be read; "
                f"exclude them or raise max_bad_fraction (now {self.config.max_bad_fraction}). The last: {error}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cache behind: decoded frames cannot be sent to another process."""
        return self.__dict__ | {"_cache": {}, "_free_bytes": self.config.cache_mb * 2**20}


def _listed(config: FolderConfig) -> list[Path]:
    root = Path(config.path)
    if not root.is_dir():
        raise ValueError(f"{root} is a file, not a folder of videos" if root.exists() else f"{root} does not exist")
    videos = find_videos(root)
    if not videos:
        raise ValueError(f"{root} holds no video files and no folders of numbered images")
    excluded = {Path(name) for name in config.exclude}
    names = {path: path.relative_to(root) for path in videos}
    unknown = excluded - {place for name in names.values() for place in (name, *name.parents)}
    if unknown:
        raise ValueError(f"exclude names what is not in {root}: {', '.join(sorted(map(str, unknown)))}")
    kept = [path for path in videos if excluded.isdisjoint((names[path], *names[path].parents))]
    if not kept:
        raise ValueError(f"exclude leaves none of the {len(videos)} videos in {root}")
    return kept


def _append_once(file: Path, record: dict[str, str]) -> None:
    """Add a JSON line, unless another process has already done so."""
    line = json.dumps(record) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+", encoding="utf-8") as lines:
        lines.seek(0)
        if line not in lines:
            lines.write(line)


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def _permutation(seed: int, epoch: int, num_videos: int) -> NDArray[np.int64]:
    return generator(seed, "folder order", epoch).permutation(num_videos)
