"""What reading a video file came to, in a word: frames that are right, a ``BadVideo``, or what must not be.

No frame that comes without a word may differ from what decoding from the start delivers for the same moment.

``N`` moments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from magi.video import BadVideo, Frames, ReadableVideo, SoughtVideo, decode_video, open_video

OUTCOMES = ("frames", "frames up to the damage", "times and then BadVideo", "BadVideo", "undefined frames")
FAILURES = ("other error", "crash", "too slow", "wrong frames")


Reference = Callable[[Path, NDArray[np.float64]], tuple[NDArray[np.bool_], Frames | None]]


def from_the_start(
    path: Path, moments: NDArray[np.float64], reader: Callable[[Path], ReadableVideo] = decode_video
) -> tuple[NDArray[np.bool_], Frames | None]:
    """Decode a file from the start; return which moments (N,) it has a frame at, and these frames, if any."""
    whole = reader(path)
    known = np.isin(moments, whole.times)
    return known, whole.rgb(np.searchsorted(whole.times, moments[known])) if known.any() else None


def judge(
    path: Path,
    random: np.random.Generator,
    reader: Callable[[Path], ReadableVideo] = open_video,
    reference: Reference = from_the_start,
) -> str:
    """Read some frames of a file and compare them with decoding from the start; the outcome, in words.

    Args:
        reader: what opens the file; by default `open_video`, in this process.
        reference: what decodes it from the start, as `from_the_start` does in this process.
    """
    try:
        video = reader(path)
    except BadVideo as error:
        return told(error)
    places = random.integers(0, len(video.times), 4)
    try:
        frames = video.rgb(places)
    except BadVideo as error:
        verdict = told(error)
        return "times and then BadVideo" if verdict == "BadVideo" else verdict
    if frames.shape[0] != 4 or frames.shape[3] != 3 or not (np.diff(video.times) > 0).all():
        return "wrong frames"
    if video.problem is not None:
        return "frames up to the damage"
    try:
        known, expected = reference(path, video.times[places])
    except BadVideo as error:
        return "frames" if told(error) == "BadVideo" else told(error)  # damage at the start spoils nothing behind it
    if expected is None or np.array_equal(frames[known], expected):
        return "frames"
    return "undefined frames" if is_undefined(path) else "wrong frames"


def is_undefined(path: Path) -> bool:
    """Whether decoding from the start gives one thing where frames are kept, and another where their memory is used
    again: the decoder did not fill them and did not say so. HEVC's does that, and no reader can know."""
    video = open_video(path)
    if not isinstance(video, SoughtVideo):
        return False
    plain = replace(video, packets=replace(video.packets, keys=video.packets.keys[:1]), decoders=[])
    known, expected = from_the_start(path, video.times)
    return expected is None or not np.array_equal(plain.rgb(np.flatnonzero(known)), expected)


def told(error: BadVideo) -> str:
    """The outcome that an error stands for."""
    if "crashed the decoder" in error.reason:
        return "crash"
    return "too slow" if "takes longer than" in error.reason else "BadVideo"


def peak_bytes(process: int | None, *, now: bool = False) -> int:
    """The most memory a process ever held, or holds now, with what it shares with its parent; 0 if it is gone or not on
    Linux."""
    status = Path(f"/proc/{process}/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS" if now else "VmHWM"))
