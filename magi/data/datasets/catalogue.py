"""The data sets by name: what there is, what a split of one is called, and its videos. Opens no video."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from magi.choices import check_choices
from magi.data.datasets import kinetics, ucf101
from magi.data.datasets.journal import Journal
from magi.data.datasets.listing import Chosen, Entry, Listing, Tree
from magi.data.datasets.scan import Found, scan

DatasetName = Literal["folder", "ucf101", "kinetics600"]
Split = Literal["all", "train01", "train02", "train03", "test01", "test02", "test03", "train", "val", "test"]
SPLITS = {"ucf101": ucf101.SPLITS, "kinetics600": kinetics.SPLITS}  # the first is meant where none is named


@dataclass(frozen=True)
class Selection:
    """A data set, or a split of one."""

    path: Path
    dataset: DatasetName = "folder"
    split: Split | None = None
    annotations: Path | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        if self.dataset == "folder":
            for name in ("split", "annotations"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} has no effect with dataset folder; give dataset ucf101 or kinetics600")
        elif self.split is not None and self.split not in SPLITS[self.dataset]:
            raise ValueError(f"{self.dataset} has the splits {', '.join(SPLITS[self.dataset])}; got {self.split}")

    @property
    def part(self) -> str:
        """The split, also where none was named; of a plain folder, all of it."""
        return self.split or (SPLITS[self.dataset][0] if self.dataset in SPLITS else "all")


def find_tree(selection: Selection) -> Tree:
    """Return where its videos and annotations are.

    Raises:
        ValueError: they are not there.
    """
    path = selection.path
    if not path.is_dir():
        raise ValueError(f"{path} is a file, not a folder of videos" if path.exists() else f"{path} does not exist")
    if selection.annotations is not None and not selection.annotations.exists():
        raise ValueError(f"annotations: {selection.annotations} does not exist")
    if selection.dataset == "ucf101":
        return ucf101.find_tree(path, split=selection.part, annotations=selection.annotations)
    if selection.dataset == "kinetics600":
        return kinetics.find_tree(path, split=selection.part, annotations=selection.annotations)
    return Tree(path)


def choose(selection: Selection, tree: Tree, found: Found) -> Chosen:
    """Return which of the videos found belong to it.

    Raises:
        ValueError: none of them; annotations that cannot be read.
    """
    if not found.videos:
        raise ValueError(f"{selection.path} holds no video files and no folders of numbered images")
    if selection.dataset == "ucf101":
        return ucf101.choose(tree, found, split=selection.part)
    if selection.dataset == "kinetics600":
        return kinetics.choose(tree, found, split=selection.part)
    return Chosen(Listing(tree.root, tuple(Entry(name, num_bytes=size) for name, size in found.videos)))


def look(selection: Selection, *, journal: Journal | None = None) -> tuple[Chosen, Found]:
    """Look through the tree and return the videos of the selection, and all that was found.

    Raises:
        ValueError: the tree is not there, or not of this data set.
    """
    tree = find_tree(selection)
    found = scan(tree.root, tree.tops, journal=journal)
    return choose(selection, tree, found), found
