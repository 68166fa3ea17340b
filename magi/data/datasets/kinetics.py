"""Kinetics-600 as it is downloaded: which videos a split has, and their classes. Opens no video.

Annotations are tables with the columns label, youtube_id, time_start, time_end, split (the test set was also published
without labels). Videos lie about in several ways, of which all are read, as .mp4, .mkv or .webm:

    train/riding a bike/-0IErS_cisg_000017_000027.mp4        by the crawler; also riding_a_bike, also in videos_train
    train/-0IErS_cisg_000017_000027.mp4                      as CVDF packs them
    riding a bike/-0IErS_cisg.mp4                            by others

Many of the videos have gone from where they were published, so some are missing from every copy. Labels count from 0
in alphabetical order of the annotations' classes.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from magi.data.datasets.listing import Chosen, Entry, Listing, Tree, examples
from magi.data.datasets.scan import Found

SPLITS = ("train", "val", "test")
CLASSES = 600
ALIASES = {
    "train": ("train", "training"),
    "val": ("val", "validate", "validation", "valid"),
    "test": ("test", "testing", "holdout_test"),
}
FOLDERS = ("{}", "videos_{}", "{}_videos", "videos/{}")  # of a split
ANNOTATIONS = (  # of a split
    *("{}.csv", "kinetics_{}.csv", "kinetics600_{}.csv", "kinetics_600_{}.csv", "kinetics-600_{}.csv", "{}.txt"),
)
PLACES = ("", "annotations", "kinetics600/annotations", "kinetics600")  # of annotations, below or beside the videos
COLUMNS = {
    "label": ("label", "label-name", "class"),
    "id": ("youtube_id", "video-id", "video_id", "id"),
    "start": ("time_start", "start-time", "start"),
    "end": ("time_end", "end-time", "end"),
    "split": ("split", "subset"),
}
WHOLE = (-1, -1)  # start and end of a video that is not cut out of a longer one
STEM = re.compile(r"(.+?)(?:_(\d{6})_(\d{6}))?")


@dataclass(frozen=True)
class Row:
    """A line of the annotations."""

    id: str  # of the YouTube video, which may begin with - and hold _
    start: int  # seconds
    end: int
    label: str | None

    @property
    def name(self) -> str:
        """The video as the crawler would name it."""
        folder = f"{self.label}/" if self.label is not None else ""
        return f"{folder}{self.id}_{self.start:06d}_{self.end:06d}"


def find_tree(path: Path, *, split: str, annotations: Path | None) -> Tree:
    """Return where the videos of the split are, and its annotations.

    Args:
        path: the folder of the data set, or that of the split.
        split: one of `SPLITS`.
        annotations: the table, or the folder it is in, if it is not in one of the usual places.

    Raises:
        ValueError: no annotations.
    """
    if annotations is not None and annotations.is_file():
        table: Path | None = annotations
    else:
        parent = path.absolute().parent
        usual = [base / name for base in (path, parent) for name in PLACES]
        places = [annotations] if annotations is not None else usual
        names = [name.format(alias) for alias in ALIASES[split] for name in ANNOTATIONS]
        table = next((place / name for place in places for name in names if (place / name).is_file()), None)
    if table is None:
        raise ValueError(
            f"split {split} of Kinetics-600 needs its annotations, {split}.csv, which are not in "
            f"{annotations or path / 'annotations'}: put them there, or say with annotations where they are"
        )
    tops = [name.format(alias) for name in FOLDERS for alias in ALIASES[split]]
    return Tree(path, next(((top,) for top in tops if (path / top).is_dir()), ("",)), (table,))


def choose(tree: Tree, found: Found, *, split: str) -> Chosen:
    """Return the videos of the split that are there, and name those that are not, or that no annotation has.

    Raises:
        ValueError: annotations that cannot be read, or none of their videos in the tree.
    """
    table = tree.annotations[0]
    rows = _read(table, split)
    classes = tuple(sorted({row.label for row in rows if row.label is not None}))
    labels = {label: number for number, label in enumerate(classes)}
    videos: dict[tuple[str, int, int], tuple[str, int | None]] = {}
    for name, size in found.videos:
        videos.setdefault(_key(name), (name, size))  # of two files of one video, the first
    chosen: dict[str, Entry] = {}
    missing, elsewhere = [], []
    folders = {_plain(label) for label in classes}
    for row in rows:
        name, size = videos.get((row.id, row.start, row.end)) or videos.get((row.id, *WHOLE)) or ("", None)
        if not name:
            missing.append(row.name)
            continue
        chosen.setdefault(name, Entry(name, None if row.label is None else labels[row.label], size))
        folder = _plain(name.rpartition("/")[0].rpartition("/")[2])
        if row.label is not None and folder in folders and folder != _plain(row.label):
            elsewhere.append(name)
    if not chosen:
        raise ValueError(
            f"none of the {len(rows)} videos that {table} names is among the {len(found.videos)} in {tree.root}: they "
            "should be named like riding a bike/-0IErS_cisg_000017_000027.mp4"
        )
    entries = tuple(chosen[name] for name, _ in found.videos if name in chosen)
    unlisted = tuple(name for name, _ in found.videos if name not in chosen)
    remarks = []
    if missing:
        of = f"{len(missing)} of the {len(rows)} videos of Kinetics-600, split {split}"
        remarks.append(f"{of}, are not in {tree.root}: {examples(missing)}")
    if unlisted:
        remarks.append(f"{len(unlisted)} videos in {tree.root} are not in {table.name}: {examples(unlisted)}")
    if elsewhere:
        remarks.append(
            f"{len(elsewhere)} videos are not in the folder of the class that {table.name} gives: {examples(elsewhere)}"
        )
    if classes and len(classes) != CLASSES:
        remarks.append(f"{table} has {len(classes)} classes, not {CLASSES}: labels number these")
    return Chosen(Listing(tree.root, entries, classes), tuple(missing), unlisted, tuple(remarks))


def _read(table: Path, split: str) -> list[Row]:
    """The rows of the split, each video once."""
    rows: dict[Row, None] = {}
    splits = set()
    with table.open(encoding="utf-8-sig", newline="") as file:
        lines = enumerate(csv.reader(file, skipinitialspace=True), start=1)
        columns: dict[str, int] | None = None
        for number, cells in lines:
            if not any(cells):
                continue
            if columns is None:
                columns, is_header = _columns(table, cells)
                if is_header:
                    continue
            try:
                value = {name: cells[column].strip() for name, column in columns.items()}
                row = Row(value["id"], int(float(value["start"])), int(float(value["end"])), value.get("label") or None)
            except (IndexError, ValueError):
                line = ",".join(cells)
                raise ValueError(f"{table}, line {number}: {line!r} lacks one of {', '.join(columns)}") from None
            splits.add(value.get("split", split).lower())
            if value.get("split", split).lower() in ALIASES[split]:
                rows[row] = None
    if not rows:
        raise ValueError(f"{table} has no video of split {split}: it is of {', '.join(sorted(splits)) or 'none'}")
    return list(rows)


def _columns(table: Path, cells: Sequence[str]) -> tuple[dict[str, int], bool]:
    """Where the columns are, and whether this, the first row, names them; some tables have no header."""
    names = [cell.strip().lower() for cell in cells]
    found = {column: names.index(alias) for column, aliases in COLUMNS.items() for alias in aliases if alias in names}
    if {"id", "start", "end"} <= found.keys():
        return found, True
    for first in (2, 1):  # of two columns of seconds, after label and id or after the id alone
        times = names[first : first + 2]
        if not found and len(times) == 2 and all(time.replace(".", "", 1).isdecimal() for time in times):
            order = ("label", "id", "start", "end", "split")[2 - first : len(names) + 2 - first]
            return {column: place for place, column in enumerate(order)}, False
    got = ",".join(cells)
    raise ValueError(f"{table} should have the columns label,youtube_id,time_start,time_end,split; got {got}")


def _key(name: str) -> tuple[str, int, int]:
    match = STEM.fullmatch(os.path.splitext(name.rpartition("/")[2])[0])
    assert match is not None, "a video has a name"
    return (match[1], int(match[2]), int(match[3])) if match[2] else (match[1], *WHOLE)


def _plain(label: str) -> str:
    """A class as a folder may spell it: with spaces or underscores, with or without quotes."""
    return " ".join(label.replace("_", " ").replace('"', "").lower().split())
