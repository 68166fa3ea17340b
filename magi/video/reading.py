"""Read video files and folders of numbered images. Knows containers, codecs and images; writes nothing.

Files are not trusted: whatever cannot be read safely raises ``BadVideo``, and of a damaged file only what precedes the
damage is delivered. Frames are counted in the order in which the decoder delivers them, never by time stamp.

``T`` frames, ``H`` x ``W`` pixels, ``S`` side of a square.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magi.video.frames import Frames, fit
from magi.video.libraries import pillow, pyav
from magi.video.timing import DEFAULT_FPS, believable_times, nominal_period

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".gif"})
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
MAX_PIXELS = 2**25  # per frame: 8K just fits, while a GIF of 35 bytes can claim 128 times as much
MAX_BYTES = 2**30  # of decoded pictures of one video that are held at once: 345 of 1080p

# The formats that may be probed at all: playlists would open further files. The content decides, not the suffix.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,gif"
CODECS = (
    *("av1", "ffv1", "gif", "h263", "h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v2"),
    *("msmpeg4v3", "png", "prores", "rawvideo", "theora", "vp8", "vp9"),
)


class BadVideo(ValueError):
    """A video that cannot be used, and why, in one line."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)  # both, so that the error survives pickling
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


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
        """
        frames = [self.convert(self.pictures[i]) for i in (range(len(self.pictures)) if indices is None else indices)]
        if len({frame.shape for frame in frames}) > 1:
            raise BadVideo(self.path, f"holds images of several sizes: {sorted({frame.shape[:2] for frame in frames})}")
        return np.stack(frames) if size is None else fit(np.stack(frames), size, top=top, left=left)


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
    if path.is_dir():
        images = _numbered_images(path)
        height, width = _read_image(images[0]).shape[:2]
        codec = images[0].suffix[1:].lower()
        return VideoInfo(width, height, len(images), DEFAULT_FPS, len(images) / DEFAULT_FPS, 0, codec)
    with _open(path) as stream:
        first = _decode(path, stream, max_frames=1)[0][0]
        rotation = first.rotation % 360
        width, height = (first.height, first.width) if rotation % 180 else (first.width, first.height)
        codec = stream.codec.canonical_name
        duration = _promised_seconds(stream)
        return VideoInfo(width, height, stream.frames or None, _fps(stream), duration, rotation, codec)


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
    if path.is_dir():
        images = _numbered_images(path)[:max_frames]
        return DecodedVideo(path, np.arange(len(images)) / DEFAULT_FPS, None, images, _read_image, num_bytes=0)
    with _open(path) as stream:
        pictures, problem = _decode(path, stream, max_frames)
        times = believable_times([picture.time for picture in pictures], _fps(stream))
        promised = _promised_seconds(stream)
    last = pictures[-1].duration * float(pictures[-1].time_base or 0)
    lasted = times[-1] + max(last, nominal_period(times))
    missing = 0 if promised is None or len(pictures) == max_frames else (promised - lasted) / nominal_period(times)
    if problem is None and missing > 2.5:  # a torn matroska file ends without an error; sound headers err by up to two
        problem = f"ends after {lasted:.2f} of the {promised:.2f} seconds that its header promises"

    def convert(picture: Any) -> Frames:
        try:
            return np.rot90(picture.to_ndarray(format="rgb24", threads=1), round(picture.rotation / 90))
        except _decoding_errors() as error:
            raise BadVideo(path, f"has frames that cannot be converted to RGB ({_brief(error)})") from error

    num_bytes = sum(map(_bytes_of, pictures))
    return DecodedVideo(path, times, problem, pictures, convert, num_bytes)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a file that nobody vouches for and yield its ``av.VideoStream``."""
    if not path.is_file():  # a pipe would block, a URL would be fetched
        raise BadVideo(path, "is not a file" if path.exists() else "does not exist")
    if path.stat().st_size == 0:
        raise BadVideo(path, "is empty")
    av = pyav()
    limits = {"max_pixels": str(MAX_PIXELS)}
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file", **limits}
    try:
        container = av.open(str(path.absolute()), options=options, metadata_errors="replace")
    except _decoding_errors() as error:
        raise BadVideo(path, f"is not a readable mp4, mov, avi, mkv, webm or gif file ({_brief(error)})") from error
    with container:
        cover = av.stream.Disposition.attached_pic  # the picture of a sound file
        stream = next((stream for stream in container.streams.video if not stream.disposition & cover), None)
        if stream is None:
            raise BadVideo(path, "holds no video stream")
        # PyAV ignores the option codec_whitelist without a word, so the name is compared here.
        codec = "unknown" if stream.codec_context is None else stream.codec.canonical_name
        if codec not in CODECS:
            raise BadVideo(path, f"is encoded with {codec}, not one of {', '.join(CODECS)}")
        if stream.width * stream.height > MAX_PIXELS:
            raise BadVideo(path, f"has frames of {stream.width} x {stream.height} pixels; the limit is {MAX_PIXELS}")
        stream.codec_context.options = limits
        stream.codec_context.thread_count = 1  # loader workers are the parallelism
        yield stream


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
            if held > MAX_BYTES:
                problem = (
                    f"is read no further than its first {len(pictures)} frames, which take {MAX_BYTES / 2**30:g} GiB"
                )
                break
    except _decoding_errors() as error:
        problem = f"ends after {len(pictures)} frames ({_brief(error)})"
        if not pictures:
            raise BadVideo(path, f"holds no frame that can be decoded ({_brief(error)})") from error
    if not pictures:
        raise BadVideo(path, "holds no frame that can be decoded")
    return pictures, problem


def _bytes_of(picture: Any) -> int:
    return sum(plane.buffer_size for plane in picture.planes)


def _pictures(stream: Any) -> Iterator[Any]:
    for packet in stream.container.demux(stream):
        if packet.is_corrupt or _ends_a_torn_gif(packet):  # frames still to be reordered have gaps: leave them
            raise ValueError("the file is cut off")
        yield from packet.decode()


def _ends_a_torn_gif(packet: Any) -> bool:
    """Whether this is a half drawn picture at the end of a GIF: unlike other formats, nobody marks it as corrupt."""
    if packet.stream.codec.canonical_name != "gif" or packet.pos is None:
        return False
    return packet.pos + packet.size >= packet.stream.container.size and bytes(packet)[-1:] != b";"


def _decoding_errors() -> tuple[type[Exception], ...]:
    """What PyAV is known to raise on damaged files: its own errors, UnicodeDecodeError (a ValueError), MemoryError."""
    return (pyav().error.FFmpegError, OSError, ValueError, MemoryError)


def _brief(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def _fps(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)


def _promised_seconds(stream: Any) -> float | None:
    """Return how long the header says that the stream lasts, if it does."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if stream.container.duration and len(stream.container.streams) == 1:  # else the sound may be what lasts so long
        return stream.container.duration / pyav().time_base
    return None


def _is_numbered_image(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and path.stem[-1:].isdecimal() and not name.startswith(".")


def _numbered_images(folder: Path) -> list[Path]:
    names = [name for name in os.listdir(folder) if _is_numbered_image(name)]
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
        raise BadVideo(path, f"cannot be read as png, jpg or webp ({_brief(error)})") from error
