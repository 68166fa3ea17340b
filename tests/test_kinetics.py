"""Kinetics-600 as it is downloaded: every layout and table gives the same videos and labels, and what is missing is
told."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest

from magi.data.datasets.catalogue import Selection, look
from magi.data.datasets.index import build_index
from magi.data.datasets.listing import Chosen
from magi.data.folder import FolderConfig, FolderSource
from tests.trees import kinetics_table, video_bytes, write

ROWS = [  # ids that begin with - or hold _ are usual, and so are these labels
    ("riding a bike", "-0IErS_cisg", 17, 27),
    ("riding a bike", "zz_000123_Q", 0, 10),
    ("massaging person's head", "__abcdefghi", 1003, 1013),
    ("petting animal (not cat)", "a-b_c-d_e-f", 5, 15),
    ("tossing salad, quickly", "AAAAAAAAAAA", 82, 92),
    ('"quoted" café', "BBBBBBBBBBB", 9, 19),
]
LABELS = sorted({row[0] for row in ROWS})


def stem(row: tuple[str, str, int, int]) -> str:
    return f"{row[1]}_{row[2]:06d}_{row[3]:06d}"


LAYOUTS = {
    "crawler": lambda row: f"train/{row[0]}/{stem(row)}.mp4",
    "underscores": lambda row: f"videos_train/{row[0].replace(' ', '_')}/{stem(row)}.mkv",
    "flat": lambda row: f"train/{stem(row)}.mp4",
    "sorted links": lambda row: f"videos/train/{row[0]}/{stem(row)}.mp4",
    "whole": lambda row: f"{row[0]}/{row[1]}.webm",
    "split folder": lambda row: f"{row[0].replace(' ', '_')}/{stem(row)}.mp4",
}


def chosen(path: Path, **options: Any) -> Chosen:
    return look(Selection(path, "kinetics600", **options))[0]


def labelled(one: Chosen) -> dict[str, str]:
    """Class by YouTube id: the part of a name that all layouts share."""
    found = {}
    for entry in one.listing.entries:
        (row,) = [row for row in ROWS if row[1] in entry.name]
        assert entry.label is not None
        found[row[1]] = one.listing.classes[entry.label]
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(layout: str, tmp_path: Path) -> None:
    """The same six videos with the same classes, wherever they lie and however the folders spell their class."""
    for row in ROWS:
        write(tmp_path / LAYOUTS[layout](row), b".")
    kinetics_table(tmp_path / "annotations" / "train.csv", [(*row, "train") for row in ROWS])
    one = chosen(tmp_path)
    assert labelled(one) == {row[1]: row[0] for row in ROWS}
    assert one.listing.classes == tuple(LABELS) and one.missing == one.unlisted == ()
    assert one.remarks == (f"{tmp_path}/annotations/train.csv has 5 classes, not 600: labels number these",)


TABLES: dict[str, tuple[str | None, Any]] = {
    "official": (None, lambda row: (*row, "train")),
    "first crawler": ("label-name,video-id,start-time,end-time", lambda row: row),
    "other order": ("youtube_id,time_start,time_end,split,label", lambda row: (*row[1:], "train", row[0])),
    "with licence": ("label,youtube_id,time_start,time_end,split,is_cc", lambda row: (*row, "train", 0)),
    "seconds with a point": (None, lambda row: (row[0], row[1], f"{row[2]}.0", f"{row[3]}.0", "train")),
    "no header": ("", lambda row: (*row, "train")),
    "no header, no split": ("", lambda row: row),
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("place", ["annotations/train.csv", "train.csv", "kinetics600/annotations/train.csv"])
def test_every_table_is_read(table: str, place: str, tmp_path: Path) -> None:
    """Columns go by their names, and where there are none by which of them hold seconds."""
    header, shape = TABLES[table]
    for row in ROWS:
        write(tmp_path / LAYOUTS["crawler"](row), b".")
    kinetics_table(tmp_path / place, [shape(row) for row in ROWS], header=header)
    assert labelled(chosen(tmp_path)) == {row[1]: row[0] for row in ROWS}


def test_names_of_tables_and_splits(tmp_path: Path) -> None:
    """val is also called validate, and OpenMMLab's tables kinetics_val.csv; one table may hold all the splits."""
    for split, row in zip(("train", "validate", "test"), ROWS, strict=False):
        write(tmp_path / split / f"{stem(row)}.mp4", b".")
    kinetics_table(tmp_path / "annotations" / "kinetics_validate.csv", [(*ROWS[1], "validate")])
    assert list(labelled(chosen(tmp_path, split="val"))) == [ROWS[1][1]]
    one = kinetics_table(
        tmp_path / "all.csv", [(*row, s) for s, row in zip(("train", "val", "test"), ROWS, strict=False)]
    )
    for split, row in zip(("train", "val", "test"), ROWS, strict=False):
        assert list(labelled(chosen(tmp_path, split=split, annotations=one))) == [row[1]]  # type: ignore[arg-type]


def test_test_videos_may_have_no_labels(tmp_path: Path) -> None:
    """The table of the test set was published without them: then clips have none either."""
    for row in ROWS:
        write(tmp_path / "test" / f"{stem(row)}.mp4", b".")
    for header in ("youtube_id,time_start,time_end,split", ""):
        kinetics_table(tmp_path / "annotations" / "test.csv", [(*row[1:], "test") for row in ROWS], header=header)
        one = chosen(tmp_path, split="test")
        assert [entry.label for entry in one.listing.entries] == [None] * 6 and one.listing.classes == ()


def test_missing_videos_are_counted_and_listed(tmp_path: Path) -> None:
    """Every copy lacks some: the run goes on, the warning counts them, and the index lists all of them in a file."""
    for row in ROWS[::2]:
        write(tmp_path / LAYOUTS["crawler"](row), b".")
    write(tmp_path / "train" / "riding a bike" / "ccccccccccc_000001_000011.mp4", b".")
    kinetics_table(tmp_path / "annotations" / "train.csv", [(*row, "train") for row in ROWS])
    one = chosen(tmp_path)
    assert labelled(one) == {row[1]: row[0] for row in ROWS[::2]}, "labels do not depend on what is missing"
    assert one.missing == tuple(f"{row[0]}/{stem(row)}" for row in ROWS[1::2])
    assert one.unlisted == ("train/riding a bike/ccccccccccc_000001_000011.mp4",)
    assert one.remarks[0].startswith("3 of the 6 videos of Kinetics-600, split train, are not in")
    file = tmp_path / "out" / "index.jsonl"
    build_index(Selection(tmp_path, "kinetics600"), file)
    listed = file.with_name("index.jsonl.missing.txt").read_text(encoding="utf-8").splitlines()
    assert tuple(listed) == one.missing


def test_labels_of_the_annotations_count(tmp_path: Path) -> None:
    """A video in the folder of another class keeps the class of the table, and is named."""
    write(tmp_path / "train" / "tossing salad, quickly" / f"{stem(ROWS[0])}.mp4", b".")
    kinetics_table(tmp_path / "annotations" / "train.csv", [(*row, "train") for row in ROWS])
    one = chosen(tmp_path)
    assert labelled(one) == {ROWS[0][1]: "riding a bike"}
    assert any(remark.startswith("1 videos are not in the folder of the class") for remark in one.remarks)


def test_only_the_folder_of_the_split_is_looked_into(tmp_path: Path) -> None:
    """Whoever wants 30,000 videos for validation does not wait for the 390,000 of the training set."""
    write(tmp_path / "train" / "x" / f"{stem(ROWS[0])}.mp4", b".")
    write(tmp_path / "val" / "x" / f"{stem(ROWS[1])}.mp4", b".")
    kinetics_table(tmp_path / "annotations" / "val.csv", [(*ROWS[1], "val")])
    one, found = look(Selection(tmp_path, "kinetics600", "val"))
    assert set(found.folders) == {"val", "val/x"} and one.unlisted == ()


def test_wrong_data_are_told_in_one_line(tmp_path: Path) -> None:
    """No annotations, other columns, another split, other videos: what, where, what to do."""
    write(tmp_path / "train" / "x" / "holiday.mp4", b".")
    other = kinetics_table(tmp_path / "other.csv", [("x.mp4", 3)], header="path,label")
    short = kinetics_table(tmp_path / "short.csv", [(*ROWS[0], "train"), ("a", "b")])
    text = kinetics_table(tmp_path / "text.csv", [(*ROWS[0][:2], "soon", "later", "train")])
    val = kinetics_table(tmp_path / "val.csv", [(*ROWS[0], "validate")])
    good = kinetics_table(tmp_path / "good.csv", [(*row, "train") for row in ROWS])
    cases = [
        (None, r"needs its annotations, train\.csv, which are not in .*annotations: put them there, or say"),
        (other, r"should have the columns label,youtube_id,time_start,time_end,split; got path,label"),
        (short, r"short\.csv, line 3: 'a,b' lacks one of label, id, start, end, split"),
        (text, r"text\.csv, line 2: .*soon,later,train' lacks"),
        (val, r"val\.csv has no video of split train: it is of validate"),
        (good, r"none of the 6 videos that .*good\.csv names is among the 1 in .*: they should be named like"),
    ]
    for table, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            chosen(tmp_path, annotations=table)
        assert "\n" not in str(caught.value)


def test_a_run_with_a_fifth_of_bad_files_finishes_and_lists_exactly_those(tmp_path: Path) -> None:
    """Ten real .mp4 files of which two are no videos: all clips come, with labels, and the list names the two."""
    rows = [("riding a bike" if i % 2 else "x", f"{i:011d}", i, i + 10, "train") for i in range(10)]
    paths = [tmp_path / "train" / f"{stem(row[:4])}.mp4" for row in rows]
    for index, path in enumerate(paths):
        write(path, video_bytes(24, "mp4", tint=20 * index))
    paths[3].write_bytes(b"")
    paths[6].write_bytes(random.Random(0).randbytes(3000))
    kinetics_table(tmp_path / "annotations" / "train.csv", rows)
    settings = FolderConfig(
        path=str(tmp_path), dataset="kinetics600", num_frames=4, size=16, max_bad_fraction=0.2,
        bad_files=str(tmp_path / "bad.jsonl"),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clips = FolderSource(settings).clips(range(60))
    listed = [json.loads(line)["path"] for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert sorted(listed) == [str(paths[3]), str(paths[6])]
    shown = (clips.video[:, :, 1].float().mean(dim=(1, 2, 3)) / 20).round().long()
    assert set(shown.tolist()) == set(range(10)) - {3, 6}
    assert clips.label is not None and (clips.label == (shown + 1) % 2).all()
