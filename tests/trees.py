"""Small data sets in the formats of the real ones, with real .avi and .mp4 files where a test opens them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

UCF_CLASSES = ("Archery", "Hammering", "HammerThrow", "HandstandPushups")  # as in classInd.txt: the case does not count


@lru_cache(maxsize=64)
def video_bytes(num_frames: int, kind: str = "avi", tint: int = 0) -> bytes:
    """A tiny file of the codec of the real data set, MPEG-4 (XVID) in .avi or H.264 in .mp4; frames get brighter."""
    import av

    file = BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream: Any = container.add_stream("mpeg4" if kind == "avi" else "libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        if kind == "avi":
            stream.codec_context.codec_tag = "XVID"
        for index in range(num_frames):
            picture = np.full((24, 32, 3), (index % 80 * 3, tint, 128), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def write(path: Path, content: bytes = b"") -> Path:
    """Write a file, and the folders it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def ucf_name(name: str, group: int, clip: int) -> str:
    """As distributed, where one class is spelled in two ways."""
    return f"{name}/v_{name.replace('Handstand', 'HandStand')}_g{group:02}_c{clip:02}.avi"


def ucf_lists(folder: Path, *, classes: Sequence[str] = UCF_CLASSES, clips: int = 2) -> Path:
    """The official lists, with their line ends: in split s, groups s and s + 7 are for testing and the rest is not."""
    write(folder / "classInd.txt", "".join(f"{i + 1} {name}\r\n" for i, name in enumerate(classes)).encode())
    for split in (1, 2, 3):
        rows = [
            (i, ucf_name(name, g, c))
            for i, name in enumerate(classes)
            for g in range(1, 5)
            for c in range(1, clips + 1)
        ]
        test = "".join(f"{name}\r\n" for _, name in rows if f"_g{split:02}_" in name)
        train = "".join(f"{name} {i + 1}\r\n" for i, name in rows if f"_g{split:02}_" not in name)
        write(folder / f"testlist{split:02}.txt", test.encode())
        write(folder / f"trainlist{split:02}.txt", train.encode())
    return folder


def ucf_tree(root: Path, *, classes: Sequence[str] = UCF_CLASSES, clips: int = 2, real: bool = False) -> Path:
    """UCF-101/<Class>/ of four groups and ucfTrainTestlist beside it; video i has 20 + 5 (i % 16) frames, if real."""
    number = 0
    for name in classes:
        for group in range(1, 5):
            for clip in range(1, clips + 1):
                content = video_bytes(20 + 5 * (number % 16)) if real else b"." * (number + 1)
                write(root / "UCF-101" / ucf_name(name, group, clip), content)
                number += 1
    ucf_lists(root / "ucfTrainTestlist", classes=classes, clips=clips)
    return root


def kinetics_table(file: Path, rows: Sequence[Sequence[object]], *, header: str | None = None) -> Path:
    """Annotations as their authors publish them: label,youtube_id,time_start,time_end,split."""
    file.parent.mkdir(parents=True, exist_ok=True)
    names = "label,youtube_id,time_start,time_end,split" if header is None else header
    with file.open("w", newline="", encoding="utf-8") as writing:
        table = csv.writer(writing)
        if names:
            table.writerow(names.split(","))
        table.writerows(rows)
    return file
