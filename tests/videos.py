"""Videos for the tests, written as other programs write them. ``T`` frames, ``H`` x ``W`` pixels."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from magi.video import Frames


def moving(num_frames: int, height: int, width: int) -> Frames:
    """Smooth coloured waves, (T, H, W, 3)."""
    t, y, x, c = np.ogrid[:num_frames, :height, :width, :3]
    return (127 + 120 * np.sin(x / 9 + t / 5 + c) * np.cos(y / 7 - t / 9 + 2 * c)).astype(np.uint8)


def stamped(num_frames: int, height: int = 32, width: int = 48) -> Frames:
    """Frames (T, H, W, 3) whose left half tells their index by its grey; noise in the right half gives them weight."""
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    frames[:, :, : width // 2] = 8 + 4 * np.arange(num_frames)[:, None, None, None]
    return frames


def stamps(frames: Frames) -> list[int]:
    """Read the indices off again."""
    return [round((float(frame[4:-4, 4 : frame.shape[1] // 2 - 4].mean()) - 8) / 4) for frame in frames]


def encode(
    path: Path,
    frames: Frames,
    codec: str = "libx264",
    pixel_format: str = "yuv444p",
    *,
    options: dict[str, str] | None = None,
    rotation: int = 0,
    times: list[int] | None = None,
) -> Path:
    """Write a file as other programs do; `times` are milliseconds."""
    container_options = {"movflags": "faststart"} if "faststart" in path.name else {}
    with av.open(str(path), "w", container_options=container_options) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixel_format
        stream.codec_context.thread_count = 1
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times:
                picture.pts, picture.time_base = times[index], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path
