"""How fast clips are read from video files: `magi bench decode`. By key frame, from the start, in a process of its own.

The videos are made here: a camera that moves over a textured plane, with a little noise, in the codecs, sizes and
distances of key frames that data sets have. A clip is 16 frames at an interval from a random start, fitted to a square;
every clip opens its file anew, and all of it is on one core.

``T`` frames, ``H`` x ``W`` pixels, ``S`` side of a square.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from magi.bench.compare import read_earlier
from magi.bench.measure import METHOD, Spread, alternate, machine
from magi.bench.outcome import described, publish
from magi.bench.rows import Row
from magi.seeds import generator
from magi.threads import configure_threads
from magi.video import Frames, IsolatedReader, ReadableVideo, decode_video, open_video, resize
from magi.video.libraries import pyav

CLIP_FRAMES = 16
HEADER = (
    "clips of 16 frames a second, one core", "keys", "interval", "size",
    "sought", "whole", "isolated", "speedup", "isolation, ms",
)  # fmt: skip
WAYS = ("sought", "whole", "isolated")  # by key frame; decoded from the start; by key frame, in another process


@dataclass(frozen=True)
class Film:
    """A kind of video file."""

    name: str
    codec: str
    suffix: str
    height: int
    width: int
    key_distance: int
    options: tuple[tuple[str, str], ...]
    clips: int  # per measurement


def _films() -> Iterator[Film]:
    for name, height, width, clips, rate in (("240p", 240, 320, 8, "800k"), ("1080p", 1080, 1920, 2, "8M")):
        yield Film(f"MPEG-4 {name}", "mpeg4", ".avi", height, width, 12, (("b", rate),), clips)
        for distance in (48, 250):
            options = (("preset", "veryfast"), ("crf", "23"))
            yield Film(f"H.264 {name}", "libx264", ".mp4", height, width, distance, options, clips)


@dataclass(frozen=True)
class DecodingEffort:
    """How much is measured."""

    films: tuple[Film, ...] = tuple(_films())
    frames: int = 180
    intervals: tuple[int, ...] = (1, 11)
    sizes: tuple[int, ...] = (256, 64)
    repeats: int = 3


QUICK = DecodingEffort(
    films=(Film("MPEG-4 tiny", "mpeg4", ".avi", 48, 64, 6, (("qmax", "4"),), 1),),
    frames=40,
    intervals=(1, 2),
    sizes=(32,),
    repeats=1,
)


def run_decoding_bench(
    *, quick: bool = False, json_path: Path | None = None, compare: Path | None = None
) -> dict[str, Any]:
    """Measure how fast clips are read on one core, print a table, and return all results.

    Args:
        quick: measure so little that the numbers only prove that everything runs.
        json_path: where to save the results.
        compare: results of an earlier run, to set beside these.

    Returns:
        ``machine``, ``method``, ``effort``, and ``rows``: for each kind of file, interval and size the
        ``clips_per_second`` of each of `WAYS`, the ``speedup`` of seeking over decoding from the start, and
        ``isolation_ms``, which another process adds to a clip. A measured quantity is a summary: ``median``, ``min``,
        ``max``, ``repeats``.
    """
    effort, earlier = QUICK if quick else DecodingEffort(), read_earlier(compare, section="rows", rows=rows)
    configure_threads(1)
    av = pyav()
    versions = {"pyav": av.__version__, "ffmpeg": av.ffmpeg_version_info}
    report: dict[str, Any] = {
        "machine": machine(torch.device("cpu")) | versions,
        "method": METHOD,
        "effort": {"quick": quick, **asdict(effort)},
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as folder, IsolatedReader(cache_bytes=0) as reader:
        for number, film in enumerate(effort.films):
            # Two of each, in turn: the other process keeps the latest open.
            paths = (Path(folder, f"{number}-0{film.suffix}"), Path(folder, f"{number}-1{film.suffix}"))
            write_film(paths[0], film, effort.frames)
            paths[1].write_bytes(paths[0].read_bytes())
            for interval in effort.intervals:
                for size in effort.sizes:
                    report["rows"].append(measure_reading(film, paths, reader, interval, size, effort))
    text = described(report, list(rows(report)), earlier, header=HEADER, words=(0,))
    publish(report, text, json_path=json_path)
    return report


def measure_reading(
    film: Film, paths: tuple[Path, Path], reader: IsolatedReader, interval: int, size: int, effort: DecodingEffort
) -> dict[str, Any]:
    """Return a row of the report; the three ways read the same clips in turn."""
    span = (CLIP_FRAMES - 1) * interval
    draws = generator(0, "decoding bench", film.key_distance, interval, size).random(film.clips)
    starts = [int(draw * (effort.frames - span)) for draw in draws]

    def reading(opened: Callable[[Path], ReadableVideo]) -> Callable[[], list[Frames]]:
        def run() -> list[Frames]:
            clips = [range(start, start + span + 1, interval) for start in starts]
            return [opened(paths[index % 2]).rgb(clip, size=size) for index, clip in enumerate(clips)]

        return run

    runs = dict(zip(WAYS, map(reading, (open_video, decode_video, reader.open)), strict=True))
    seconds = alternate(runs, repeats=effort.repeats, device=torch.device("cpu"))
    pairs = list(zip(*(seconds[way].values for way in WAYS), strict=True))
    return {
        "film": film.name,
        "key_distance": film.key_distance,
        "bytes": paths[0].stat().st_size,
        "interval": interval,
        "size": size,
        "clips_per_second": {way: seconds[way].per(film.clips).summary() for way in WAYS},
        "speedup": Spread(tuple(whole / sought for sought, whole, _ in pairs)).summary(),
        "isolation_ms": Spread(tuple(1000 * (there - here) / film.clips for here, _, there in pairs)).summary(),
    }


def write_film(path: Path, film: Film, frames: int) -> None:
    """Write a video of a camera that moves over a textured plane."""
    random = generator(0, "decoding bench film", film.height)
    coarse = random.integers(0, 256, (1, film.height // 12, film.width // 12, 3), dtype=np.uint8)
    plane = resize(coarse, film.height + 2 * frames, film.width + 2 * frames)[0].astype(np.int16)  # (H', W', 3)
    with pyav().open(str(path), "w") as container:
        stream = container.add_stream(film.codec, rate=25, options=dict(film.options) | {"g": str(film.key_distance)})
        stream.width, stream.height, stream.pix_fmt = film.width, film.height, "yuv420p"
        stream.codec_context.thread_count = 1  # the bytes of the file depend on the number of threads
        for index in range(frames):
            view = plane[index : index + film.height, 2 * index : 2 * index + film.width]
            grain = random.integers(-10, 11, (film.height, film.width, 1), dtype=np.int16)
            picture = np.clip(view + grain, 0, 255).astype(np.uint8)
            container.mux(stream.encode(pyav().VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def rows(report: Mapping[str, Any]) -> Iterator[Row]:
    """The report as lines of a table: a kind of file, at an interval and a size."""
    for row in report["rows"]:
        rates = tuple(row["clips_per_second"][way]["median"] for way in WAYS)
        speedup, added = row["speedup"], row["isolation_ms"]
        name = (row["film"], *(str(row[key]) for key in ("key_distance", "interval", "size")))
        cells = (
            *name,
            *(f"{rate:.3g}" for rate in rates),
            f"{speedup['median']:.2f} ({speedup['min']:.2f} - {speedup['max']:.2f})",
            f"{added['median']:.1f} ({added['min']:.1f} - {added['max']:.1f})",
        )
        yield Row(cells, ", ".join(name), rates)
