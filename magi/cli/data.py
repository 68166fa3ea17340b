"""`magi data index` and `magi data report`: what a data set holds, once and for all, and what training makes of it."""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from magi import __version__
from magi.cli.arguments import Common, CommonOptions, asks_for_help, check_counts, parse, split_name
from magi.cli.show import progress, quantity
from magi.data.datasets.catalogue import DatasetName, Selection, Split, look
from magi.data.datasets.index import build_index, count_listing, index_file, load_index
from magi.data.datasets.listing import Listing, examples
from magi.data.lengths import drawn_intervals, expected_shares, videos_that_fit
from magi.data.order import ClipShape, IntervalRule
from magi.report.console import table

Integers = NDArray[np.int64]
RARE = 0.1  # of an equal share, below which an interval is called hardly trained


@dataclass(frozen=True)
class IndexArguments:
    """Look through a data set once and write its index, with which every later start takes seconds.

    $ magi data index path/to/UCF-101 --dataset ucf101 --split train01 --probe
    $ magi data index path/to/kinetics600 --dataset kinetics600 --annotations train.csv --out k600-train.jsonl

    PATH is the folder of the videos and comes first. An index in that folder is found by itself; one elsewhere is given
    to training with --data.folder.index. Stopped, the same command goes on. Videos that the annotations name and that
    are not there are listed in INDEX.missing.txt, with --probe those that cannot be read in INDEX.bad.jsonl.
    """

    dataset: DatasetName = "folder"
    """UCF-101, Kinetics-600, or any folder of videos."""
    split: Split | None = None
    """ucf101: all (the default), train01 to train03, test01 to test03; kinetics600: train (the default), val, test."""
    annotations: Path | None = None
    """UCF-101's folder of lists, or Kinetics' table, where they do not lie with the videos."""
    out: Path | None = None
    """The index; by default in PATH."""
    probe: bool = False
    """Open every video too, count its frames, and list those that cannot be read."""
    workers: int = os.cpu_count() or 1
    """Processes that do so."""
    common: CommonOptions = field(default_factory=Common)

    def __post_init__(self) -> None:
        check_counts(self, "workers")


@dataclass(frozen=True)
class ReportArguments:
    """Say what a data set holds and how often each frame interval would be trained on it.

    $ magi data report path/to/UCF-101 --dataset ucf101 --json ucf101.json

    PATH is the folder of the videos and comes first. Frames are counted unless the index has them (magi data index
    --probe). Expected shares are exact: they follow from the lengths of the videos and the rule.
    """

    dataset: DatasetName = "folder"
    """UCF-101, Kinetics-600, or any folder of videos."""
    split: Split | None = None
    """As in magi data index."""
    annotations: Path | None = None
    """As in magi data index."""
    index: Path | None = None
    """An index that does not lie in PATH."""
    frames: int = 16
    """Frames of a clip."""
    min_interval: int = 1
    """The smallest interval."""
    max_interval: int = 25
    """The largest interval."""
    rule: IntervalRule = "clamp"
    """clamp, reject or fixed, as --data.folder.interval-rule."""
    max_frames: int = 1000
    """Of a video that are used, as --data.folder.max-frames."""
    clips: int = 10_000
    """Clips at the beginning of a run in which each interval is counted."""
    seed: int = 0
    """Of the run, as --data.folder.seed."""
    workers: int = os.cpu_count() or 1
    """Processes that count frames."""
    json: Annotated[Path | None, tyro.conf.arg(aliases=["--out"])] = None
    """Write all of it to this file."""
    common: CommonOptions = field(default_factory=Common)

    def __post_init__(self) -> None:
        check_counts(self, "workers", "clips", "max_frames")


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    action, words = split_name(words)
    if action not in ("index", "report"):
        if action is None and asks_for_help(words):
            action = "index"
        else:
            raise ValueError(f"magi data does index or report, got {action!r}; magi data index --help explains")
    name, words = split_name(words)
    if name is None and not asks_for_help(words):
        raise ValueError(f"which data? magi data {action} PATH")
    path = Path(name or "")
    if action == "index":
        return _index(path, parse(IndexArguments, words, usage="data index PATH"))
    return _report(path, parse(ReportArguments, words, usage="data report PATH"))


def _index(path: Path, arguments: IndexArguments) -> int:
    selection = Selection(path, arguments.dataset, arguments.split, arguments.annotations)
    file = arguments.out or index_file(selection)
    if file.is_dir():
        raise ValueError(f"{file} is a folder; --out names the index itself")
    try:
        index, chosen = build_index(
            selection, file, count=arguments.probe, workers=arguments.workers,
            note=lambda done, total: progress(done, total, "videos opened"),
        )  # fmt: skip
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise ValueError(f"{error.filename} cannot be written: name a place for the index with --out") from None
    for remark in chosen.remarks:
        warnings.warn(remark, stacklevel=2)
    told = f"{len(index.listing.entries)} videos"
    told += f", {len(index.listing.classes)} classes" if index.listing.classes else ""
    told += f", {index.missing} missing ({file}.missing.txt)" if index.missing else ""
    told += f", {len(index.unreadable)} that cannot be read ({file}.bad.jsonl)" if index.unreadable else ""
    print(f"{file}: {told}")
    return 0


def _report(path: Path, arguments: ReportArguments) -> int:
    shape = ClipShape(arguments.frames, arguments.min_interval, arguments.max_interval, arguments.rule)
    selection = Selection(path, arguments.dataset, arguments.split, arguments.annotations)
    listing, unreadable, facts = _look(selection, arguments.index, arguments.workers)
    frames = np.array([entry.num_frames or 0 for entry in listing.entries])
    used = np.minimum(frames, arguments.max_frames)
    good = frames[frames > 0]
    facts |= {
        "videos": len(listing.entries),
        "classes": len(listing.classes),
        "bytes": sum(entry.num_bytes or 0 for entry in listing.entries),
        "unreadable": unreadable,
        "frames": {
            name: round(float(summary(good)), 2) if good.size else None
            for name, summary in (("mean", np.mean), ("median", np.median), ("min", np.min), ("max", np.max))
        },
        "too_short": int((good < shape.shortest).sum()),
        "fingerprint": listing.fingerprint(),
    }
    intervals = _intervals(used, shape, seed=arguments.seed, clips=arguments.clips)
    print(_described(path, facts, shape))
    print(_tabulated(intervals, shape, clips=arguments.clips))
    if arguments.json is not None:
        record = {"magi": __version__, "path": str(path), **facts, "clip": asdict(shape), **intervals}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def _look(selection: Selection, file: Path | None, workers: int) -> tuple[Listing, Mapping[str, str], dict[str, Any]]:
    """The listing with the frames of every video, what cannot be read, and where that comes from."""
    facts: dict[str, Any] = {"dataset": selection.dataset, "split": selection.part}
    if file is not None or index_file(selection).exists():
        index = load_index(selection, file or index_file(selection))
        listing, unreadable = index.listing, dict(index.unreadable)
        facts |= {"index": str(file or index_file(selection)), "missing": index.missing, "unlisted": index.unlisted}
        if index.counted:
            return listing, unreadable, facts
    else:
        chosen, _ = look(selection)
        listing = chosen.listing
        facts |= {"index": None, "missing": len(chosen.missing), "unlisted": len(chosen.unlisted)}
        for remark in chosen.remarks:
            warnings.warn(remark, stacklevel=2)
    listing, unreadable = count_listing(
        listing, workers=workers, note=lambda done, total: progress(done, total, "videos opened")
    )
    return listing, unreadable, facts


def _intervals(frames: Integers, shape: ClipShape, *, seed: int, clips: int) -> dict[str, Any]:
    """What is known of each interval, given the frames of each video that are used."""
    shares, videos = expected_shares(frames, shape), videos_that_fit(frames, shape)
    drawn = drawn_intervals(frames, shape, seed=seed, samples=clips)
    numbers = range(shape.min_interval, shape.max_interval + 1)
    columns = (numbers, shares.tolist(), videos.tolist(), drawn.tolist())
    rows = [dict(zip(("interval", "share", "videos", "drawn"), row, strict=True)) for row in zip(*columns, strict=True)]
    return {
        "intervals": rows,
        "hardly_trained": [row["interval"] for row in rows if row["share"] < RARE / len(rows)],
        "impossible": [row["interval"] for row in rows if not row["videos"]],
    }


def _described(path: Path, facts: Mapping[str, Any], shape: ClipShape) -> str:
    frames, bad = facts["frames"], facts["unreadable"]
    split = f", split {facts['split']}" if facts["dataset"] != "folder" else ""
    lines = [
        f"{path}: {facts['dataset']}{split}, {facts['videos']} videos, {quantity(facts['bytes'], 'B')}",
        f"  classes      {facts['classes'] or 'none'}",
        f"  frames       mean {frames['mean']}, median {frames['median']}, {frames['min']} to {frames['max']}",
        f"  missing      {facts['missing']}, and {facts['unlisted']} that no annotation names",
        f"  unreadable   {len(bad)}"
        + (f": {examples([f'{name} ({why})' for name, why in bad.items()])}" if bad else ""),
        f"  too short    {facts['too_short']} have fewer than the {shape.shortest} frames of the shortest clip",
    ]
    return "\n".join(lines)


def _tabulated(intervals: Mapping[str, Any], shape: ClipShape, *, clips: int) -> str:
    rows = [["interval", "frames", "videos", "expected", f"of {clips} clips"]]
    for row in intervals["intervals"]:
        frames = 1 + (shape.num_frames - 1) * row["interval"]
        rows.append([str(row["interval"]), str(frames), str(row["videos"]), f"{row['share']:.3%}", str(row["drawn"])])
    text = f"\nIntervals of {shape.num_frames} frames, rule {shape.rule}\n{table(rows, words=())}"
    impossible = intervals["impossible"]
    rare = [interval for interval in intervals["hardly_trained"] if interval not in impossible]
    if impossible:
        then = "they are never trained" if shape.rule == "clamp" else "training would stop there"
        text += f"\nNo video is long enough for {_ranges(impossible)}: {then}."
    if rare:
        text += f"\nHardly trained, with less than a tenth of an equal share: {_ranges(rare)}."
    return text


def _ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 7 as 1..3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
