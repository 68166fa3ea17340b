"""Checkpoints with a bit flipped, cut, emptied, swapped: are they noticed, and is the one before used?"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from numpy.random import Generator

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.seeds import generator
from magi.selftest import toy
from magi.selftest.outcome import Outcome


def flip(path: Path, numbers: Generator, _twin: Path) -> None:
    """One bit."""
    content = bytearray(path.read_bytes())
    content[numbers.integers(len(content))] ^= 1 << int(numbers.integers(8))
    path.write_bytes(content)


def cut(path: Path, numbers: Generator, _twin: Path) -> None:
    """The end is missing."""
    path.write_bytes(path.read_bytes()[: numbers.integers(path.stat().st_size)])


def empty(path: Path, _numbers: Generator, _twin: Path) -> None:
    """There is the name and nothing else, as after a power loss without a flush."""
    path.write_bytes(b"")


def missing(path: Path, _numbers: Generator, _twin: Path) -> None:
    """The file is gone."""
    path.unlink()


def swapped(path: Path, _numbers: Generator, twin: Path) -> None:
    """The file of another checkpoint, whole and of the same size."""
    shutil.copyfile(twin, path)


def zeroed(path: Path, numbers: Generator, _twin: Path) -> None:
    """A block of zeros, as of a sector that was never written."""
    content = bytearray(path.read_bytes())
    start = int(numbers.integers(len(content)))
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    path.write_bytes(content)


DAMAGE = (flip, flip, flip, cut, empty, missing, swapped, zeroed)  # a flipped bit is what no format notices


def damage_checkpoints(
    folder: Path, *, trials: int, seed: int, say: Callable[[str], None], settings: Sequence[str] = ()
) -> Outcome:
    """Damage so often the newest of two checkpoints of a real run, each time in one file.

    Args:
        folder: for the run.
        trials: damaged checkpoints.
        seed: of what, where and how.
        say: hears of the progress.
        settings: more of them, for the run.
    """
    outcome = Outcome(
        "checkpoints with a flipped bit, cut, emptied, swapped: noticed, and the one before is used", seed
    )
    numbers, start = generator(seed, "damage"), time.perf_counter()
    toy.uninterrupted(folder / "run", "--train.parts", "1", *settings)
    *_, before, newest = toy.steps_of(folder / "run")
    whole = folder / "whole"
    shutil.copytree(newest, whole)
    files = [path.relative_to(newest) for path in sorted(newest.rglob("*")) if path.is_file()]
    while outcome.trials < trials:
        name, damage = files[numbers.integers(len(files))], DAMAGE[numbers.integers(len(DAMAGE))]
        damage(newest / name, numbers, before / name)
        if (newest / name).is_file() and (newest / name).read_bytes() == (whole / name).read_bytes():
            continue  # zeros over zeros, or two files alike: nothing was damaged
        outcome.trials += 1
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            try:
                used = checkpoint.newest_valid(folder / "run")
            except CheckpointError as error:
                used = None
                outcome.failures.append(f"{damage.__name__} of {name}: {error}")
        if used != before:
            outcome.failures.append(f"{damage.__name__} of {name}: {used and used.name} would have been used")
        elif name.name != checkpoint.MANIFEST and not any(name.name in str(warning.message) for warning in heard):
            outcome.failures.append(f"{damage.__name__} of {name}: the file was not named")
        shutil.copyfile(whole / name, newest / name)
        if outcome.trials % 200 == 0:
            say(f"{outcome.trials} damaged checkpoints, {len(outcome.failures)} failures")
    outcome.details = {"kinds of damage": len(set(DAMAGE)), "files": len(files)}
    outcome.seconds = time.perf_counter() - start
    return outcome
