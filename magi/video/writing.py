"""Write videos: H.264 in mp4, GIF. Knows codecs and containers; reads nothing.

``T`` frames, ``H`` x ``W`` pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import numpy as np
from einops import repeat

from magi.video.frames import Frames
from magi.video.libraries import pyav

Quality = Literal["lossless", "near-lossless", "fast", "web"]

# Codec, pixel format, options. Halved chroma (4:2:0) visibly blurs colours in small videos, but browsers play only it.
ENCODINGS: dict[Quality, tuple[str, str, dict[str, str]]] = {
    "lossless": ("libx264rgb", "rgb24", {"crf": "0"}),
    "near-lossless": ("libx264", "yuv444p", {"crf": "1"}),
    "fast": ("libx264", "yuv444p", {"crf": "1", "preset": "ultrafast"}),
    "web": ("libx264", "yuv420p", {"crf": "18"}),
}
# A fragment per frame: with the customary fragment per key frame, a kill would lose everything since the last one.
STREAMING = {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"}


class VideoWriter:
    """Append frames to an mp4 file that can be read at any moment, even after a kill: at most the last frame is lost.

    Use it in a ``with`` statement. The file appears with the first frame. See `write_video` for the arguments; without
    `streaming` the file is smaller and starts playing sooner, but can be read only once it is closed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float,
        quality: Quality = "near-lossless",
        scale: int = 1,
        streaming: bool = True,
    ) -> None:
        if Path(path).suffix != ".mp4":
            raise ValueError(f"videos are written under names in .mp4, got {Path(path).suffix!r}")
        if quality not in ENCODINGS:
            raise ValueError(f"quality must be one of {', '.join(get_args(Quality))}, got {quality!r}")
        self._path, self._fps, self._scale, self._streaming = Path(path), _rate(fps), _positive(scale), streaming
        self._codec, self._pixel_format, self._options = ENCODINGS[quality]
        self._container: Any = None
        self._stream: Any = None

    def append(self, frame: Frames) -> None:
        """Append one frame (H, W, 3), of the shape of the first."""
        picture = _enlarged(frame, self._scale)
        if self._pixel_format == "yuv420p":  # stores colour per 2 x 2 pixels: the last row of an odd height comes twice
            picture = np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)), mode="edge")
        if self._container is None:
            self._open(*picture.shape[:2])
        size = (self._stream.height, self._stream.width)
        if picture.shape[:2] != size:
            raise ValueError(f"frames of one video must have one size, got {picture.shape[:2]} after {size}")
        rgb = pyav().VideoFrame.from_ndarray(picture, format="rgb24")
        colorspace = self._stream.codec_context.colorspace
        self._container.mux(self._stream.encode(rgb.reformat(format=self._pixel_format, dst_colorspace=colorspace)))

    def close(self) -> None:
        """Finish the file. Without a frame there is none."""
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None

    def _open(self, height: int, width: int) -> None:
        container_options = STREAMING if self._streaming else {"movflags": "faststart"}
        options = self._options | ({"tune": "zerolatency"} if self._streaming else {})  # no frame waits in the encoder
        self._container = pyav().open(str(self._path), "w", format="mp4", container_options=container_options)
        self._stream = self._container.add_stream(self._codec, rate=self._fps, options=options)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, self._pixel_format
        self._stream.codec_context.thread_count = 1  # the bytes of the file depend on the number of threads
        if self._pixel_format != "rgb24":  # players guess the colour matrix from the size unless they are told
            self._stream.codec_context.colorspace = pyav().video.reformatter.Colorspace.ITU709

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_video(
    path: str | Path, frames: Iterable[Frames], *, fps: float, quality: Quality = "near-lossless", scale: int = 1
) -> None:
    """Write frames as an H.264 mp4 file, under a temporary name until it is whole.

    Args:
        frames: (T, H, W, 3), or anything that yields (H, W, 3).
        quality: "lossless" (RGB), "near-lossless" (4:4:4; a quarter of the size, values come back within 1 on average),
            "fast" (as near, at several times the speed and for about a third more bytes; faster to read, too), or
            "web" (4:2:0, the one that browsers play).
        scale: every pixel becomes a square of this many, so that a small video can be watched.

    Raises:
        ValueError: no frames, not uint8 (H, W, 3), of differing shapes; or a suffix other than .mp4.
    """
    with _replacing(Path(path)) as temporary:
        with VideoWriter(temporary, fps=fps, quality=quality, scale=scale, streaming=False) as writer:
            for frame in frames:
                writer.append(frame)
        if not temporary.exists():
            raise ValueError(f"no frames to write to {path}")


def write_gif(path: str | Path, frames: Frames, *, fps: float, scale: int = 1) -> None:
    """Write frames (T, H, W, 3) as a GIF that loops for ever, with the 256 colours that suit this video best.

    GIF counts hundredths of a second, so other frame periods alternate between two. See `write_video` for the rest.
    """
    if Path(path).suffix != ".gif" or len(frames) == 0:
        raise ValueError(f"a GIF needs a name in .gif and at least one frame, got {path} and {len(frames)} frames")
    av = pyav()
    rate, (height, width) = _rate(fps), frames.shape[1:3]
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=1 / rate)
    split, palette, apply, sink = (graph.add(name) for name in ("split", "palettegen", "paletteuse", "buffersink"))
    source.link_to(split)
    split.link_to(apply, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(apply, 0, 1)
    apply.link_to(sink)
    graph.configure()
    with _replacing(Path(path)) as temporary, av.open(str(temporary), "w", format="gif") as container:
        stream = container.add_stream("gif", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width * _positive(scale), height * scale, "pal8"
        for frame in frames:
            graph.push(av.VideoFrame.from_ndarray(_enlarged(frame, 1), format="rgb24"))
        graph.push(None)
        for index in range(len(frames)):  # they come out only now: the palette is that of all frames
            places, colours = graph.pull().to_ndarray()  # (H, W) places in the palette, and its colours (256, 4)
            places = repeat(places, "h w -> (h a) (w b)", a=scale, b=scale)
            picture = av.VideoFrame.from_ndarray((np.ascontiguousarray(places), colours), format="pal8")
            picture.pts, picture.time_base = index, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a hidden temporary name that becomes `path` if all goes well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _enlarged(frame: Frames, scale: int) -> Frames:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame must be uint8 (H, W, 3), got {frame.dtype} {frame.shape}")
    return np.ascontiguousarray(repeat(frame, "h w c -> (h a) (w b) c", a=scale, b=scale))


def _rate(fps: float) -> Fraction:
    if not 0 < fps <= 1000:
        raise ValueError(f"fps must be above 0 and at most 1000, got {fps}")
    return Fraction(fps).limit_denominator(1001)  # exact for 30000/1001


def _positive(scale: int) -> int:
    if scale < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")
    return scale
