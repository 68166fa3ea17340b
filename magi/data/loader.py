"""Batches in order: global batch g is samples [g * B, (g + 1) * B), of which each rank takes its slice.

Knows positions, ranks and worker processes; not where clips come from. Position is the only state: to resume, start
from the number of samples seen, with any number of ranks and workers.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from magi.data.clips import Clips, ClipSource


def batches(
    source: ClipSource, *, batch_size: int, start: int, rank: int = 0, world_size: int = 1, workers: int = 0
) -> Iterator[Clips]:
    """Yield this rank's part of the global batches from sample `start` on, without end.

    Args:
        source: where clips come from.
        batch_size: clips in a global batch, over all ranks.
        start: the number of samples already seen, by all ranks together.
        rank, world_size: which of how many equal, contiguous slices of each batch to take.
        workers: processes that prepare batches ahead; 0 prepares them here. The batches are the same.

    Raises:
        ValueError: `batch_size` does not divide evenly among the ranks, or `start` is not at the start of a batch.
            While iterating, what the source raises, also from a worker.
    """
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(f"batch_size must be a multiple of the number of ranks, got {batch_size} for {world_size}")
    if start < 0 or start % batch_size:
        raise ValueError(f"start must be a multiple of batch_size, got {start} for {batch_size}: it counts samples")
    if not 0 <= rank < world_size or workers < 0:
        raise ValueError(f"need 0 <= rank < world_size and workers >= 0, got {rank}, {world_size} and {workers}")
    share = batch_size // world_size
    positions = (range(first, first + share) for first in count(start + rank * share, batch_size))
    return map(source.clips, positions) if workers == 0 else _prepared_ahead(source, positions, workers)


def _prepared_ahead(source: ClipSource, positions: Iterator[Sequence[int]], workers: int) -> Iterator[Clips]:
    loader: DataLoader[Any] = DataLoader(
        _Batches(source),
        sampler=positions,  # each of its items is a whole batch, which one worker makes
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_prepare_worker,
        generator=torch.Generator(),  # without one, the loader draws from the global generator
    )
    for batch in loader:
        if isinstance(batch, ValueError):
            raise batch
        yield batch


class _Batches(Dataset[Any]):
    def __init__(self, source: ClipSource) -> None:
        self.source = source

    def __getitem__(self, samples: Sequence[int]) -> Clips | ValueError:
        try:
            return self.source.clips(samples)
        except ValueError as error:  # for the main process to raise: from here, its one line would come in a traceback
            return error


def _unchanged(batch: Any) -> Any:
    return batch


def _prepare_worker(worker: int) -> None:
    """Let only the main process decide when to stop: a signal sent to the whole group must not lose a batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
