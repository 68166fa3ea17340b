"""UCF-101 as its authors distribute it: which videos a split has, and their classes. Opens no video.

    UCF-101/Archery/v_Archery_g01_c01.avi ...        13,320 videos in 101 folders
    ucfTrainTestlist/classInd.txt                    "3 Archery"
    ucfTrainTestlist/trainlist01.txt ... 03          "Archery/v_Archery_g08_c01.avi 3"
    ucfTrainTestlist/testlist01.txt ... 03           "Archery/v_Archery_g01_c01.avi"

Labels count from 0 in the order of classInd.txt; without it, of the folders' names whatever their case, which is the
same order. A video may have been converted: its suffix does not count.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from magi.data.datasets.listing import Chosen, Entry, Listing, Tree, examples
from magi.data.datasets.scan import Found

SPLITS = ("all", "train01", "train02", "train03", "test01", "test02", "test03")
CLASSES, VIDEOS = 101, 13_320
FOLDERS = ("UCF-101", "UCF101", "videos")  # names of the folder of class folders
LISTS = ("ucfTrainTestlist", "annotations", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist")
NAME = re.compile(r"v_\w+_g\d+_c\d+", re.IGNORECASE)  # of HandstandPushups they spell the class in another case
LINE = re.compile(r"(\S+/\S+\.\w+)(?:\s+(\d+))?")


def find_tree(path: Path, *, split: str, annotations: Path | None) -> Tree:
    """Return where the class folders are and the lists that are needed, or of use, for this split.

    Args:
        path: the folder of class folders, or the one that holds it.
        split: one of `SPLITS`.
        annotations: the folder of the lists, if they are neither in `path` nor beside it.

    Raises:
        ValueError: lists that are needed are not there.
    """
    root = next((path / name for name in FOLDERS if (path / name).is_dir()), path)
    places = [annotations] if annotations is not None else [path / name for name in LISTS]
    if annotations is None:
        places += [path, *(path.absolute().parent / name for name in LISTS)]
    folder = next((place for place in places if (place / "classInd.txt").is_file()), None)
    kind, number = (split[:-2], split[-2:]) if split != "all" else ("all", "01")
    names = ["classInd.txt", f"trainlist{number}.txt", f"testlist{number}.txt"]
    needed = ["classInd.txt", f"{kind}list{number}.txt"]
    if kind == "all":  # names of folders say as much, unless someone says that there are lists
        needed = [] if annotations is None else needed[:1]
    for name in needed:
        if folder is None or not (folder / name).is_file():
            where = annotations or folder or f"{path} or beside it"
            raise ValueError(
                f"split {split} of UCF-101 needs {name}, which is not in {where}: unpack ucfTrainTestlist there, or "
                "say with annotations where it is"
            )
    found = [folder / name for name in names if (folder / name).is_file()] if folder is not None else []
    return Tree(root, annotations=tuple(found))


def choose(tree: Tree, found: Found, *, split: str) -> Chosen:
    """Return the videos of the split that are there, and name those that are not, or that no list has.

    Raises:
        ValueError: not a tree of this kind, lists that cannot be read, or none of their videos in it.
    """
    lists = {file.name: file for file in tree.annotations}
    named = [video for video in found.videos if video[0].count("/") == 1 and NAME.fullmatch(_stem(video[0]))]
    if not named:
        raise ValueError(
            f"{tree.root} holds no video named like Archery/v_Archery_g01_c01.avi: give the folder UCF-101, or the one "
            "it is in"
        )
    folders = sorted({name.partition("/")[0] for name, _ in named}, key=str.casefold)
    classes = _read_classes(lists["classInd.txt"]) if "classInd.txt" in lists else tuple(folders)
    labels = {name.casefold(): label for label, name in enumerate(classes)}
    by_key = {_key(name): (name, size) for name, size in reversed(named) if _class(name) in labels}
    number = split[-2:] if split != "all" else "01"
    listed = {
        kind: _read_list(lists[f"{kind}list{number}.txt"], labels)
        for kind in ("train", "test")
        if f"{kind}list{number}.txt" in lists
    }
    everything = {key: name for videos in listed.values() for key, name in videos.items()}
    complete = len(listed) == 2  # only both lists together name every video
    wanted = listed[split[:-2]] if split != "all" else (everything if complete else {})
    kept = [video for key, video in by_key.items() if key in wanted or (split == "all" and not complete)]
    if not kept:
        raise ValueError(f"none of the {len(wanted)} videos of split {split} is in {tree.root}: is it UCF-101?")
    order = {name: place for place, (name, _) in enumerate(found.videos)}
    kept.sort(key=lambda video: order[video[0]])
    missing = tuple(name for key, name in wanted.items() if key not in by_key)
    strange = tuple(name for name, _ in found.videos if by_key.get(_key(name), ("",))[0] != name)
    unknown = tuple(by_key[key][0] for key in by_key if complete and key not in everything)
    unlisted = tuple(sorted({*strange, *unknown}, key=order.__getitem__))
    entries = tuple(Entry(name, labels[_class(name)], size) for name, size in kept)
    remarks = _remarks(tree, split, missing=missing, unlisted=unlisted, wanted=len(wanted), found=len(by_key))
    return Chosen(Listing(tree.root, entries, classes), missing, unlisted, remarks)


def _remarks(
    tree: Tree, split: str, *, missing: tuple[str, ...], unlisted: tuple[str, ...], wanted: int, found: int
) -> tuple[str, ...]:
    remarks = []
    if missing:
        remarks.append(
            f"{len(missing)} of the {wanted} videos of UCF-101, split {split}, are not in {tree.root}: "
            f"{examples(missing)}"
        )
    elif not wanted and found < VIDEOS:
        remarks.append(f"{tree.root} holds {found} of the {VIDEOS} videos of UCF-101")
    if unlisted:
        remarks.append(f"{len(unlisted)} videos in {tree.root} are none of UCF-101: {examples(unlisted)}")
    return tuple(remarks)


def _read_classes(file: Path) -> tuple[str, ...]:
    rows = [line.split() for line in _lines(file)]
    numbers = [str(number) for number in range(1, len(rows) + 1)]
    if not rows or any(len(row) != 2 for row in rows) or [row[0] for row in rows] != numbers:
        raise ValueError(f"{file} does not number the classes as in '1 ApplyEyeMakeup', '2 ApplyLipstick' ...")
    return tuple(name for _, name in rows)


def _read_list(file: Path, labels: dict[str, int]) -> dict[str, str]:
    """Videos by key, as the list spells them."""
    videos = {}
    for line in _lines(file):
        match = LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{file}: {line!r} is not like 'Archery/v_Archery_g08_c01.avi 3'")
        name, number = match[1], match[2]
        label = labels.get(_class(name))
        if label is None or (number is not None and int(number) != label + 1):
            stands = "does not have it" if label is None else f"gives it {label + 1}"
            raise ValueError(f"{file}: {line!r} disagrees with classInd.txt, which {stands}")
        videos[_key(name)] = name
    return videos


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def _class(name: str) -> str:
    return name.partition("/")[0].casefold()


def _stem(name: str) -> str:
    return os.path.splitext(name.rpartition("/")[2])[0]


def _key(name: str) -> str:
    return os.path.splitext(name)[0].casefold()
