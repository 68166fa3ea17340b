"""Read video files and folders of numbered images. Knows containers, codecs and images; writes nothing.

Files are not trusted: whatever cannot be read safely raises ``BadVideo``, and of a damaged file only what precedes the
damage is delivered. Frames are counted in the order in which the decoder delivers them, never by time stamp.

``T`` frames, ``H`` x ``W`` pixels, ``S`` side of a square.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from magi.video.damage import DamageDetector
from magi.video.frames import Frames, fit
from magi.video.libraries import pillow, pyav
from magi.video.timing import DEFAULT_FPS, believable_times, nominal_period
from magi.video.untrusted import (
    MAX_BYTES,
    MAX_FRAMES,
    MAX_PIXELS,
    BadVideo,
    brief,
    decoding_errors,
    frame_rate,
    open_stream,
    promised_seconds,
)

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".gif"})
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
BATCH_BYTES = 2**25  # of pictures that are resized together: 5 of 1080p
MAX_RGB_BYTES = 4 * MAX_BYTES  # of one answer: as RGB, a picture takes two to three times what its decoder gave


@dataclass(frozen=True)
class VideoInfo:
    """What the header and the first frame say."""

    width: int  # of the upright picture
    height: int
    num_frames: int | None  # as the header has it, a little wrong in some files; None where it does not say, as in webm
    fps: float
    duration: float | None  # seconds
    rotation: int  # degrees counterclockwise, 0..359, by which reading turns the stored picture
    codec: str


@dataclass(frozen=True)
class Video:
    """Frames and the times at which they are shown."""

    frames: Frames  # (T, H, W, 3)
    times: NDArray[np.float64]  # (T,) seconds, increasing, from 0
    problem: str | None = None  # why the rest of a damaged or huge file is missing


@dataclass(frozen=True)
class DecodedVideo:
    """A video whose frames are decoded but not yet converted to RGB, which takes four times as long as decoding did."""

    path: Path
    times: NDArray[np.float64]  # (T,) seconds, increasing, from 0
    problem: str | None  # why the rest of a damaged or huge file is missing
    pictures: Sequence[Any]  # (T,) of whatever `convert` takes
    convert: Callable[[Any], Frames]  # to (H, W, 3)
    num_bytes: int  # that the pictures take in memory

    def rgb(
        self,
        indices: Sequence[int] | NDArray[np.int64] | None = None,
        *,
        size: int | None = None,
        top: float = 0.5,
        left: float = 0.5,
    ) -> Frames:
        """Return these frames (default: all) as (T, H, W, 3), or fitted to (T, S, S, 3) with S = `size` (see `fit`).

        Raises:
            BadVideo: a frame cannot be converted, or differs in size from the others.
            ValueError: no such frame, or more than `MAX_RGB_BYTES` of them.
        """
        places = chosen(indices, len(self.times))
        frames = ((place, self.convert(self.pictures[place])) for place in sorted(set(places)))
        return collect(self.path, frames, places, size=size, top=top, left=left)


class ReadableVideo(Protocol):
    """What a reader of clips needs of a video: first its times, to choose frames by, then these frames."""

    @property
    def path(self) -> Path:
        """The file, or the folder of images."""

    @property
    def times(self) -> NDArray[np.float64]:
        """When the frames are shown (T,): seconds, increasing, from 0."""

    @property
    def problem(self) -> str | None:
        """Why the rest of a damaged or huge file is missing."""

    @property
    def num_bytes(self) -> int:
        """What it takes in memory for as long as it is kept."""

    def rgb(
        self,
        indices: Sequence[int] | NDArray[np.int64] | None = None,
        *,
        size: int | None = None,
        top: float = 0.5,
        left: float = 0.5,
    ) -> Frames:
        """Return these frames (default: all) as (T, H, W, 3), or fitted to (T, S, S, 3); see ``DecodedVideo.rgb``."""


def chosen(indices: Sequence[int] | NDArray[np.int64] | None, count: int) -> list[int]:
    """Return the indices, by default all `count`, as a list.

    Raises:
        ValueError: there are none, or some are not among the frames.
    """
    places = list(range(count)) if indices is None else [int(index) for index in indices]
    if not places or min(places) < 0 or max(places) >= count:
        wanted = f"{min(places)} to {max(places)}" if places else "none"
        raise ValueError(f"frames asked for must be among 0 to {count - 1}, got {wanted}")
    return places


def collect(
    path: Path,
    frames: Iterable[tuple[int, Frames]],
    places: Sequence[int],
    *,
    size: int | None,
    top: float,
    left: float,
) -> Frames:
    """Return the frames at these places (T, H, W, 3), or fitted (T, S, S, 3); the one way from pictures to arrays.

    Args:
        frames: place and picture (H, W, 3) of every frame asked for, each once. They are fitted as they come, so that
            few of full size are held together.
        places: which of them, in any order and as often as wanted.
        size, top, left: as for `fit`.
    """
    if size is None and (top, left) != (0.5, 0.5):
        raise ValueError(
            f"top and left place the square that size cuts out; without size they must be 0.5, got {top, left}"
        )
    kept: dict[int, Frames] = {}
    for batch in _batches(path, frames):
        pictures: Any = list(batch.values())
        kept |= zip(batch, pictures if size is None else fit(np.stack(pictures), size, top=top, left=left), strict=True)
        if len(places) * next(iter(kept.values())).nbytes > MAX_RGB_BYTES:
            raise ValueError(
                f"{path}: {len(places)} frames take more than {MAX_RGB_BYTES / 2**30:g} GiB; ask for fewer"
            )
    return np.stack([kept[place] for place in places])


def _batches(path: Path, frames: Iterable[tuple[int, Frames]]) -> Iterator[dict[int, Frames]]:
    """Gather up to `BATCH_BYTES` of frames of one size: a resize takes two to four times as long for one alone."""
    batch: dict[int, Frames] = {}
    shape: tuple[int, ...] | None = None
    for place, frame in frames:
        if shape is not None and frame.shape != shape:
            raise BadVideo(path, f"holds images of several sizes: {sorted((shape[:2], frame.shape[:2]))}")
        shape = frame.shape
        batch[place] = frame
        if (len(batch) + 1) * frame.nbytes > BATCH_BYTES:
            yield batch
            batch = {}
    if batch:
        yield batch


def find_videos(root: str | Path) -> list[Path]:
    """Return every video file and folder of numbered images at or below `root`, sorted; hidden names are skipped."""
    found: list[Path] = []
    visited: set[str] = set()  # links to folders are followed, circles of them are not
    for folder, subfolders, names in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in visited:
            subfolders.clear()
            continue
        visited.add(os.path.realpath(folder))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        names = [name for name in names if not name.startswith(".")]
        found += [Path(folder, name) for name in names if Path(name).suffix.lower() in VIDEO_SUFFIXES]
        found += [Path(folder)] if any(map(_is_numbered_image, names)) else []
    return sorted(found, key=lambda path: path.relative_to(root).parts)


def probe(path: str | Path) -> VideoInfo:
    """Read the header of a video and decode its first frame.

    Raises:
        BadVideo: not even one frame can be decoded.
    """
    path = Path(path)
    if os.path.isdir(path):
        images = _numbered_images(path)
        height, width = _read_image(images[0]).shape[:2]
        codec = images[0].suffix[1:].lower()
        return VideoInfo(width, height, len(images), DEFAULT_FPS, len(images) / DEFAULT_FPS, 0, codec)
    with open_stream(path) as stream:
        first = _decode(path, stream, max_frames=1)[0][0]
        rotation = first.rotation % 360
        width, height = (first.height, first.width) if rotation % 180 else (first.width, first.height)
        codec = stream.codec.canonical_name
        duration = promised_seconds(stream)
        return VideoInfo(width, height, stream.frames or None, frame_rate(stream), duration, rotation, codec)


def read_video(path: str | Path, *, max_frames: int | None = None, size: int | None = None) -> Video:
    """Read a video file or a folder of numbered images, upright, up to its end, its first damage, `max_frames` or
    `MAX_BYTES`.

    Pixels are taken to be square. A folder of images has 25 frames a second.

    Args:
        size: fit every frame to a square of this many pixels (see `fit`).

    Raises:
        BadVideo: not a single frame can be read; with the reason.
    """
    decoded = decode_video(path, max_frames=max_frames)
    return Video(decoded.rgb(size=size), decoded.times, decoded.problem)


def decode_video(path: str | Path, *, max_frames: int | None = None) -> DecodedVideo:
    """Like `read_video`, for a caller who needs the times first and then only some of the frames."""
    path = Path(path)
    if os.path.isdir(path):
        images = _numbered_images(path)[:max_frames]
        return DecodedVideo(path, np.arange(len(images)) / DEFAULT_FPS, None, images, _read_image, num_bytes=0)
    with open_stream(path) as stream:
        pictures, problem = _decode(path, stream, max_frames)
        times = believable_times([picture.time for picture in pictures], frame_rate(stream))
        if problem is None and len(pictures) != max_frames:
            problem = early_end(stream, times, pictures[-1].duration * float(pictures[-1].time_base or 0))
    num_bytes = sum(map(_bytes_of, pictures))
    return DecodedVideo(path, times, problem, pictures, lambda picture: upright(path, picture), num_bytes)


def early_end(stream: Any, times: NDArray[np.float64], last: float) -> str | None:
    """Say so if frames at these times (T,), the last shown for `last` seconds, are fewer than the header promises.

    A torn matroska file ends without an error; sound headers err by up to two frames.
    """
    promised, period = promised_seconds(stream), nominal_period(times)
    lasted = times[-1] + max(last, period)
    if promised is None or promised - lasted <= 2.5 * period:
        return None
    return f"ends after {lasted:.2f} of the {promised:.2f} seconds that its header promises"


def upright(path: Path, picture: Any) -> Frames:
    """Return an ``av.VideoFrame`` as RGB (H, W, 3), turned as its metadata say.

    Raises:
        BadVideo: its pixel format cannot be converted.
    """
    try:
        return np.rot90(picture.to_ndarray(format="rgb24", threads=1), round(picture.rotation / 90))
    except decoding_errors() as error:
        raise BadVideo(path, f"has frames that cannot be converted to RGB ({brief(error)})") from error


def _decode(path: Path, stream: Any, max_frames: int | None) -> tuple[list[Any], str | None]:
    """Return the ``av.VideoFrame``s before the first damage or limit, at least one, and why there are no more."""
    pictures: list[Any] = []
    problem = None
    held = 0
    try:
        for picture in _pictures(stream):
            if picture.is_corrupt:  # decoded with guesses for what was missing
                while pictures and pictures[-1].pict_type == pyav().video.frame.PictureType.B:
                    pictures.pop()  # may be predicted from it
                raise ValueError("the next one is damaged")
            first = pictures[0] if pictures else picture
            if (picture.width, picture.height) != (first.width, first.height):
                raise ValueError("the size changes")
            pictures.append(picture)
            held += _bytes_of(picture)
            if len(pictures) == max_frames:
                break
            if held > MAX_BYTES or len(pictures) == MAX_FRAMES:
                problem = cut_off(len(pictures), held)
                break
    except decoding_errors() as error:
        problem = f"ends after {len(pictures)} frames ({brief(error)})"
        if not pictures:
            raise BadVideo(path, f"holds no frame that can be decoded ({brief(error)})") from error
    if not pictures:
        raise BadVideo(path, "holds no frame that can be decoded")
    return pictures, problem


def cut_off(num_frames: int, held: int) -> str:
    """Why no more than these frames are read, which hold so many bytes."""
    return f"is read no further than its first {num_frames} frames, which take {held / 2**30:.2g} GiB"


def _bytes_of(picture: Any) -> int:
    return sum(plane.buffer_size for plane in picture.planes)


def _pictures(stream: Any) -> Iterator[Any]:
    detector = DamageDetector(stream)
    for packet in stream.container.demux(stream):
        if detector.sees_damage(packet):  # frames still to be reordered have gaps: leave them
            raise ValueError("the file is damaged or cut off")
        yield from packet.decode()


def _is_numbered_image(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and path.stem[-1:].isdecimal() and not name.startswith(".")


def _numbered_images(folder: Path) -> list[Path]:
    try:
        names = [name for name in os.listdir(folder) if _is_numbered_image(name)]
    except OSError as error:
        raise BadVideo(folder, f"cannot be listed ({brief(error)})") from error
    if not names:
        raise BadVideo(folder, "is a folder without numbered images (such as 0001.png)")
    return [folder / name for name in sorted(names, key=_natural_order)]


def _natural_order(name: str) -> list[tuple[int, str]]:
    """Sort frame_9 before frame_10: runs of digits compare as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _read_image(path: Path) -> Frames:
    """Return one image (H, W, 3)."""
    try:
        with pillow().open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS}")
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"mode {image.mode} holds more than 8 bits per channel")
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, MemoryError, pillow().DecompressionBombError) as error:
        raise BadVideo(path, f"cannot be read as png, jpg or webp ({brief(error)})") from error
