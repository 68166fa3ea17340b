"""Bugs planted in the real code, each in a process of its own: does the test that should see it say so?

A test that cannot fail shows nothing. Each bug is one that programs like this have had.
"""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magi import checkpoint
from magi.experiments import video
from magi.sampling import past
from magi.sampling.noise import SampleNoise
from magi.seeds import generator
from magi.selftest.children import attempts
from magi.selftest.crashes import crash_saves
from magi.selftest.damage import damage_checkpoints
from magi.selftest.elastic import change_processes
from magi.selftest.endless import WINDOW, roll_endlessly
from magi.selftest.files import damage_files
from magi.selftest.outcome import Outcome
from magi.selftest.seeds import repeat_seeds
from magi.selftest.videos import damage_videos
from magi.tokenizers import store
from magi.training import loop
from magi.training.state import TrainingState
from magi.video import Frames, SoughtVideo, untrusted

SECONDS = 120.0  # that the test of one bug may take

ALONE = ("--train.workers", "0", "--train.parts", "1")
SHARED = ("--train.workers", "0", "--train.parts", "2")
SHORT = ("--train.workers", "0", "--train.total-samples", "32")
resume = partial(change_processes, trials=10, ways=((1, 1),), settings=ALONE)
two_processes = partial(change_processes, trials=10, ways=((2,),), settings=SHARED)
crash = partial(crash_saves, trials=0, ways=["one process"])
damage = partial(damage_checkpoints, trials=12, settings=SHORT)
malicious = partial(damage_files, trials=0)
endless = partial(roll_endlessly, trials=2 * WINDOW)


@dataclass(frozen=True)
class Bug:
    """What is wrong, how to make it so in a process that then ends, and the test that must fail."""

    name: str
    plant: Callable[[], None]
    test: Callable[..., Outcome]


def plant_bugs(folder: Path, *, trials: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """Plant every bug and require its test to fail.

    Args:
        folder: for the tests.
        trials: so many bugs there are at least.
        seed: of the tests.
        say: hears of the progress.
    """
    outcome = Outcome("planted bugs: each is seen by the test that should see it", seed)
    start = time.perf_counter()

    def planted(number: int) -> str:
        bug, place = BUGS[number], folder / str(number)
        place.mkdir()
        bug.plant()
        found = bug.test(place, seed=seed, say=lambda _message: None)
        shutil.rmtree(place)
        return f"seen: {found.failures[0]}" if found.failures else "was not seen"

    for number, verdict in attempts(range(len(BUGS)), planted, seconds=SECONDS, batch=1):
        outcome.trials += 1
        if not verdict.startswith("seen: "):
            outcome.failures.append(f"{BUGS[number].name}: {verdict}")
        say(f"{BUGS[number].name}: {verdict[:160]}")
    if outcome.trials < trials:
        outcome.failures.append(f"there are {outcome.trials} bugs, expected {trials} or more")
    outcome.seconds = time.perf_counter() - start
    return outcome


# --- saving ---


def _in_place() -> None:
    """The checkpoint grows under its own name."""
    write, commit = checkpoint.write_part, checkpoint.commit

    def final(temporary: Path) -> Path:
        return temporary.with_name(temporary.name.removeprefix(checkpoint.TEMPORARY).rpartition("-")[0])

    def writes(temporary: Path, *arguments: Any, **options: Any) -> None:
        write(final(temporary), *arguments, **options)

    def commits(temporary: Path, *arguments: Any, **options: Any) -> None:
        commit(final(temporary), *arguments, **options)

    _set(checkpoint, write_part=writes, commit=commits, refuse_existing=lambda _directory: None)


def _nothing_flushed() -> None:
    """What was written is taken to be on the disk."""
    _set(checkpoint, _flush=lambda _path: None)


def _no_folder_flushed() -> None:
    """Files are on the disk, and perhaps not their names."""
    flush = checkpoint._flush
    _set(checkpoint, _flush=lambda path: None if path.is_dir() else flush(path))


def _old_one_first() -> None:
    """Room is made for a checkpoint before it is there."""
    commit = checkpoint.commit

    def commits(temporary: Path, directory: Path, **options: Any) -> None:
        for old in checkpoint.steps(directory.parent):
            shutil.rmtree(old)
        commit(temporary, directory, **options)

    _set(checkpoint, commit=commits)


def _sizes_only() -> None:
    """A checkpoint is whole if its files are as large as they should be."""
    verify = checkpoint.verify
    _set(checkpoint, verify=lambda directory: verify(directory, sizes_only=True))


def _newest_trusted() -> None:
    """Whatever has the highest number is used."""
    _set(checkpoint, newest_valid=lambda run_dir: next(iter(checkpoint.steps(run_dir)), None))


# --- training ---


def _after_load(change: Callable[[TrainingState], object]) -> Callable[[], None]:
    """Spoil what a resumed run has loaded."""

    def plant() -> None:
        load = TrainingState.load

        def loads(self: TrainingState, *arguments: Any) -> None:
            load(self, *arguments)
            change(self)

        _set(TrainingState, load=loads)

    return plant


def _restarted_average(state: TrainingState) -> None:
    state.ema.model.load_state_dict(state.model.state_dict())


def _data_from_zero() -> None:
    """A resumed run meets its first clips again."""
    train = video.train
    _set(video, train=lambda model, batches, *rest, **more: train(model, lambda _start: batches(0), *rest, **more))


def _seeded_once() -> None:
    """Dropout goes on with the numbers that the process has left, instead of those of the step."""
    seed = torch.manual_seed
    seeded: list[Any] = []

    def once(number: int) -> None:
        if not seeded:
            seeded.append(seed(number))

    _set(torch, manual_seed=once)


def _seeded_by_process() -> None:
    """Each process draws from its own numbers."""
    _set(loop, generator=lambda seed, *key: generator(seed + int(os.environ.get("RANK", 0)), *key))


# --- files of others ---


def _pickles_read() -> None:
    """Weights in torch's own format are taken as well."""
    right = checkpoint.safe_open

    def opens(path: Path, **options: Any) -> Any:
        if path.read_bytes()[:2] == b"PK":
            torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
        return right(path, **options)

    _set(checkpoint, safe_open=opens)
    _set(store, safe_open=opens)


def _full_unpickler() -> None:
    """The reader of pickled files lets them run."""
    load = torch.load
    _set(torch, load=lambda file, **options: load(file, **{**options, "weights_only": False}))


def _description_believed() -> None:
    """A network is built as large as its description says."""
    _set(store, no_more_than=lambda _directory, _stem: nullcontext())


def _any_error() -> None:
    """What safetensors raises gets out."""
    _set(checkpoint, SafetensorError=KeyError)


def _playlists_opened() -> None:
    """FFmpeg may take a text for a list of videos."""
    _set(untrusted, FORMATS=f"{untrusted.FORMATS},concat")


def _next_frame() -> None:
    """Seeking is off by one."""
    right = SoughtVideo._frames

    def frames(self: SoughtVideo, places: Sequence[int]) -> Iterator[tuple[int, Frames]]:
        if len(self.packets.keys) == 1:
            yield from right(self, places)
            return
        after = {place: min(place + 1, len(self.times) - 1) for place in places}
        found = dict(right(self, sorted(set(after.values()))))
        yield from ((place, found[after[place]]) for place in places)

    _set(SoughtVideo, _frames=frames)


# --- sampling ---


def _noise_by_place() -> None:
    """The numbers of a video depend on where it is in the batch."""
    right = SampleNoise.__init__

    def init(self: SampleNoise, seeds: Any, **options: Any) -> None:
        right(self, [seed + place for place, seed in enumerate(seeds)], **options)

    _set(SampleNoise, __init__=init)


def _noise_by_process() -> None:
    """The numbers of a video depend on the process that makes it."""
    right = SampleNoise.__init__

    def init(self: SampleNoise, seeds: Any, **options: Any) -> None:
        right(self, [seed + os.getpid() for seed in seeds], **options)

    _set(SampleNoise, __init__=init)


def _window_not_read_again() -> None:
    """When the window moves the oldest keys are dropped, and the others keep the places that they had."""

    def commit(self: past.Past, tokens: Tensor) -> None:
        right(self, tokens)
        if self._unread is not None and self._unread.tokens.shape[1] > 1:
            kept = self._unread.tokens.shape[1] - 1
            self.cache.store[..., :kept, :] = self.cache.store[..., WINDOW - 1 - kept : WINDOW - 1, :].clone()
            self.cache.advance(kept)
            self._unread = past.Finished(
                self._unread.tokens[:, kept:], self._unread.time[kept:], self._unread.noise_level
            )

    right = past.Past.commit
    _set(past.Past, commit=commit)


def _window_of_everything() -> None:
    """Nothing is forgotten, and there is room for much."""
    new_cache, positions = past.Magi.new_cache, past.temporal_positions

    def long(frames: int, *more: Any) -> Tensor:
        return positions(frames, *more)[1] * torch.arange(100 * frames, dtype=torch.float64)

    _set(past.Magi, new_cache=lambda self, batch, frames: new_cache(self, batch, 100 * frames))
    _set(past, window_start=lambda _frame, _window: 0, temporal_positions=long)


def _new_cache_each_time() -> None:
    """A window that moves takes memory again."""
    right = past.Past.commit

    def commit(self: past.Past, tokens: Tensor) -> None:
        first = self.first
        right(self, tokens)
        if self.first != first:
            self.cache = self.model.new_cache(len(self.noise.seeds), self.cache.max_frames)

    _set(past.Past, commit=commit)


def _set(where: Any, **names: Any) -> None:
    for name, value in names.items():
        assert hasattr(where, name), f"{where} has no {name}: the bug would not be planted"
        setattr(where, name, value)


BUGS = (
    Bug("checkpoints are written in place", _in_place, crash),
    Bug("nothing is flushed", _nothing_flushed, crash),
    Bug("folders are not flushed", _no_folder_flushed, crash),
    Bug("the old checkpoint is deleted first", _old_one_first, crash),
    Bug("checkpoints are verified by size", _sizes_only, damage),
    Bug("the newest checkpoint is trusted", _newest_trusted, damage),
    Bug("the average starts anew on resume", _after_load(_restarted_average), resume),
    Bug("data from the beginning on resume", _data_from_zero, resume),
    Bug("dropout is seeded once", _seeded_once, resume),
    Bug("dropout is seeded by process", _seeded_by_process, two_processes),
    Bug("weights may be pickled", _pickles_read, partial(malicious, malicious=["weights that are a pickle"])),
    Bug("pickles run", _full_unpickler, partial(malicious, malicious=["eval", "os.system"])),
    Bug("descriptions are believed", _description_believed, partial(malicious, malicious=["a billion layers"])),
    Bug("errors are of any type", _any_error, partial(damage_files, trials=40, malicious=[])),
    Bug("playlists are opened", _playlists_opened, partial(damage_videos, trials=0)),
    Bug("the frame after the one that was asked for", _next_frame, partial(damage_videos, trials=28)),
    Bug("noise by the place in a batch", _noise_by_place, partial(repeat_seeds, trials=2)),
    Bug("noise by the process", _noise_by_process, partial(repeat_seeds, trials=6)),
    Bug("a moved window is not read again", _window_not_read_again, endless),
    Bug("a window forgets nothing", _window_of_everything, endless),
    Bug("a moved window takes memory again", _new_cache_each_time, endless),
)
