"""Damaged video files by the thousand: `python -m tests.fuzz_videos --count 10000`.

Small clips of many formats are damaged by keyed randomness and read in a process of their own. Each file may give
frames or be a ``BadVideo``, and nothing else; and no frame that comes without a word may differ from what decoding from
the start delivers for the same moment. `--json FILE` keeps the counts, the slowest file and the peak of memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np
import torch
from numpy.typing import NDArray

from magi.bench.measure import machine
from magi.seeds import generator
from magi.threads import configure_threads
from magi.video import BadVideo, Frames, IsolatedReader, ReadableVideo, SoughtVideo, child, decode_video, open_video
from tests.videos import encode, moving

CLIPS: dict[str, tuple[str, str, dict[str, str]]] = {
    "mpeg4.avi": ("mpeg4", "yuv420p", {"g": "6", "b": "300k"}),
    "mpeg4-b.avi": ("mpeg4", "yuv420p", {"g": "6", "bf": "2", "b": "300k"}),
    "h264.mp4": ("libx264", "yuv420p", {"g": "6", "bf": "2"}),
    "h264.mkv": ("libx264", "yuv444p", {"g": "24"}),
    "h264.avi": ("libx264", "yuv420p", {"g": "6", "bf": "0"}),
    "hevc.mp4": ("libx265", "yuv420p", {"x265-params": "keyint=8:log-level=none"}),
    "vp8.webm": ("libvpx", "yuv420p", {"g": "8"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"g": "8", "cpu-used": "8"}),
    "mpeg2.mkv": ("mpeg2video", "yuv420p", {"g": "6", "bf": "2"}),
    "jpeg.avi": ("mjpeg", "yuvj420p", {}),
    "ffv1.mkv": ("ffv1", "bgr0", {"g": "6"}),
    "raw.avi": ("rawvideo", "bgr24", {}),
    "plain.gif": ("gif", "rgb8", {}),
    "png.mov": ("png", "rgb24", {}),
}
OUTCOMES = ("frames", "frames up to the damage", "times and then BadVideo", "BadVideo", "undefined frames")
FAILURES = ("other error", "crash", "too slow", "wrong frames")


def make_clips(folder: Path) -> dict[str, Path]:
    """Write the clips, each 24 frames of 48 x 64 pixels."""
    frames = moving(24, 48, 64)
    return {name: encode(folder / name, frames, codec, pixels, options=options)
            for name, (codec, pixels, options) in CLIPS.items()}  # fmt: skip


def damage(content: bytes, random: np.random.Generator) -> bytes:
    """Change some bytes, anywhere or in the header; or cut, remove, repeat or empty a stretch."""
    damaged = bytearray(content)
    kind = random.integers(6)
    if kind < 2:
        reach = len(damaged) if kind else min(len(damaged), 2048)
        for place in random.integers(0, reach, 2 ** random.integers(0, 5)):
            damaged[place] = random.integers(256)
        return bytes(damaged)
    first, second = sorted(int(place) for place in random.integers(0, len(damaged), 2))
    second = first + (second - first) // int(2 ** random.integers(0, 8))
    match kind:
        case 2:
            del damaged[int(random.integers(1, len(damaged))) :]
        case 3:
            del damaged[first:second]
        case 4:
            damaged[first:first] = damaged[first:second]
        case 5:
            damaged[first:second] = bytes(second - first)
    return bytes(damaged)


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
    return not np.array_equal(plain.rgb(np.flatnonzero(known)), expected)


def told(error: BadVideo) -> str:
    """The outcome that an error stands for."""
    if "crashed the decoder" in error.reason:
        return "crash"
    return "too slow" if "takes longer than" in error.reason else "BadVideo"


def peak_bytes(process: int | None) -> int:
    """The most memory a process ever held, with what it shares with its parent; 0 if it is gone or not on Linux."""
    status = Path(f"/proc/{process}/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> int:
    """Damage, read, count; 1 if anything but frames and ``BadVideo`` came."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_videos", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="damaged files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5, help="that a file may take")
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    described = machine(torch.device("cpu")) | {"pyav": av.__version__, "ffmpeg": av.ffmpeg_version_info}
    counts: Counter[tuple[str, str]] = Counter()
    failures: list[dict[str, Any]] = []
    slowest, start = (0.0, "", 0), time.monotonic()
    with (
        tempfile.TemporaryDirectory() as name,
        IsolatedReader(seconds=arguments.seconds) as reader,
        IsolatedReader(seconds=arguments.seconds) as sequential,
    ):
        clips = {name: path.read_bytes() for name, path in make_clips(Path(name)).items()}

        def reference(path: Path, moments: NDArray[np.float64]) -> tuple[NDArray[np.bool_], Frames | None]:
            with mock.patch.object(child, "open_video", decode_video):  # a new process is a copy of this one
                return from_the_start(path, moments, sequential.open)

        peaks: Counter[int | None] = Counter()
        for trial in range(arguments.count):
            form = list(clips)[trial % len(clips)]
            random = generator(arguments.seed, "damaged video", trial)
            path = Path(name, f"{trial}.{form}")
            path.write_bytes(damage(clips[form], random))
            begun = time.monotonic()
            try:
                verdict = judge(path, random, reader.open, reference)
            except Exception as error:  # what it may be is the question
                verdict = "other error"
                print(f"{form} {trial}: {error!r}", file=sys.stderr)
            slowest = max(slowest, (time.monotonic() - begun, form, trial))
            counts[form, verdict] += 1
            peaks[reader.process] = max(peaks[reader.process], peak_bytes(reader.process))
            if verdict in FAILURES:
                failures.append({"clip": form, "trial": trial, "outcome": verdict})
                print(f"{form} {trial}: {verdict}", file=sys.stderr)
            path.unlink()
    report = {
        "command": f"python -m tests.fuzz_videos --count {arguments.count} --seed {arguments.seed}",
        "machine": described,
        "count": arguments.count,
        "outcomes": {
            word: sum(n for (_, verdict), n in counts.items() if verdict == word) for word in OUTCOMES + FAILURES
        },
        "by_clip": {
            form: {verdict: n for (clip, verdict), n in sorted(counts.items()) if clip == form} for form in CLIPS
        },
        "failures": failures,
        "seconds": round(time.monotonic() - start, 1),
        "slowest": {"seconds": round(slowest[0], 3), "clip": slowest[1], "trial": slowest[2]},
        "peak_resident_megabytes": round(max(peaks.values()) / 2**20),
        "processes": len(peaks),
    }
    print(json.dumps(report, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    configure_threads(1)
    sys.exit(main())
