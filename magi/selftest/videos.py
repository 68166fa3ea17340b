"""Video files that are damaged, or no videos, given to the reader in its process: does it survive, soon and small?"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from magi.seeds import generator
from magi.selftest.clips import make_clips, pretenders
from magi.selftest.mutation import damaged
from magi.selftest.outcome import Outcome
from magi.selftest.reading import FAILURES, from_the_start, judge, peak_bytes
from magi.video import Frames, IsolatedReader, child, decode_video

SECONDS = 5.0
MEMORY = 2**29  # bytes that the reader is told to keep to
RESIDENT = 2**30  # bytes that its process may hold beside what it shares with this one
NO_VIDEO = frozenset({"BadVideo", "times and then BadVideo"})
LONG = "300,000 pictures"  # a video indeed, of which the first are read


@dataclass(frozen=True)
class Read:
    """A file that was read."""

    name: str
    verdict: str
    seconds: float
    bytes_held: int
    """The most that the process which read it ever held, with what it shares with this one; 0 if that is not known."""
    process: int | None


class Readers:
    """Two readers: of what is tried, and of what is compared with it, which decodes from the start."""

    def __init__(self, *, seconds: float = SECONDS, memory_bytes: int = MEMORY) -> None:
        self._tried = IsolatedReader(seconds=seconds, memory_bytes=memory_bytes)
        self._compared = IsolatedReader(seconds=seconds, memory_bytes=memory_bytes)

    def read(self, name: str, path: Path, random: np.random.Generator) -> Read:
        """Read some frames of a file."""
        begun = time.monotonic()
        try:
            verdict = judge(path, random, self._tried.open, self._from_the_start)
        except Exception as error:  # what it may be is the question
            verdict = f"other error: {error!r}"
        process = self._tried.process
        return Read(name, verdict, time.monotonic() - begun, peak_bytes(process), process)

    def _from_the_start(self, path: Path, moments: NDArray[np.float64]) -> tuple[NDArray[np.bool_], Frames | None]:
        with mock.patch.object(child, "open_video", decode_video):  # a new process is a copy of this one
            return from_the_start(path, moments, self._compared.open)

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        self._tried.close()
        self._compared.close()


def damaged_reads(
    folder: Path, clips: Mapping[str, Path], readers: Readers, *, trials: int, seed: int
) -> Iterator[Read]:
    """Damage the clips in turn and read what comes of it."""
    contents = {name: path.read_bytes() for name, path in clips.items()}
    for trial in range(trials):
        form = list(contents)[trial % len(contents)]
        random = generator(seed, "damaged video", trial)
        path = folder / f"{trial}.{form}"
        path.write_bytes(damaged(contents[form], random))
        yield readers.read(form, path, random)
        path.unlink()


def damage_videos(folder: Path, *, trials: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """Read so many damaged files, and all that only pretend to be videos.

    Args:
        folder: for the files.
        trials: damaged files.
        seed: of what is damaged, and of the frames that are asked for.
        say: hears of the progress.
    """
    outcome = Outcome("damaged and hostile videos: no crash, no hang, under 1 GB, and no wrong frame in silence", seed)
    start = time.perf_counter()
    found: Counter[str] = Counter()
    slowest, held, shared = 0.0, 0, peak_bytes(os.getpid(), now=True)
    with ExitStack() as open_readers:
        readers = open_readers.enter_context(Readers())
        clips = make_clips(folder)
        random = generator(seed, "no video")
        hostile = (readers.read(name, path, random) for name, path in pretenders(folder, clips["h264.mp4"]).items())
        for read in chain(hostile, damaged_reads(folder, clips, readers, trials=trials, seed=seed)):
            found[read.verdict] += 1
            slowest, held = max(slowest, read.seconds), max(held, read.bytes_held)
            if read.verdict.partition(":")[0] in FAILURES:
                outcome.failures.append(f"{outcome.trials}, {read.name}: {read.verdict}")
            elif read.name not in clips and read.name != LONG and read.verdict not in NO_VIDEO:
                outcome.failures.append(f"{read.name}: {read.verdict}, and it is no video")
            if read.seconds > 2 * SECONDS:  # opened and compared
                outcome.failures.append(f"{outcome.trials}, {read.name}: took {read.seconds:.1f} s")
            if read.bytes_held - shared > RESIDENT:
                outcome.failures.append(f"{outcome.trials}, {read.name}: {read.bytes_held:,} bytes were held")
            outcome.trials += 1
            if outcome.trials % 500 == 0:
                outcome.failures += [
                    f"after {outcome.trials} files the whole {name} came to: {again.verdict}"
                    for name, path in clips.items()
                    if (again := readers.read(name, path, random)).verdict != "frames"
                ]
            if outcome.trials % 1000 == 0:
                say(f"{outcome.trials} files, {len(outcome.failures)} failures")
    outcome.details = {"refused": found["BadVideo"], "MB held": held >> 20, "s for the slowest": round(slowest, 1)}
    outcome.seconds = time.perf_counter() - start
    return outcome
