"""UCF-101 in the form its authors distribute: what a split holds, its labels, and what is said of incomplete copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from magi.data.datasets import ucf101
from magi.data.datasets.catalogue import Selection, look
from magi.data.datasets.listing import Chosen, Listing, Tree
from magi.data.datasets.scan import Found
from magi.data.folder import FolderConfig, FolderSource
from tests.trees import UCF_CLASSES, ucf_lists, ucf_name, ucf_tree, video_bytes, write


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of four groups of two clips; the files are not videos."""
    return ucf_tree(tmp_path_factory.mktemp("ucf"))


def chosen(path: Path, **options: Any) -> Chosen:
    return look(Selection(path, "ucf101", **options))[0]


def names(listing: Listing) -> list[str]:
    return [entry.name for entry in listing.entries]


def test_splits_are_those_of_the_lists(tree: Path) -> None:
    """Group s is what split s tests on: training and test set are disjoint and together everything, in one order."""
    everything = names(chosen(tree).listing)
    assert len(everything) == 32 and everything == sorted(everything, key=lambda name: name.split("/"))
    for number in ("01", "02", "03"):
        train, test = (names(chosen(tree, split=f"{kind}{number}").listing) for kind in ("train", "test"))
        assert all(f"_g{number}_" in name for name in test) and not any(f"_g{number}_" in name for name in train)
        assert sorted(train + test, key=lambda name: name.split("/")) == everything


def test_labels_are_class_numbers_from_0(tree: Path) -> None:
    """Of train, test and all alike, although the test lists have none; the class is the folder."""
    for split in ucf101.SPLITS:
        listing = chosen(tree, split=split).listing
        assert listing.classes == UCF_CLASSES
        assert {entry.label for entry in listing.entries} == {0, 1, 2, 3}
        assert all(UCF_CLASSES[entry.label or 0] == entry.name.split("/")[0] for entry in listing.entries)


def test_without_lists_the_folders_give_the_same_labels(tmp_path: Path, tree: Path) -> None:
    """Hammering comes before HammerThrow in classInd.txt, as it does not when capitals sort first."""
    (tmp_path / "UCF-101").symlink_to(tree / "UCF-101")
    bare = chosen(tmp_path)
    assert bare.listing.classes == UCF_CLASSES
    assert [e.label for e in bare.listing.entries] == [e.label for e in chosen(tree).listing.entries]
    assert bare.remarks == (f"{tmp_path}/UCF-101 holds 32 of the 13320 videos of UCF-101",)


def test_the_path_may_be_the_folder_or_the_one_above(tree: Path, tmp_path: Path) -> None:
    """Either way the lists are found, and names and fingerprint are the same; the lists may lie elsewhere too."""
    lists = ucf_lists(tmp_path / "lists")
    above, inside = chosen(tree, split="test02"), chosen(tree / "UCF-101", split="test02")
    elsewhere = chosen(tree / "UCF-101", split="test02", annotations=lists)
    assert above.listing.fingerprint() == inside.listing.fingerprint() == elsewhere.listing.fingerprint()
    assert above.listing.fingerprint() != chosen(tree, split="test03").listing.fingerprint()


def test_a_complete_copy_is_not_remarked_upon() -> None:
    """13,320 videos in 101 classes: nothing is missing, nothing is too much, nothing is said."""
    classes = [f"Class{number:03}" for number in range(101)]
    rows = [(ucf_name(classes[i % 101], i // 101 // 7 + 1, i // 101 % 7 + 1), 1000 + i) for i in range(13_320)]
    found = Found(tuple(sorted(rows)), {})
    complete = ucf101.choose(Tree(Path("nowhere")), found, split="all")
    assert complete.remarks == complete.missing == complete.unlisted == ()
    assert len(complete.listing.entries) == 13_320 and len(complete.listing.classes) == 101


def test_what_is_missing_or_too_much_is_named(tmp_path: Path) -> None:
    """Counted, with examples, in both directions; the run goes on with what is there."""
    root = ucf_tree(tmp_path)
    gone = [ucf_name("Archery", 2, 1), ucf_name("Hammering", 3, 2)]
    for name in gone:
        (root / "UCF-101" / name).unlink()
    extra = ["Archery/holiday.avi", ucf_name("Archery", 25, 1), "Unknown/v_Unknown_g01_c01.avi"]
    for name in extra:
        write(root / "UCF-101" / name, b".")
    train = chosen(root, split="train01")
    assert train.missing == tuple(gone) and set(train.unlisted) == set(extra)
    assert len(train.listing.entries) == 22 and not set(extra) & set(names(train.listing))
    assert train.remarks[0].startswith("2 of the 24 videos of UCF-101, split train01, are not in")
    assert gone[0] in train.remarks[0] and "3 videos in" in train.remarks[1] and extra[0] in train.remarks[1]
    whole = chosen(root)
    assert whole.remarks[0].startswith("2 of the 32 videos of UCF-101, split all, are not in")
    assert len(whole.listing.entries) == 30 and not set(extra) & set(names(whole.listing))


def test_the_spelling_of_a_class_does_not_count(tmp_path: Path) -> None:
    """The disk has HandstandPushups/v_HandStandPushups_...; lists that spell the file like the folder mean it too."""
    root = ucf_tree(tmp_path)
    lists = root / "ucfTrainTestlist"
    for name in ("trainlist01.txt", "testlist01.txt"):
        write(lists / name, (lists / name).read_bytes().replace(b"HandStand", b"Handstand"))
    one = chosen(root, split="train01")
    assert one.missing == one.unlisted == () and len(one.listing.entries) == 24
    assert ucf_name("HandstandPushups", 2, 1) in names(one.listing), "as the disk spells it"


def test_a_test_video_is_not_too_much_for_training(tree: Path) -> None:
    """What the other list of the split has is rightly on the disk."""
    assert chosen(tree, split="train01").unlisted == chosen(tree, split="test01").unlisted == ()


def test_converted_videos_are_found(tmp_path: Path) -> None:
    """A copy in .mp4 is the same data set; of two files of one video one is used, and the other named."""
    root = ucf_tree(tmp_path)
    for path in sorted((root / "UCF-101").rglob("*.avi"))[1:]:
        path.rename(path.with_suffix(".mp4"))
    write(root / "UCF-101" / ucf_name("Archery", 1, 1).replace(".avi", ".mp4"), b".")
    test = chosen(root, split="test01")
    assert len(test.listing.entries) == 8 and test.missing == ()
    assert names(test.listing)[0].endswith("c01.avi") and names(test.listing)[1].endswith("c02.mp4")
    assert test.unlisted == (ucf_name("Archery", 1, 1).replace(".avi", ".mp4"),)


def test_wrong_trees_are_told_in_one_line(tmp_path: Path, tree: Path) -> None:
    """Nothing there, other videos, lists that are not there or contradict each other: what, where, what to do."""
    (tmp_path / "empty").mkdir()
    write(tmp_path / "other" / "a" / "b.mp4", b".")
    write(tmp_path / "flat" / "v_Archery_g01_c01.avi", b".")
    write(tmp_path / "foreign" / "Dance" / "v_Dance_g01_c01.avi", b".")
    bad = ucf_lists(tmp_path / "bad")
    write(bad / "trainlist01.txt", b"Archery/v_Archery_g02_c01.avi 2\r\n")
    write(bad / "trainlist02.txt", b"Archery v_Archery_g02_c01\r\n")
    write(tmp_path / "strange" / "classInd.txt", b"0 Archery\n")
    cases = [
        (tmp_path / "empty", {}, "holds no video files"),
        (tmp_path / "other", {}, r"no video named like Archery/v_Archery_g01_c01\.avi"),
        (tmp_path / "flat", {}, r"no video named like Archery/v_Archery_g01_c01\.avi"),
        (
            tmp_path / "foreign",
            {"split": "test01", "annotations": tree / "ucfTrainTestlist"},
            "none of the 8 videos of",
        ),
        (tmp_path / "foreign", {"split": "train01"}, "needs classInd.txt, which is not in .*foreign or beside it"),
        (tree, {"split": "train01", "annotations": tmp_path / "empty"}, "needs classInd.txt, which is not in .*empty"),
        (
            tree,
            {"split": "train01", "annotations": bad},
            "g02_c01.avi 2' disagrees with classInd.txt, which gives it 1",
        ),
        (tree, {"split": "train02", "annotations": bad}, "trainlist02.txt: 'Archery v_Archery_g02_c01' is not like"),
        (tree, {"annotations": tmp_path / "strange"}, "classInd.txt does not number the classes"),
        (tree, {"annotations": tmp_path / "nowhere"}, "annotations: .*nowhere does not exist"),
        (tmp_path / "nowhere", {}, "nowhere does not exist"),
    ]
    for path, options, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            chosen(path, **options)
        assert "\n" not in str(caught.value)


def test_clips_carry_labels(tmp_path: Path) -> None:
    """Through the source: real .avi files of the split alone, each clip with the class of its folder."""
    for index, name in enumerate(UCF_CLASSES):
        for group in (1, 2):
            write(tmp_path / "UCF-101" / ucf_name(name, group, 1), video_bytes(30, tint=60 * index))
    ucf_lists(tmp_path / "ucfTrainTestlist", clips=1)
    settings = FolderConfig(path=str(tmp_path), dataset="ucf101", split="test02", num_frames=4, size=16)
    source = FolderSource(settings)
    clips = source.clips(range(8))
    assert clips.label is not None and clips.label.dtype == torch.int64
    assert sorted(clips.label.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    green = clips.video[:, :, 1].float().mean(dim=(1, 2, 3)) / 60
    assert torch.equal(green.round().long(), clips.label)
    assert source.fingerprint == source.listing.fingerprint()
    with pytest.warns(UserWarning, match=r"8 of the 12 videos of UCF-101, split train01, are not in"):
        FolderSource(FolderConfig(path=str(tmp_path), dataset="ucf101", split="train01", num_frames=4, size=16))
