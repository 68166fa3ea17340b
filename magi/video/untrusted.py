"""Open a video file that nobody vouches for. Knows containers, codecs and their limits; decodes nothing.

Whatever cannot be opened safely raises ``BadVideo``. The lists and limits hold for every file; a decoder that crashes
or hangs all the same is a matter for `magi.video.isolated`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from magi.video.libraries import pyav
from magi.video.timing import DEFAULT_FPS

MAX_PIXELS = 2**25  # per frame: 8K just fits, while a GIF of 35 bytes can claim 128 times as much
MAX_BYTES = 2**30  # of decoded pictures of one video that are held at once: 345 of 1080p
MAX_FRAMES = 2**16  # of one video: 44 minutes at 25 a second, while a small file can hold millions of tiny ones

# The formats that may be probed at all: playlists would open further files. The content decides, not the suffix.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,gif"
CODECS = (
    *("av1", "ffv1", "gif", "h263", "h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v2"),
    *("msmpeg4v3", "png", "prores", "rawvideo", "theora", "vp8", "vp9"),
)
# Decoders that do not mark what they could not decode, but hand out whatever was in memory: here damage is an error.
SILENT = frozenset({"mjpeg", "mpeg1video", "mpeg2video", "png"})


class BadVideo(ValueError):
    """A video that cannot be used, and why, in one line."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)  # both, so that the error survives pickling
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@contextmanager
def open_stream(path: Path) -> Iterator[Any]:
    """Yield the ``av.VideoStream`` of a file, set to decode on one thread within the limits.

    Raises:
        BadVideo: no file, not one of `FORMATS` or `CODECS`, no video in it, or too many pixels.
    """
    if not os.path.isfile(path):  # a pipe would block, a URL would be fetched
        raise BadVideo(path, "is not a file" if os.path.exists(path) else "does not exist, or may not be looked at")
    if os.path.getsize(path) == 0:
        raise BadVideo(path, "is empty")
    av = pyav()
    limits = {"max_pixels": str(MAX_PIXELS)}
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file", **limits}
    try:
        container = av.open(str(path.absolute()), options=options, metadata_errors="replace")
    except decoding_errors() as error:
        raise BadVideo(path, f"is not a readable mp4, mov, avi, mkv, webm or gif file ({brief(error)})") from error
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
        strict = {"err_detect": "crccheck+explode"} if codec in SILENT else {}
        stream.codec_context.options = limits | strict
        stream.codec_context.thread_count = 1  # loader workers are the parallelism
        yield stream


def decoding_errors() -> tuple[type[Exception], ...]:
    """What PyAV is known to raise on damaged files: its own errors, UnicodeDecodeError (a ValueError), MemoryError."""
    return (pyav().error.FFmpegError, OSError, ValueError, MemoryError)


def brief(error: Exception) -> str:
    """An error in one line, without the path that FFmpeg appends."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def frame_rate(stream: Any) -> float:
    """Frames a second, as the header has it."""
    return float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)


def promised_seconds(stream: Any) -> float | None:
    """How long the header says that the stream lasts, if it does."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if stream.container.duration and len(stream.container.streams) == 1:  # else the sound may be what lasts so long
        return stream.container.duration / pyav().time_base
    return None
