"""How long videos are, and with that, how often each frame interval is trained. Knows videos only by opening them.

``n`` frames of a video, ``T`` of a clip, ``k`` the interval between them, ``K`` intervals, ``N`` videos.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from magi.data.order import ClipShape, TooFew, candidates, draws_of
from magi.video import BadVideo, IsolatedReader, ticks

CHUNK = 32  # videos that a process counts before it reports
Count = tuple[int | None, str | None]  # frames, or why there are none


def count_frames(path: Path, *, max_frames: int | None = None) -> int:
    """Return how many frames a video has for intervals to be laid into: nominal periods, where its rate varies.

    Raises:
        BadVideo: it cannot be read, or it breaks or holds up the process that reads it.
    """
    return len(ticks(_reader().open(path, max_frames=max_frames).times))


@cache
def _reader() -> IsolatedReader:
    """One for all videos that this process counts; a process that is forked starts its own."""
    return IsolatedReader()


def count_all(
    paths: Sequence[Path], *, workers: int = 1, max_frames: int | None = None
) -> Iterator[tuple[int, list[Count]]]:
    """Count the frames of many videos; yields in any order (number of the first, counts) of a few that follow it.

    Args:
        paths: of the videos.
        workers: processes; 1 counts in this one.
        max_frames: of a video that are looked at.
    """
    starts = iter(range(0, len(paths), CHUNK))
    if workers == 1:
        for start in starts:
            yield start, _count_some(paths[start : start + CHUNK], max_frames)
        return
    # A process that is forked starts at once; what it needs of this one, which has threads, is only code.
    kind = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(kind))
    running: dict[Future[list[Count]], int] = {}
    try:
        while True:
            for start in islice(starts, 2 * workers - len(running)):
                running[pool.submit(_count_some, paths[start : start + CHUNK], max_frames)] = start
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _count_some(paths: Sequence[Path], max_frames: int | None) -> list[Count]:
    return [_count(path, max_frames) for path in paths]


def _count(path: Path, max_frames: int | None) -> Count:
    try:
        return count_frames(path, max_frames=max_frames), None
    except BadVideo as error:
        return None, error.reason if error.path == str(path) else str(error)


def expected_shares(lengths: NDArray[np.int64], shape: ClipShape) -> NDArray[np.float64]:
    """Return the share of clips (K,) that have each interval min..max, exactly, over all orders of the videos.

    A video that gives no clip hands its turn to the next of a random order, so all that do have equal turns. Under
    "clamp" each divides its own among the intervals that fit; under "reject" the draw comes before the video, so that
    intervals are equally frequent if each fits somewhere (a run stops at the first that does not).

    Args:
        lengths: frames of each video (N,).
        shape: of the clips.

    Raises:
        ValueError: no video is long enough for any clip.
    """
    usable = lengths[lengths >= shape.shortest]
    if not usable.size:
        raise ValueError(f"none of the {len(lengths)} videos has the {shape.shortest} frames of a clip")
    intervals = np.arange(shape.min_interval, shape.max_interval + 1)
    if shape.rule != "clamp":
        return np.full(len(intervals), 1 / len(intervals))
    largest, counts = np.unique([shape.largest(length) for length in usable.tolist()], return_counts=True)
    fits = intervals[None] <= largest[:, None]
    shares: NDArray[np.float64] = (counts[:, None] * fits / fits.sum(axis=1, keepdims=True)).sum(axis=0) / len(usable)
    return shares


def videos_that_fit(lengths: NDArray[np.int64], shape: ClipShape) -> NDArray[np.int64]:
    """Return how many of the videos, of `lengths` (N,), are long enough for each interval (K,)."""
    intervals = np.arange(shape.min_interval, shape.max_interval + 1)
    return (lengths[None] > (shape.num_frames - 1) * intervals[:, None]).sum(axis=1)


def drawn_intervals(lengths: NDArray[np.int64], shape: ClipShape, *, seed: int, samples: int) -> NDArray[np.int64]:
    """Return how often each interval (K,) comes in the first `samples` clips of a run; of a clip that cannot be, none.

    Args:
        lengths: frames of each video (N,), 0 for those that cannot be read.
        shape: of the clips.
        seed: of the run's data.
        samples: how many clips.
    """
    counts = np.zeros(shape.max_interval - shape.min_interval + 1, dtype=np.int64)
    longest = int(lengths.max())
    for sample in range(samples):
        draws = draws_of(seed, sample)
        if shape.rule == "clamp":
            used = (int(lengths[video]) for video in candidates(seed, sample, len(lengths)))
            length = next((length for length in used if length >= shape.shortest), longest)
        else:
            length = longest  # whichever video it comes from: the interval was drawn before
        try:
            _, interval = shape.place(length, draws)
        except TooFew:
            continue
        counts[interval - shape.min_interval] += 1
    return counts
