"""The index: the same listing as the tree gives, made once even if it is stopped, and never believed of other data; and
what follows from the lengths in it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from magi import cli
from magi.data import lengths
from magi.data.datasets import index, scan
from magi.data.datasets.catalogue import Selection, look
from magi.data.datasets.index import build_index, index_file, load_index
from magi.data.datasets.journal import Journal
from magi.data.folder import FolderConfig, FolderSource
from magi.data.lengths import count_all, drawn_intervals, expected_shares, videos_that_fit
from magi.data.order import ClipShape
from magi.video import child, find_videos
from tests.trees import kinetics_table, ucf_name, ucf_tree, video_bytes, write


def names(listing: Any) -> list[str]:
    return [entry.name for entry in listing.entries]


@pytest.fixture
def ucf(tmp_path: Path) -> Selection:
    """A split of 24 files, which are not videos."""
    return Selection(ucf_tree(tmp_path / "data"), "ucf101", "train01")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty real .avi files with 20, 25 ... 95 frames, of which four cannot be read."""
    root = ucf_tree(tmp_path_factory.mktemp("real"), clips=1, real=True)
    write(root / "UCF-101" / ucf_name("Archery", 5, 1))
    write(root / "UCF-101" / ucf_name("Archery", 6, 1), b"RIFF" + bytes(500))
    write(root / "UCF-101" / ucf_name("Hammering", 5, 1), b"#EXTM3U\n")
    write(root / "UCF-101" / ucf_name("HammerThrow", 5, 1), video_bytes(30)[:300])
    for name in ("trainlist01.txt", "testlist01.txt"):
        (root / "ucfTrainTestlist" / name).unlink()
    return root


# What is found


def test_a_scan_finds_what_find_videos_finds(tmp_path: Path) -> None:
    """In a tree with links, circles, hidden names, folders of pictures and odd names: the same videos in that order."""
    odd = [
        "a b/x.mp4",
        "a/z.MP4",
        "q\"uo'te, $(x)/é日本.webm",
        "a/.hidden.mp4",
        ".git/y.mp4",
        "d.mp4/e.mkv",
        "notes.txt",
    ]
    for name in [*odd, os.fsdecode(b"latin\xe9.avi")]:
        write(tmp_path / "tree" / name, b"12345")
    for number in (1, 2):
        (tmp_path / "tree" / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "tree" / "pictures" / f"{number}.png")
    (tmp_path / "tree" / "a" / "circle").symlink_to(tmp_path / "tree")
    (tmp_path / "tree" / "link.mp4").symlink_to(tmp_path / "tree" / "a" / "z.MP4")
    (tmp_path / "tree" / "broken.mp4").symlink_to(tmp_path / "nowhere")
    for root in (tmp_path / "tree", tmp_path / "tree" / "pictures"):
        found = scan.scan(root)
        assert [root / name for name, _ in found.videos] == find_videos(root)
    sizes = dict(scan.scan(tmp_path / "tree").videos)
    assert len(sizes) == 8 and sizes["link.mp4"] == 5 and sizes["broken.mp4"] is sizes["pictures"] is None


def test_an_index_gives_the_listing_that_the_tree_gives(ucf: Selection, tmp_path: Path) -> None:
    """Entry for entry, with odd names too, for every data set; beside the data it is found, elsewhere it is named."""
    write(tmp_path / "plain" / "q\"uo'te" / "é日本.webm", b"1")
    write(tmp_path / "plain" / os.fsdecode(b"latin\xe9.avi"), b"22")
    write(tmp_path / "k600" / "train" / "abcdefghijk_000001_000011.mp4", b"333")
    kinetics_table(tmp_path / "k600" / "annotations" / "train.csv", [("x", "abcdefghijk", 1, 11, "train")])
    for selection in (ucf, Selection(tmp_path / "plain"), Selection(tmp_path / "k600", "kinetics600")):
        for file in (index_file(selection), tmp_path / "elsewhere.jsonl"):
            built, chosen = build_index(selection, file)
            loaded = load_index(selection, file)
            assert loaded.listing == built.listing == chosen.listing == look(selection)[0].listing
            assert loaded.listing.fingerprint() == chosen.listing.fingerprint()
            assert not file.with_name(f"{file.name}.partial").exists()


def test_training_sees_the_same_clips_with_and_without_an_index(real: Path, tmp_path: Path) -> None:
    """To the bit, in the same order, with the same fingerprint; from beside the data, and from anywhere."""
    settings = {"path": str(real), "dataset": "ucf101", "num_frames": 4, "size": 16, "max_bad_fraction": 1.0}
    selection = Selection(real, "ucf101")
    with pytest.warns(UserWarning):
        bare = FolderSource(FolderConfig(**settings))
        expected = bare.clips(range(40))
        for file in (tmp_path / "index.jsonl", index_file(selection)):
            build_index(selection, file, count=True)
            named = {"index": str(file)} if file != index_file(selection) else {}
            source = FolderSource(FolderConfig(**settings, **named))
            clips = source.clips(range(40))
            assert torch.equal(clips.video, expected.video) and torch.equal(clips.interval, expected.interval)
            assert clips.label is not None and expected.label is not None and torch.equal(clips.label, expected.label)
            assert source.fingerprint == bare.fingerprint
            assert source.listing.entries[0].num_frames == 20, "it is the index that was read"
    file.unlink()


def test_fingerprints_tell_data_apart(ucf: Selection) -> None:
    """A video more, one less, one of another size or class: each is another data set; the place of the tree is not."""
    first = look(ucf)[0].listing.fingerprint()
    moved = ucf.path.rename(ucf.path.with_name("moved"))
    assert look(Selection(moved, "ucf101", "train01"))[0].listing.fingerprint() == first
    path = moved / "UCF-101" / ucf_name("Archery", 2, 1)
    write(path, b"another size")
    second = look(Selection(moved, "ucf101", "train01"))[0].listing.fingerprint()
    path.unlink()
    third = look(Selection(moved, "ucf101", "train01"))[0].listing.fingerprint()
    assert len({first, second, third}) == 3


# Stopping


def run_and_kill(selection: Selection, file: Path, *, after: int, count: bool) -> None:
    """Build an index in another process that kills itself, uncatchably, when it has finished a number of records."""

    def build() -> None:
        add = index.Journal.add

        def adding(journal: index.Journal, record: Any) -> None:
            add(journal, record)
            if len(journal.records) == after:
                os.kill(os.getpid(), signal.SIGKILL)

        index.Journal.add = adding  # type: ignore[method-assign]
        build_index(selection, file, count=count)

    process = multiprocessing.get_context("fork").Process(target=build)
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_killed_build_goes_on_where_it_was(after: int, ucf: Selection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five folders those that were finished are not looked into again, and the index is that of one go."""
    file = index_file(ucf)
    run_and_kill(ucf, file, after=after, count=False)
    assert not file.exists(), "the index is there only when it is whole"
    looked: list[Path] = []
    look_into = scan.look_into
    monkeypatch.setattr(scan, "look_into", lambda path, **rest: looked.append(path) or look_into(path, **rest))
    with file.with_name(f"{file.name}.partial").open("ab") as journal:
        journal.write(b'{"folder":"Archery","chan')  # a line that was being written when the machine stopped
    build_index(ucf, file)
    assert len(looked) == 5 - after
    resumed = file.read_bytes()
    build_index(ucf, file)
    assert len(looked) == 5 - after + 5 and file.read_bytes() == resumed


def test_a_journal_may_be_cut_anywhere(tmp_path: Path) -> None:
    """What is left of it is a beginning of its records, and what is added then can be read again; of another work,
    nothing is believed."""
    path, work = tmp_path / "journal", {"of": "this"}
    with Journal(path, work) as journal:
        for number in range(4):
            journal.add({"n": number})
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with Journal(path, work) as journal:
            kept = list(journal.records)
            journal.add({"n": "more"})
        assert kept == [{"n": number} for number in range(max(0, whole[:length].count(b"\n") - 1))]
        with Journal(path, work) as journal:
            assert journal.records == [*kept, {"n": "more"}]
    with Journal(path, {"of": "that"}) as journal:
        assert journal.records == []


def test_a_folder_that_changed_meanwhile_is_looked_into_again(ucf: Selection) -> None:
    """What was added or taken away between the kill and the resumption is seen."""
    run_and_kill(ucf, index_file(ucf), after=5, count=False)
    gone = ucf_name("Archery", 2, 1)
    (ucf.path / "UCF-101" / gone).unlink()
    built, chosen = build_index(ucf, index_file(ucf))
    assert gone not in names(built.listing) and chosen.missing == (gone,)


def test_a_large_folder_is_finished_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVDF packs a split into one folder: sizes asked for before the kill are not asked for again."""
    monkeypatch.setattr(scan, "PART", 10)
    for number in range(45):
        write(tmp_path / "flat" / f"{number:02}.mp4", b"." * number)
    selection, file = Selection(tmp_path), index_file(Selection(tmp_path))
    run_and_kill(selection, file, after=4, count=False)  # the root, and three parts
    asked: list[str] = []
    size = scan._size
    monkeypatch.setattr(scan, "_size", lambda entry: asked.append(entry.name) or size(entry))
    built, _ = build_index(selection, file)
    assert len(asked) == 15
    assert [entry.num_bytes for entry in built.listing.entries] == list(range(45))


def test_a_killed_count_goes_on_where_it_was(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening the videos is what takes hours: those counted before the kill, or for an older index, stay counted."""
    monkeypatch.setattr(lengths, "CHUNK", 4)
    monkeypatch.setattr(index, "CHUNK", 4)
    selection, file = Selection(real, "ucf101"), tmp_path / "index.jsonl"
    run_and_kill(selection, file, after=5 + 3, count=True)  # five folders, three chunks
    opened: list[Path] = []
    count_frames = lengths.count_frames
    monkeypatch.setattr(lengths, "count_frames", lambda path, **o: opened.append(path) or count_frames(path, **o))
    built, _ = build_index(selection, file, count=True)
    assert len(opened) == 20 - 12
    counted = {entry.name: entry.num_frames for entry in built.listing.entries}
    assert [counted[ucf_name("Archery", group, 1)] for group in (1, 2, 3, 4)] == [20, 25, 30, 35]
    opened.clear()
    assert build_index(selection, file, count=True)[0] == built
    assert len(opened) == 4, "what could not be read is tried again"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_where_nothing_can_be_written_another_place_is_asked_for(
    number: int, real: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A data set on a read-only disk, or of another user."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, "refused", "there/index.partial")

    monkeypatch.setattr("magi.cli.data.build_index", refuse)
    assert cli.main(["data", "index", str(real)]) == cli.MISUSE
    assert "there/index.partial cannot be written: name a place for the index with --out" in capsys.readouterr().err


# What cannot be read


@pytest.mark.parametrize("workers", [1, 2])
def test_what_cannot_be_read_is_listed_with_reasons(workers: int, real: Path, tmp_path: Path) -> None:
    """A fifth of the videos: exactly those, in the index, in what is loaded of it and in a file beside it."""
    file = tmp_path / "index.jsonl"
    build_index(Selection(real, "ucf101"), file, count=True, workers=workers)
    loaded = load_index(Selection(real, "ucf101"), file)
    bad = {ucf_name(c, g, 1) for c, g in (("Archery", 5), ("Archery", 6), ("Hammering", 5), ("HammerThrow", 5))}
    assert set(loaded.unreadable) == bad and loaded.counted
    assert {entry.name for entry in loaded.listing.entries if entry.num_frames is None} == bad
    assert loaded.unreadable[ucf_name("Archery", 5, 1)] == "is empty"
    listed = [json.loads(line) for line in file.with_name("index.jsonl.bad.jsonl").read_text().splitlines()]
    assert {record["path"]: record["reason"] for record in listed} == loaded.unreadable


@pytest.mark.parametrize("workers", [1, 2])
def test_a_video_that_kills_its_reader_stops_nothing(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """A decoder's crash costs the process that reads: that video is named, every other one is counted."""
    good = real / "UCF-101" / ucf_name("Archery", 1, 1)
    paths = [tmp_path / f"{number}.avi" for number in range(6)]
    for path in paths:
        path.symlink_to(good)
    open_one = child.open_video

    def opened(path: str, **options: Any) -> Any:
        if path.endswith("/3.avi"):
            os.kill(os.getpid(), signal.SIGKILL)
        return open_one(path, **options)

    monkeypatch.setattr(child, "open_video", opened)
    monkeypatch.setattr(lengths, "CHUNK", 2)
    lengths._reader.cache_clear()  # a process that was started before would not know
    found: dict[int, Any] = {}
    for start, counts in count_all(paths, workers=workers):
        found.update(enumerate(counts, start=start))
    lengths._reader.cache_clear()
    length, _ = found[0]
    assert length > 0
    assert found == {n: (length, None) if n != 3 else (None, "crashed the decoder (signal 9)") for n in range(6)}


# Doubt


def rewrite(file: Path, change: Any, *, first: Any = None) -> None:
    """Change the header, and the first video if one is given, and make the checksum right again."""
    import hashlib

    header, *rows, _ = file.read_text().splitlines()
    lines = [json.dumps(json.loads(header) | change), *([json.dumps(first), *rows[1:]] if first is not None else rows)]
    text = "".join(f"{line}\n" for line in lines)
    file.write_text(text + json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest()}) + "\n")


def test_an_index_of_other_data_is_refused(ucf: Selection, tmp_path: Path) -> None:
    """Other split, data set, folder, lists or format: both values, and the command that makes it anew."""
    file = tmp_path / "index.jsonl"
    build_index(ucf, file)
    other = ucf_tree(tmp_path / "other")
    cases: list[tuple[Selection, str]] = [
        (Selection(ucf.path, "ucf101", "test01"), "is an index of split train01, not of test01"),
        (Selection(ucf.path), "is an index of dataset ucf101, not of folder"),
        (Selection(other, "ucf101", "train01"), "is an index of root .*data/UCF-101, not of .*other/UCF-101"),
    ]
    for selection, message in cases:
        with pytest.raises(ValueError, match=f"{message}; make it anew: magi data index .* --out {file}") as caught:
            load_index(selection, file)
        assert "\n" not in str(caught.value)
    rewrite(file, {"magi_index": 2})
    with pytest.raises(ValueError, match="has format 2; this version reads 1"):
        load_index(ucf, file)
    build_index(ucf, file)
    lists = ucf.path / "ucfTrainTestlist"
    write(lists / "trainlist01.txt", (lists / "trainlist01.txt").read_bytes() + b"\n")
    with pytest.raises(ValueError, match=r"is an index of annotations .*trainlist01.txt \w{8}, .*not of .*trainlist01"):
        load_index(ucf, file)
    with pytest.raises(ValueError, match=r"there is no index .*nowhere"):
        load_index(ucf, tmp_path / "nowhere")


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    """A flipped bit anywhere, a cut at any place, or another file altogether: an error, never another listing."""
    write(tmp_path / "data" / "a.mp4", b"1")
    selection, file = Selection(tmp_path / "data"), tmp_path / "index.jsonl"
    build_index(selection, file)
    whole = file.read_bytes()
    for place in range(len(whole)):
        for data in (whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], whole[:place]):
            file.write_bytes(data)
            with pytest.raises(ValueError, match=r"is damaged|is no index|has format"):
                index._read(file, "")
    for data in (b"", b"\n\n", b"[]\n", bytes(range(256)), b'{"magi_index": 1}'):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"is damaged|is no index|has format"):
            load_index(selection, file)


def test_a_tree_that_changed_is_noticed(ucf: Selection) -> None:
    """A video gone, another size, one more, a folder more or less: in a small tree always, and with what to do."""
    root, file = ucf.path / "UCF-101", index_file(ucf)
    build_index(ucf, file)
    load_index(ucf, file)
    path = root / ucf_name("Archery", 2, 1)
    content = path.read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=f"is out of date: .*{message}.*; make it anew: magi data index"):
            load_index(ucf, file)

    path.unlink()
    refused("is gone")
    write(path, b"longer than before")
    refused(r"has 18 bytes, and had \d+")
    write(path, content)
    load_index(ucf, file)
    write(root / "Archery" / "new.avi")
    refused("has 9 videos, and had 8")
    (root / "Archery" / "new.avi").unlink()
    write(root / "Bowling" / "new.avi")
    refused("Bowling is new")
    (root / "Bowling" / "new.avi").rename(root / "Bowling" / "notes.txt")
    load_index(ucf, file)
    (root / "Archery").rename(root / "Bowling" / "Archery")
    refused("is gone")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["../secret.mp4", None, None, 9], r"'\.\./secret\.mp4' is no place below .*/data; .*delete it"),
        (["a/../../secret.mp4", None, None, 9], "is no place below"),
        (["/etc/passwd", None, None, 9], "'/etc/passwd' is no place below"),
        (["a.mp4\0", None, None, 9], "is no place below"),
        ([7, None, None, 9], "7 is no place below"),
        (7, "a line of it has another form; make it anew"),
    ],
    ids=["climbs", "climbs later", "absolute", "zero", "number", "form"],
)
def test_an_index_names_nothing_outside_of_its_folder(row: Any, message: str, tmp_path: Path) -> None:
    """It lies beside the videos and comes with them, from whoever: its checksum tells damage, not who made it."""
    write(tmp_path / "data" / "a.mp4", b"1")
    write(tmp_path / "secret.mp4", b"1")
    selection = Selection(tmp_path / "data")
    file = index_file(selection)
    build_index(selection, file)
    rewrite(file, {}, first=row)
    with pytest.raises(ValueError, match=message) as caught:
        load_index(selection, file).listing.path(0)
    assert "\n" not in str(caught.value)


def test_data_may_move_with_their_index(ucf: Selection) -> None:
    """An index in the folder of the data says where they are from there, so that both can be copied elsewhere."""
    build_index(ucf, index_file(ucf))
    moved = Selection(ucf.path.rename(ucf.path.with_name("moved")), "ucf101", "train01")
    assert load_index(moved, index_file(moved)).listing.root == moved.path / "UCF-101"


def test_loading_does_not_look_through_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300 videos in 30 folders, 64 files and 9 folders are compared with the disk: as many as of 480,000."""
    for number in range(300):
        write(tmp_path / "data" / f"{number % 30}" / f"{number}.mp4")
    selection, file = Selection(tmp_path / "data"), tmp_path / "index.jsonl"
    build_index(selection, file)
    compared: Counter[str] = Counter()
    scandir, lexists = os.scandir, os.path.lexists
    monkeypatch.setattr(os, "scandir", lambda path: compared.update(["folder"]) or scandir(path))
    monkeypatch.setattr(os.path, "lexists", lambda path: compared.update(["file"]) or lexists(path))
    assert len(load_index(selection, file).listing.entries) == 300
    assert compared["file"] == 64 and compared["folder"] in (8, 9), "the top folder may be one of the eight"


# Intervals


def turns(frames: list[int], shape: ClipShape) -> list[Fraction]:
    """The shares of the intervals by the definition: all orders of the videos, each draw of an interval."""
    shares: Counter[int] = Counter()
    usable = [n for n in frames if n > (shape.num_frames - 1) * shape.min_interval]
    for n in usable:
        fits = [k for k in range(shape.min_interval, shape.max_interval + 1) if (shape.num_frames - 1) * k < n]
        for k in fits:
            shares[k] += Fraction(1, len(fits) * len(usable))  # type: ignore[assignment]
    return [Fraction(shares[k]) for k in range(shape.min_interval, shape.max_interval + 1)]


def test_expected_shares_are_exact() -> None:
    """As fractions: clamp shares each video's turn among the intervals that fit into it; the others need no lengths."""
    frames = np.random.default_rng(0).integers(1, 90, 60)
    for low, high in ((1, 7), (3, 20)):
        shape = ClipShape(5, low, high)
        expected = turns(frames.tolist(), shape)
        assert sum(expected) == 1
        np.testing.assert_allclose(expected_shares(frames, shape), [float(x) for x in expected], rtol=1e-12, atol=0)
        fits = [int((frames > 4 * k).sum()) for k in range(low, high + 1)]
        assert videos_that_fit(frames, shape).tolist() == fits
    assert expected_shares(frames, ClipShape(5, 1, 20, "reject")).tolist() == [0.05] * 20
    assert expected_shares(frames, ClipShape(5, 3, 3, "fixed")).tolist() == [1.0]
    with pytest.raises(ValueError, match="none of the 60 videos has the 401 frames of a clip"):
        expected_shares(frames, ClipShape(5, 100, 100))


@pytest.mark.parametrize("rule", ["clamp", "reject"])
def test_intervals_come_as_often_as_expected(rule: Any) -> None:
    """Over 6,000 clips of a run the counts fit the exact shares, chi-square; what has share 0 never comes."""
    frames = np.random.default_rng(1).integers(10, 150, 200)
    shape = ClipShape(8, 1, 18 if rule == "reject" else 25, rule)
    drawn = drawn_intervals(frames, shape, seed=3, samples=6000)
    expected = 6000 * expected_shares(frames, shape)
    possible = expected > 0
    assert drawn[~possible].sum() == 0 and drawn.sum() == 6000
    degrees = possible.sum() - 1
    chi_square = ((drawn - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < degrees + 4 * np.sqrt(2 * degrees), drawn


@pytest.mark.parametrize("rule", ["clamp", "reject"])
def test_intervals_drawn_are_those_of_the_clips(rule: Any, real: Path) -> None:
    """The counts of the report are those of the source itself, clip by clip, with its bad and short videos."""
    longest = {"clamp": 25, "reject": 11}[rule]
    settings = FolderConfig(
        path=str(real), dataset="ucf101", num_frames=9, size=16, max_interval=longest, interval_rule=rule,
        max_bad_fraction=1.0, seed=5,
    )  # fmt: skip
    with pytest.warns(UserWarning):
        clips = FolderSource(settings).clips(range(120))
    found = look(settings.selection)[0].listing
    counted, bad = index.count_listing(found)
    frames = np.array([entry.num_frames or 0 for entry in counted.entries])
    assert len(bad) == 4
    drawn = drawn_intervals(frames, settings.shape, seed=5, samples=120)
    assert drawn.tolist() == torch.bincount(clips.interval, minlength=longest + 1)[1:].tolist()


def test_the_papers_intervals_need_longer_videos_than_ucf101_has() -> None:
    """16 frames at interval 25 are 376 frames; of 182, UCF-101's mean, 12 is the largest that fits."""
    shares = expected_shares(np.array([182]), ClipShape(16, 1, 25))
    np.testing.assert_allclose(shares, [1 / 12] * 12 + [0] * 13)
    assert videos_that_fit(np.array([375, 376]), ClipShape(16, 1, 25))[-1] == 1


# The commands


def test_index_and_report_commands(real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What they print and write is what is there; an index that is found spares the counting."""
    words = [str(real), "--dataset", "ucf101"]
    report = ["data", "report", *words, "--frames", "9", "--workers", "1", "--clips", "500"]
    assert cli.main([*report, "--json", str(tmp_path / "bare.json")]) == 0
    assert "20 videos opened" in capsys.readouterr().out
    file = index_file(Selection(real, "ucf101"))
    assert cli.main(["data", "index", *words, "--probe", "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert f"{file}: 20 videos, 4 classes, 4 that cannot be read ({file}.bad.jsonl)" in out
    assert cli.main([*report, "--json", str(tmp_path / "indexed.json")]) == 0
    out = capsys.readouterr().out
    assert "opened" not in out and "frames       mean 57.5, median 57.5, 20.0 to 95.0" in out
    assert "No video is long enough for 12..25: they are never trained." in out
    bare, indexed = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("bare", "indexed"))
    assert bare.pop("index") is None and indexed.pop("index") == str(file)
    assert bare == indexed
    assert bare["videos"] == 20 and bare["classes"] == 4 and len(bare["unreadable"]) == 4 and bare["missing"] == 0
    assert bare["impossible"] == list(range(12, 26)) and sum(row["drawn"] for row in bare["intervals"]) == 500
    assert sum(row["share"] for row in bare["intervals"]) == pytest.approx(1)
    file.unlink()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("data", "magi data does index or report, got None"),
        ("data count x", "magi data does index or report, got 'count'"),
        ("data index", "which data? magi data index PATH"),
        ("data index nowhere", "nowhere does not exist"),
        ("data index . --split train", "split has no effect with dataset folder"),
        ("data report . --rule fixed", "one fixed interval needs min_interval = max_interval, got 1 and 25"),
        ("data report . --index nowhere.jsonl", "there is no index nowhere.jsonl; make it anew: magi data index ."),
        ("data report . --workers 0", "--workers must be at least 1, got 0"),
    ],
)
def test_errors_of_the_commands(
    words: str, told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says what and what to do."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(words.split()) == cli.MISUSE
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
