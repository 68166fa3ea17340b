"""A machine that stops at any moment of saving: is there a checkpoint to go on from, whatever had reached the disk?

The real saving is watched: before and after everything it does to names or flushes, what a power loss would leave is
put together in another folder and read as a resumed run would. Of what was not flushed each file may be there, half
there or empty, and each folder may list what it did at any moment since its last flush. This is a model of file
systems, and looks between calls, not into them.
"""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args
from unittest import mock

import torch
from torch import nn

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.distributed import Distributed
from magi.seeds import generator
from magi.selftest import toy
from magi.selftest.outcome import Outcome
from magi.training.ema import Ema
from magi.training.saving import Saver
from magi.training.state import TrainingState

Tree = Mapping[str, bytes | None]
"""What is on a disk: relative names to contents; None is a folder."""
Cached = Literal["kept", "torn", "lost"]
Way = Literal["one process", "two processes"]
ENOUGH = 5  # moments at which something is lost, after which no more are looked at
CALLS = ("fsync", "rename", "replace", "unlink", "remove", "mkdir", "rmdir")  # of `os`


class Disk:
    """What of a folder is sure to be on the disk, and what may be."""

    def __init__(self, root: Path) -> None:
        """Begin with all that is there, as if it had been flushed long ago."""
        self.root = root
        self._numbers: dict[int, int] = {}  # of what can be seen, by inode, which is used again for other files
        self._cached: dict[int, bytes] = {}
        self._flushed: dict[int, bytes] = {}
        self._listings: dict[int, list[dict[str, int]]] = {}  # of each folder since its last flush, which is the first
        self.look()
        self._flushed = dict(self._cached)
        self._listings = {number: listings[-1:] for number, listings in self._listings.items()}

    def look(self) -> None:
        """Note what can be seen now."""
        seen: dict[int, int] = {}
        self._look(self.root, seen)
        self._numbers = seen

    def flush(self, file: int) -> None:
        """Note that an open file or folder has reached the disk."""
        self.look()
        number = self._numbers.get(os.fstat(file).st_ino)
        if number in self._listings:
            self._listings[number] = self._listings[number][-1:]
        elif number is not None:
            self._flushed[number] = self._cached[number]

    def after_power_loss(self) -> Iterator[Tree]:
        """What may be found when the machine starts again; first what another process would see now."""
        root = self._numbers[self.root.stat().st_ino]
        for cached in get_args(Cached):
            yield from self._trees(root, "", cached)

    def _look(self, path: Path, seen: dict[int, int]) -> int:
        inode = path.stat().st_ino
        new = len(self._cached) + len(self._listings)
        number = seen[inode] = self._numbers.get(inode, new)
        if path.is_dir():
            listings = self._listings.setdefault(number, [{}])
            now = {each.name: self._look(each, seen) for each in sorted(path.iterdir())}
            if now != listings[-1]:
                listings.append(now)
        else:
            self._cached[number] = path.read_bytes()
        return number

    def _trees(self, number: int, name: str, cached: Cached) -> Iterator[Tree]:
        if number in self._cached:
            flushed, latest = self._flushed.get(number, b""), self._cached[number]
            torn = flushed if flushed == latest else latest[: len(latest) // 2]
            yield {name: {"kept": latest, "torn": torn, "lost": flushed}[cached]}
            return
        for listing in reversed(self._listings[number]):
            parts = [
                list(self._trees(inner, f"{name}/{each}" if name else each, cached)) for each, inner in listing.items()
            ]
            for chosen in product(*parts):
                own: Tree = {name: None} if name else {}
                yield {key: value for part in (own, *chosen) for key, value in part.items()}


@dataclass(frozen=True)
class Moment:
    """Of something that is done to a folder, and what a power loss then would leave there."""

    name: str
    left: list[Tree]


def watch(root: Path, act: Callable[[], Any]) -> list[Moment]:
    """Do something to a folder and look at every moment of it; the last one is after all."""
    disk = Disk(root)
    moments: list[Moment] = []

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            disk.look()
            moments.append(Moment(f"before {name} {len(moments)}", list(disk.after_power_loss())))
            result = call(*arguments, **options)
            if name == "fsync":
                disk.flush(arguments[0])
            return result

        return run

    with ExitStack() as patches:
        for name in CALLS:
            patches.enter_context(mock.patch.object(os, name, watched(name, getattr(os, name))))
        act()
    disk.look()
    return [*moments, Moment("after all", list(disk.after_power_loss()))]


def write_tree(folder: Path, tree: Tree) -> None:
    """Put together what a disk holds."""
    folder.mkdir()
    for name, content in tree.items():  # a folder comes before what is in it
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)


def crash_saves(
    folder: Path, *, trials: int, seed: int, say: Callable[[str], None], ways: Collection[Way] = get_args(Way)
) -> Outcome:
    """Stop the machine at every moment of saving a run's second checkpoint and deleting its first.

    Args:
        folder: for the runs.
        trials: so many states of the disk there are at least, or what was watched is not the whole of it.
        seed: of the numbers that are saved.
        say: hears of the progress.
        ways: to save.
    """
    outcome = Outcome("power loss at any moment of a save: the old checkpoint or the new one loads", seed)
    start, moments = time.perf_counter(), 0
    for name in ways:
        save, out = SAVES[name], folder / name
        out.mkdir()
        save(out, _state(seed, step=1))
        old = toy.final_state(out)
        watched = watch(out, partial(save, out, _state(seed, step=2)))
        new = toy.final_state(out)
        found: dict[frozenset[tuple[str, bytes | None]], str] = {}
        bad = 0
        for moment in watched:
            wanted = {new} if moment is watched[-1] else {old, new}
            wrong = _torn(folder / "disk", moment.left[0])
            for tree in moment.left:
                key = frozenset(tree.items())
                if key not in found:
                    found[key] = _resumed(folder / "disk", tree)
                if found[key] not in wanted:
                    wrong = f"{found[key]} of {', '.join(sorted(tree))}"
                    break
            if wrong:
                outcome.failures.append(f"{name}, {moment.name}: {wrong}")
                bad += 1
            if bad == ENOUGH:
                break
        outcome.trials += len(found)
        moments += len(watched)
        say(f"{name}: {len(watched)} moments, {len(found)} states of the disk, {len(outcome.failures)} failures")
    if outcome.trials < trials:
        outcome.failures.append(f"{outcome.trials} states of the disk were seen, expected {trials} or more")
    outcome.details = {"moments": moments}
    outcome.seconds = time.perf_counter() - start
    return outcome


def _state(seed: int, *, step: int) -> TrainingState:
    """A state with numbers of its own for each step, moments too."""
    numbers = generator(seed, "crashes", step)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.data = torch.from_numpy(numbers.standard_normal(parameter.shape).astype("float32"))
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return TrainingState(model, Ema(model, half_life_samples=4), optimizer, samples=4 * step, step=step)


def _save(out: Path, state: TrainingState) -> None:
    """As a run does that keeps one checkpoint."""
    saver = Saver(out, {}, Distributed(), keep=1)
    saver.begin(state)
    saver.finish()


def _save_parts(out: Path, state: TrainingState) -> None:
    """As two processes do that share the parameters, one after the other."""
    temporary, directory = out / f"{checkpoint.TEMPORARY}shared", checkpoint.step_directory(out, state.step)
    states = state.own_part(0, 1)
    states["tokenizer/model"] = states["model"]
    for part in range(2):
        own = {
            checkpoint.part_stem(stem, part, 2): dict(list(tensors.items())[part::2])
            for stem, tensors in states.items()
        }
        documents = {} if part else {"config.json": {}, "state.json": state.position}
        checkpoint.write_part(temporary, own, documents, part=part)
    checkpoint.commit(temporary, directory, parts=2)
    checkpoint.prune(out, keep=1)


SAVES: dict[Way, Callable[[Path, TrainingState], None]] = {"one process": _save, "two processes": _save_parts}


def _torn(folder: Path, tree: Tree) -> str:
    """What is wrong with checkpoints that another process sees; nothing if all are whole."""
    write_tree(folder, tree)
    try:
        for step in checkpoint.steps(folder):
            checkpoint.verify(step)
    except CheckpointError as error:
        return f"a torn checkpoint can be seen: {error}"
    finally:
        shutil.rmtree(folder)
    return ""


def _resumed(folder: Path, tree: Tree) -> str:
    """The numbers that a run would go on from, or what it would say."""
    write_tree(folder, tree)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a checkpoint that is passed over
            checkpoint.sweep(folder)
            newest = checkpoint.newest_valid(folder)
        return "no checkpoint" if newest is None else toy.state_of(newest)
    except CheckpointError as error:
        return str(error)
    finally:
        shutil.rmtree(folder)
