"""The levels that come with ViZDoom: their names, which are for training and which for the test, where one can stand.

Knows the WAD format as far as the things of a level; starts no engine. The art and the levels are Freedoom's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal

Split = Literal["train", "test"]

FREEDOOM_1 = tuple(f"E{episode}M{level}" for episode in range(1, 5) for level in range(1, 10))
FREEDOOM_2 = tuple(f"MAP{level:02d}" for level in range(1, 33))
MAPS = FREEDOOM_1 + FREEDOOM_2
"""All levels; no name is in both games."""

TEST_MAPS = MAPS[5::6]
"""Every sixth level: held out of training, spread over both games."""
TRAIN_MAPS = tuple(name for name in MAPS if name not in TEST_MAPS)

SEEDS_PER_SPLIT = 500_000
"""Under one user's seed: this many episodes for training, and as many for the test."""

# Things of the format (doomwiki.org, "Thing types"): where players begin, together or against each other, and what lies
# about to be picked up, which can be stood on. Keys and weapons are left out: they stand on pedestals and behind bars.
STARTS = frozenset({1, 2, 3, 4, 11})
PICKUPS = frozenset({2007, 2008, 2010, 2011, 2012, 2014, 2015, 2046, 2047, 2048, 2049, 17})


@dataclass(frozen=True)
class Spot:
    """A place to stand, in the level's units, of which a player is 32 wide and 56 high."""

    x: int
    y: int


def vizdoom() -> ModuleType:
    """Return the module ``vizdoom``."""
    try:
        return import_module("vizdoom")
    except ImportError as error:
        raise ImportError("gameplay is rendered by ViZDoom: pip install 'magi-video[sim]'") from error


def check_map(name: str) -> None:
    """Refuse what is no level.

    Raises:
        ValueError: with the name and those that exist.
    """
    if name not in MAPS:
        raise ValueError(f"unknown map {name!r}; there are E1M1 to E4M9 and MAP01 to MAP32")


def split_of(name: str) -> Split:
    """Which set a level belongs to."""
    check_map(name)
    return "test" if name in TEST_MAPS else "train"


def episode_seed(seed: int, split: Split, number: int) -> int:
    """The seed of episode `number` of a split: no seed is in both, whatever the user's.

    Raises:
        ValueError: more episodes than a split has seeds.
    """
    if not 0 <= number < SEEDS_PER_SPLIT:
        raise ValueError(f"a seed gives episodes 0 to {SEEDS_PER_SPLIT - 1:,} of a split, got {number:,}; take another")
    return (2 * seed + (split == "test")) * SEEDS_PER_SPLIT + number


def wad_of(name: str) -> Path:
    """The file that holds a level."""
    check_map(name)
    return Path(str(vizdoom().__file__)).parent / ("freedoom1.wad" if name in FREEDOOM_1 else "freedoom2.wad")


@lru_cache(maxsize=len(MAPS))
def spots(name: str) -> tuple[Spot, ...]:
    """Places of a level where a player can stand, in the order of the file."""
    lumps = _lumps(wad_of(name))
    marker = next(place for place, (_, _, lump) in enumerate(lumps) if lump == name)
    start, size, lump = lumps[marker + 1]
    assert lump == "THINGS", f"{name} begins with {lump}"
    with wad_of(name).open("rb") as file:
        file.seek(start)
        things = struct.iter_unpack("<5h", file.read(size))
    return tuple(Spot(x, y) for x, y, _, kind, _ in things if kind in STARTS or kind in PICKUPS)


@lru_cache(maxsize=2)
def _lumps(wad: Path) -> list[tuple[int, int, str]]:
    """The directory of a WAD: start, size and name of each of its parts."""
    with wad.open("rb") as file:
        count, start = struct.unpack("<4xii", file.read(12))
        file.seek(start)
        entries = struct.iter_unpack("<ii8s", file.read(16 * count))
    return [(start, size, name.rstrip(b"\0").decode("latin-1")) for start, size, name in entries]
