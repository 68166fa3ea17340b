"""Small video files as other programs write them, in every format that is read, and files that only pretend to be some.

``T`` frames, ``H`` x ``W`` pixels.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from magi.video import Frames

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
"""By name codec, pixels and options."""


def moving(num_frames: int, height: int, width: int) -> Frames:
    """Smooth coloured waves, (T, H, W, 3)."""
    t, y, x, c = np.ogrid[:num_frames, :height, :width, :3]
    return (127 + 120 * np.sin(x / 9 + t / 5 + c) * np.cos(y / 7 - t / 9 + 2 * c)).astype(np.uint8)


def encode(
    path: Path,
    frames: Frames,
    codec: str = "libx264",
    pixel_format: str = "yuv444p",
    *,
    options: Mapping[str, str] | None = None,
    rotation: int = 0,
    times: list[int] | None = None,
) -> Path:
    """Write frames (T, H, W, 3) to a file as other programs do; `times` are milliseconds."""
    container_options = {"movflags": "faststart"} if "faststart" in path.name else {}
    with av.open(str(path), "w", container_options=container_options) as container:
        stream: Any = container.add_stream(codec, rate=25, options=dict(options or {}))
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


def make_clips(folder: Path) -> dict[str, Path]:
    """Write the clips, each 24 frames of 48 x 64 pixels."""
    frames = moving(24, 48, 64)
    return {name: encode(folder / name, frames, codec, pixels, options=options)
            for name, (codec, pixels, options) in CLIPS.items()}  # fmt: skip


def pretenders(folder: Path, clip: Path) -> dict[str, Path]:
    """Write files that claim to be videos and are none, by what they are; beside a `clip`, which is a video, and to
    which some of them point."""
    contents = {
        "nothing": b"",
        "a text": b"This is not a video.\n" * 100,
        "a list of another video": f"ffconcat version 1.0\nfile {clip.name}\n".encode(),
        "a playlist": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip.as_uri()}\n#EXT-X-ENDLIST\n".encode(),
        "a description of images": f'<?xml version="1.0"?><svg><image href="{clip.as_uri()}"/></svg>'.encode(),
        "a picture of 256 million pixels": _gif(16000, 16000, 1),
        "300,000 pictures": _gif(1, 1, 300_000),
        "sound": _wav(8000),
        "a program": b"\x7fELF" + bytes(1000),
    }
    files = {}
    for number, (name, content) in enumerate(contents.items()):
        files[name] = folder / f"pretender-{number}.mp4"
        files[name].write_bytes(content)
    files["a pipe"], files["no end"], files["a folder"] = (folder / f"{name}.mp4" for name in ("pipe", "zero", "dir"))
    os.mkfifo(files["a pipe"])
    files["no end"].symlink_to("/dev/zero")
    files["a folder"].mkdir()
    return files


def _gif(width: int, height: int, pictures: int) -> bytes:
    """A GIF whose pictures claim a size and hold one pixel."""
    picture = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    delay = b"!\xf9\x04\x00\x01\x00\x00\x00"
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\x00\x00\x00\x00\x00\xff\xff\xff" + (
        (delay + picture) * pictures + b";"
    )  # fmt: skip


def _wav(samples: int) -> bytes:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    return b"RIFF" + struct.pack("<I", 36 + samples) + b"WAVE" + form + b"data" + struct.pack("<I", samples) + bytes(
        samples
    )  # fmt: skip
