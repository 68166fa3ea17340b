"""The index of a data set: its listing in one file, made once, so that nobody looks through 480,000 files at a start.

    {"magi_index": 1, "dataset": "ucf101", "split": "train01", "root": "UCF-101", ...}
    ["Archery/v_Archery_g08_c01.avi", 2, 310522, 179]            name, label, bytes, frames
    ["Archery/v_Archery_g08_c02.avi", 2, 0, null, "is empty"]    a video that cannot be read, and why
    {"sha256": "..."}                                            of all lines above

Knows the file and how to tell that the data have changed since; not how clips are laid. Frames, and with them what
cannot be read, are there only if they were counted. INDEX.missing.txt names the videos that were not found,
INDEX.bad.jsonl those that cannot be read, and INDEX.partial is what a run that was stopped has done.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from magi.data.datasets.catalogue import Selection, choose, find_tree
from magi.data.datasets.journal import Journal
from magi.data.datasets.listing import Chosen, Entry, Listing, Tree, below
from magi.data.datasets.scan import look_into, scan
from magi.data.lengths import CHUNK, count_all
from magi.seeds import generator

VERSION = 1
CHECKED_VIDEOS, CHECKED_FOLDERS = 64, 8  # that are compared with the disk when an index is loaded
LARGE = 5_000  # videos in a folder that is not listed for that
Note = Callable[[int, int], None]
Counted = tuple[int | None, int | None, str | None]  # bytes, frames, and why there are none


@dataclass(frozen=True)
class Index:
    """What an index holds."""

    listing: Listing
    unreadable: Mapping[str, str]  # videos that cannot be read by name, and why
    missing: int  # videos that the annotations name and the disk did not have
    unlisted: int  # videos that the disk had and the annotations do not name
    counted: bool  # whether frames were counted


def index_file(selection: Selection) -> Path:
    """Where an index lies unless one is told: in the folder of the data."""
    part = f"-{selection.part}" if selection.dataset != "folder" else ""
    return selection.path / f"magi-index-{selection.dataset}{part}.jsonl"


def build_index(
    selection: Selection, file: Path, *, count: bool = False, workers: int = 1, note: Note = lambda done, total: None
) -> tuple[Index, Chosen]:
    """Look through the tree and write the index.

    What a run that was stopped has done is not done again, and frames that an older index in this place has counted
    are taken over where the size of the file is the same.

    Args:
        selection: the data set.
        file: where to write it.
        count: open every video and store its number of frames, or why it has none.
        workers: processes that count.
        note: is told how many of how many videos are counted.

    Returns:
        The index, and the selection that it was made of.

    Raises:
        ValueError: no such tree, or not of this data set.
        OSError: the file cannot be written there.
    """
    tree = find_tree(selection)
    work = {"magi_index": VERSION, **_identity(selection, tree, file)}
    with Journal(_beside(file, "partial"), work) as journal:
        found = scan(tree.root, tree.tops, journal=journal)
        chosen = choose(selection, tree, found)
        listing = chosen.listing
        unreadable: dict[str, str] = {}
        if count:
            listing, unreadable = count_listing(
                listing, _counted_before(file, journal), workers=workers, note=note,
                keep=lambda counted: journal.add({"counted": counted}),
            )  # fmt: skip
    header = work | {
        "classes": listing.classes, "videos": len(listing.entries), "counted": count,
        "missing": len(chosen.missing), "unlisted": len(chosen.unlisted), "folders": found.folders,
    }  # fmt: skip
    _write_lines(_beside(file, "missing.txt"), chosen.missing)
    bad = (json.dumps({"path": name, "reason": reason}) for name, reason in unreadable.items())
    _write_lines(_beside(file, "bad.jsonl"), list(bad))
    _write_whole(file, _lines(header, listing, unreadable))
    journal.path.unlink(missing_ok=True)
    index = Index(listing, unreadable, len(chosen.missing), len(chosen.unlisted), count)
    return index, replace(chosen, listing=listing)


def load_index(selection: Selection, file: Path) -> Index:
    """Read an index, having compared it with what is asked for and, here and there, with the disk.

    Raises:
        ValueError: not an index, a damaged one, or one of other data or of data that have changed; with what to do.
    """
    remedy = _remedy(selection, file)
    if not file.is_file():
        raise ValueError(f"there is no index {file}; {remedy}")
    stat, tree = file.stat(), find_tree(selection)
    header, entries, unreadable = _load(file, (stat.st_mtime_ns, stat.st_size), remedy)
    for name, value in json.loads(json.dumps(_identity(selection, tree, file))).items():
        if header.get(name) != value:
            was, now = _brief(header.get(name)), _brief(value)
            raise ValueError(f"{file} is an index of {name} {was}, not of {now}; {remedy}")
    listing = Listing(tree.root, entries, tuple(header["classes"]))
    changed = next(_changes(listing, header["folders"], key=stat.st_size), None)
    if changed is not None:
        raise ValueError(f"{file} is out of date: {changed}; {remedy}")
    return Index(listing, unreadable, header["missing"], header["unlisted"], header["counted"])


@lru_cache(maxsize=1)  # a run opens its data more than once
def _load(
    file: Path, version: tuple[int, int], remedy: str
) -> tuple[dict[str, Any], tuple[Entry, ...], dict[str, str]]:
    header, rows = _read(file, remedy)
    try:
        return header, tuple(Entry(*row[:4]) for row in rows), {row[0]: row[4] for row in rows if len(row) > 4}
    except TypeError as error:
        raise ValueError(f"{file} is no index of videos: a line of it has another form; {remedy}") from error


def count_listing(
    listing: Listing,
    known: Mapping[str, Counted] | None = None,
    *,
    workers: int = 1,
    note: Note = lambda done, total: None,
    keep: Callable[[dict[str, Counted]], None] = lambda counted: None,
) -> tuple[Listing, dict[str, str]]:
    """Count the frames of every video; returns the listing with them, and the videos that cannot be read with reasons.

    Args:
        listing: the videos.
        known: bytes, frames and reason by name, of videos that need not be opened again if their size is the same.
        workers: processes.
        note: is told how many of how many are counted.
        keep: is told what was counted, as in `known`, every few videos.
    """
    sizes = {entry.name: entry.num_bytes for entry in listing.entries}
    done = {name: value for name, value in (known or {}).items() if sizes.get(name, -1) == value[0]}
    left = [number for number, entry in enumerate(listing.entries) if entry.name not in done]
    for start, counts in count_all([listing.path(number) for number in left], workers=workers):
        names = [listing.entries[number].name for number in left[start : start + CHUNK]]
        counted = {name: (sizes[name], *count) for name, count in zip(names, counts, strict=True)}
        keep(counted)
        done.update(counted)
        note(len(done), len(listing.entries))
    entries = tuple(replace(entry, num_frames=done[entry.name][1]) for entry in listing.entries)
    bad = {entry.name: str(done[entry.name][2]) for entry in entries if entry.num_frames is None}
    return replace(listing, entries=entries), bad


def _read(file: Path, remedy: str) -> tuple[dict[str, Any], list[list[Any]]]:
    """The header and the rows of a file that may be anything."""
    data = file.read_bytes()
    first, last = data.find(b"\n") + 1, data.rfind(b"\n", 0, -1) + 1
    try:
        header = json.loads(data[:first])
        version = header.get("magi_index") if isinstance(header, dict) else None
    except ValueError:
        version = None
    if version != VERSION:
        what = "is no index of videos" if version is None else f"has format {version}; this version reads {VERSION}"
        raise ValueError(f"{file} {what}; {remedy}")
    check = json.dumps({"sha256": hashlib.sha256(memoryview(data)[:last]).hexdigest()}).encode() + b"\n"
    if data[last:] != check:
        raise ValueError(f"{file} is damaged: its checksum does not fit; {remedy}")
    return header, json.loads(b"[" + data[first : last - 1].replace(b"\n", b",") + b"]")


def _counted_before(file: Path, journal: Journal) -> dict[str, Counted]:
    """What an older index and a run that was stopped have counted. What could not be read then is tried again."""
    known: dict[str, Counted] = {}
    with suppress(ValueError, FileNotFoundError):  # none, or none that can be used: it is to be written anew
        known = {row[0]: (row[2], row[3], None) for row in _read(file, "")[1] if row[3] is not None}
    for record in journal.records:
        known.update({name: (*value,) for name, value in record.get("counted", {}).items()})
    return known


def _changes(listing: Listing, folders: Mapping[str, int], *, key: int) -> Iterator[str]:
    """Compare a few videos and folders, others for every index, with the disk, and say what is not as it was."""
    random = generator(0, "index spot check", key)
    for number in random.permutation(len(listing.entries))[:CHECKED_VIDEOS].tolist():
        entry, path = listing.entries[number], listing.path(number)
        if not os.path.lexists(path):
            yield f"{path} is gone"
        elif entry.num_bytes is not None and (size := path.stat().st_size if path.exists() else 0) != entry.num_bytes:
            yield f"{path} has {size} bytes, and had {entry.num_bytes}"
    names = sorted(name for name, count in folders.items() if 0 <= count <= LARGE)
    some = [names[place] for place in random.permutation(len(names))[:CHECKED_FOLDERS]]
    for name in dict.fromkeys([*names[:1], *some]):  # the first is the one that holds the others
        path = below(listing.root, name)
        if not path.is_dir():
            yield f"{path} is gone"
            continue
        folder = look_into(path)
        if len(folder.videos) != folders[name]:
            yield f"{path} has {len(folder.videos)} videos, and had {folders[name]}"
        new = [inner for inner in folder.folders if (f"{name}/{inner}" if name else inner) not in folders]
        for inner in new:
            if look_into(path / inner).videos:
                yield f"{path / inner} is new"


def _identity(selection: Selection, tree: Tree, file: Path) -> dict[str, Any]:
    """What an index is of. Its root is told from where the file lies if it is below, so that both can move."""
    root, here = tree.root.resolve(), file.absolute().parent.resolve()
    return {
        "dataset": selection.dataset,
        "split": selection.part,
        "root": root.relative_to(here).as_posix() if root.is_relative_to(here) else str(root),
        "annotations": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tree.annotations},
    }


def _lines(header: Mapping[str, Any], listing: Listing, unreadable: Mapping[str, str]) -> Iterator[str]:
    yield json.dumps(header, separators=(",", ":"))
    for entry in listing.entries:
        row = [entry.name, entry.label, entry.num_bytes, entry.num_frames]
        yield json.dumps([*row, unreadable[entry.name]] if entry.name in unreadable else row, separators=(",", ":"))


def _write_whole(file: Path, lines: Iterator[str]) -> None:
    """Write the index so that its name never stands for half of it."""
    partial = _beside(file, "new")
    digest = hashlib.sha256()
    with partial.open("wb") as writing:
        for line in lines:
            data = line.encode() + b"\n"
            digest.update(data)
            writing.write(data)
        writing.write(json.dumps({"sha256": digest.hexdigest()}).encode() + b"\n")
        writing.flush()
        os.fsync(writing.fileno())
    os.replace(partial, file)


def _write_lines(file: Path, lines: tuple[str, ...] | list[str]) -> None:
    if lines:
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="surrogateescape")
    else:
        file.unlink(missing_ok=True)  # of an older index


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(f"{file.name}.{ending}")


def _remedy(selection: Selection, file: Path) -> str:
    words = ["magi data index", str(selection.path), "--dataset", selection.dataset]
    words += ["--split", selection.split] if selection.split is not None else []
    words += ["--annotations", str(selection.annotations)] if selection.annotations is not None else []
    words += ["--out", str(file)] if file != index_file(selection) else []
    return f"make it anew: {' '.join(words)}"


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {str(digest)[:8]}" for name, digest in value.items()) or "none"
    return str(value)
