"""Batches in order: global batch g is samples [g * B, (g + 1) * B), of which each rank takes its slice, in parts.

Knows positions, ranks and worker processes; not where clips come from. Position is the only state: to resume, start
from the number of samples seen, with any number of ranks and workers.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeAlias

import torch
from torch.utils.data import DataLoader, Dataset

from magi.data.clips import Clips, ClipSource, LatentClips, LatentClipSource

Source: TypeAlias = ClipSource | LatentClipSource

PATIENCE = 600.0  # seconds for a batch: a worker that takes longer hangs, as on a network disk that is gone


def batches(
    source: Source,
    *,
    batch_size: int,
    start: int,
    rank: int = 0,
    world_size: int = 1,
    parts: int | None = None,
    workers: int = 0,
    timeout: float | None = None,
) -> Generator[Any, None, None]:
    """Yield this rank's parts of the global batches from sample `start` on, without end; closing it ends the workers.

    A batch is what the source makes, `Clips` or `LatentClips`.

    Args:
        source: where clips come from.
        batch_size: clips in a global batch, over all ranks.
        start: the number of samples already seen, by all ranks together.
        rank, world_size: which of how many equal, contiguous slices of each batch to take.
        parts: into how many equal parts a global batch is cut, of which each rank's slice holds as many; by default one
            per rank. They come one after the other.
        workers: processes that prepare batches ahead; 0 prepares them here. The batches are the same.
        timeout: seconds to wait for a batch of a worker, `PATIENCE` by default; without workers nothing is timed.

    Raises:
        ValueError: `batch_size` does not divide evenly among the ranks or into the parts, or `start` is not at the
            start of a batch. While iterating, what the source raises, also from a worker.
        ChildProcessError: while iterating: a worker died, or was waited for in vain; with the samples that are missing.
    """
    if not 0 <= rank < world_size or workers < 0:
        raise ValueError(f"need 0 <= rank < world_size and workers >= 0, got {rank}, {world_size} and {workers}")
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(f"batch_size must be a multiple of the number of ranks, got {batch_size} for {world_size}")
    if start < 0 or start % batch_size:
        raise ValueError(f"start must be a multiple of batch_size, got {start} for {batch_size}: it counts samples")
    parts = world_size if parts is None else parts
    if parts < 1 or parts % world_size or batch_size % parts:
        raise ValueError(
            f"parts must be a multiple of the {world_size} ranks and divide the batch of {batch_size}, got {parts}"
        )
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout must be above 0 seconds, got {timeout}")
    share, own = batch_size // parts, range(rank * parts // world_size, (rank + 1) * parts // world_size)
    firsts = (batch + part * share for batch in count(start, batch_size) for part in own)
    positions = (range(first, first + share) for first in firsts)
    if workers:
        return _prepared_ahead(source, positions, workers, PATIENCE if timeout is None else timeout)
    return (source.clips(samples) for samples in positions)


def _prepared_ahead(
    source: Source, positions: Iterator[Sequence[int]], workers: int, timeout: float
) -> Generator[Any, None, None]:
    asked: deque[Sequence[int]] = deque()  # of the workers, and not here yet; batches come in the order of asking

    def noted() -> Iterator[Sequence[int]]:
        for samples in positions:
            asked.append(samples)
            yield samples

    loader: DataLoader[Any] = DataLoader(
        _Batches(source),
        sampler=noted(),  # each of its items is a whole batch, which one worker makes
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_prepare_worker,
        generator=torch.Generator(),  # without one, the loader draws from the global generator
        timeout=timeout,
    )
    with _deferred_signals():
        prepared = iter(loader)  # forks the workers
    while True:
        try:
            batch = next(prepared)
        except RuntimeError as error:  # of the loader alone: what a source raises comes as it is
            hangs, died = (sign in str(error) for sign in ("DataLoader timed out", "DataLoader worker (pid"))
            if not hangs and not died:
                raise
            raise ChildProcessError(
                f"{f'no clips came for {timeout:g} s' if hangs else 'a process that loads clips died'}; waiting for "
                f"samples {asked[0][0]} to {asked[0][-1]} ({str(error).splitlines()[0]}). Checkpoints are whole: run "
                "the same command again, with --train.workers 0 to see where it stops"
            ) from error
        asked.popleft()
        if isinstance(batch, ValueError):
            raise batch
        yield batch


@contextmanager
def _deferred_signals() -> Iterator[None]:
    """Hold back SIGTERM in processes that are started meanwhile, so that none is ever without protection."""
    if sys.platform != "linux":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Batches(Dataset[Any]):
    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, samples: Sequence[int]) -> Clips | LatentClips | ValueError:
        try:
            return self.source.clips(samples)
        except ValueError as error:  # for the main process to raise: from here, its one line would come in a traceback
            return error


def _unchanged(batch: Any) -> Any:
    return batch


def _prepare_worker(worker: int) -> None:
    """Let the main process decide when to stop: a signal that reaches the whole process group must not lose a batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, set()), "workers start with it held back"
        threading.Thread(target=_obey_the_main_process, daemon=True).start()
    torch.set_num_threads(1)


def _obey_the_main_process() -> None:
    """Exit on a SIGTERM of the main process, which ends its workers so when it crashes, and then waits for them."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
