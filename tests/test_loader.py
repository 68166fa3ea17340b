"""Batches: the same clips in the same order however the work is divided, and no loss when it is interrupted."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import pytest
import torch

from magi.data.clips import Clips
from magi.data.loader import batches


class Numbers:
    """A source whose clips are filled with their own position; beyond `end` it fails."""

    def __init__(self, end: int = 10**9) -> None:
        self.end = end

    def clips(self, samples: Sequence[int]) -> Clips:
        if max(samples) >= self.end:
            raise ValueError(f"sample {max(samples)} is beyond {self.end}")
        positions = torch.tensor(list(samples))
        video = positions[:, None, None, None, None].expand(-1, 2, 3, 4, 4).to(torch.uint8)
        return Clips(video.contiguous(), positions % 25 + 1, positions)


class Broken:
    """A source with a mistake in it."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def clips(self, samples: Sequence[int]) -> Clips:
        raise self.error


class Stuck:
    """A source whose samples from 4 on come too late."""

    def clips(self, samples: Sequence[int]) -> Clips:
        if samples[0] >= 4:
            time.sleep(2)
        return Numbers().clips(samples)


class Process:
    """A source that tells about the process it runs in."""

    def clips(self, samples: Sequence[int]) -> Clips:
        facts = torch.tensor([os.getpid(), torch.get_num_threads()])
        return Clips(torch.zeros(1, 1, 3, 1, 1, dtype=torch.uint8), facts, torch.tensor(list(samples)))


def taken(num_batches: int, source: Any = None, **changes: Any) -> list[Clips]:
    options = {"batch_size": 6, "start": 0} | changes
    return list(islice(batches(source or Numbers(), **options), num_batches))


def joined(clips: list[Clips]) -> Clips:
    return Clips(*(torch.cat([getattr(one, name) for one in clips]) for name in ("video", "interval", "sample")))


def assert_same(one: Clips, two: Clips) -> None:
    assert torch.equal(one.video, two.video)
    assert torch.equal(one.interval, two.interval)
    assert torch.equal(one.sample, two.sample)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_and_workers_only_divide_the_work(world_size: int, workers: int) -> None:
    """The ranks' slices of a global batch, put together in order, are samples g * 6 ... g * 6 + 5; nothing twice."""
    ranks = [taken(4, rank=rank, world_size=world_size, workers=workers) for rank in range(world_size)]
    for step in range(4):
        whole = joined([rank[step] for rank in ranks])
        assert whole.sample.tolist() == list(range(6 * step, 6 * step + 6))
        assert_same(whole, Numbers().clips(range(6 * step, 6 * step + 6)))


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_continues_the_order(workers: int) -> None:
    """Started at sample 18, the batches are those of an uninterrupted run from its fourth on, in any batch size."""
    whole = taken(6)
    for resumed, expected in zip(taken(3, start=18, workers=workers), whole[3:], strict=True):
        assert_same(resumed, expected)
    assert_same(joined(taken(2, start=18, batch_size=9, workers=workers)), joined(whole[3:]))


def test_the_global_generator_is_left_alone() -> None:
    """A DataLoader would draw a seed from it: then workers=2 would change every later random number of the caller."""
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    taken(2, workers=2)
    assert torch.equal(torch.rand(3), expected)


def test_a_signal_to_the_workers_loses_no_batch() -> None:
    """Ctrl-C and a scheduler's SIGTERM reach the whole process group: the workers go on, with one thread each."""
    stream = batches(Process(), batch_size=1, start=0, workers=2)
    facts = [clips.interval.tolist() for clips in islice(stream, 6)]
    pids = {pid for pid, _ in facts}
    assert len(pids) == 2 and os.getpid() not in pids
    assert {threads for _, threads in facts} == {1}
    for name in ("-TERM", "-INT") * 2:
        subprocess.run(["kill", name, *map(str, pids)], check=True)  # from another process, as they would come
    assert [int(clips.sample[0]) for clips in islice(stream, 12)] == list(range(6, 18))


@pytest.mark.parametrize("where", ["main", "worker"])
def test_a_crash_does_not_hang(where: str) -> None:
    """Python ends the workers of a crashed process by SIGTERM and waits for them, so that one they must obey."""
    crashing = multiprocessing.get_context("fork").Process(target=crash, args=(where,))
    crashing.start()
    crashing.join(timeout=30)
    hangs = crashing.is_alive()
    crashing.kill()
    assert not hangs and crashing.exitcode == 1


def crash(where: str) -> None:
    """Fail while an iterator over batches is alive, by a mistake here or in the source, and exit as Python does."""
    sys.stderr = io.StringIO()
    try:
        stream = batches(Numbers(), batch_size=6, start=0, workers=2)
        next(stream)
        if where == "worker":
            next(batches(Broken(TypeError("a mistake")), batch_size=6, start=0, workers=1))
        raise RuntimeError("a mistake")
    except (RuntimeError, TypeError) as error:
        sys.last_value = error  # as the interpreter keeps it, and with it the frames that hold the iterator
        raise


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_source_arrives_as_it_is(workers: int) -> None:
    """After the good batches comes the source's own line, without a worker's traceback in its text."""
    stream = batches(Numbers(end=12), batch_size=6, start=0, workers=workers)
    assert [clips.sample.tolist() for clips in islice(stream, 2)] == [list(range(6)), list(range(6, 12))]
    with pytest.raises(ValueError) as caught:
        next(stream)
    assert str(caught.value) == "sample 17 is beyond 12"


def test_a_mistake_in_a_source_is_not_taken_for_a_death() -> None:
    """Torch raises a death as a RuntimeError, and what was raised in a worker as what it was: a mistake of this kind
    keeps its traceback."""
    with pytest.raises(RuntimeError, match=r"(?s)Caught RuntimeError.*a mistake"):
        next(batches(Broken(RuntimeError("a mistake")), batch_size=1, start=0, workers=1))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_hangs_is_given_up(workers: int) -> None:
    """After the time that was given, with the samples that did not come, however far ahead the others are."""
    stream = batches(Stuck(), batch_size=2, start=0, workers=workers, timeout=0.4)
    assert [clips.sample.tolist() for clips in islice(stream, 2)] == [[0, 1], [2, 3]]
    with pytest.raises(ChildProcessError, match=r"no clips came for 0\.4 s; waiting for samples 4 to 5 \(") as caught:
        next(stream)
    assert "run the same command again" in str(caught.value) and "\n" not in str(caught.value)


def test_a_worker_that_dies_is_told_with_its_samples() -> None:
    """What a machine without memory does to it is no mistake in this code."""
    before = set(multiprocessing.active_children())
    stream = batches(Stuck(), batch_size=2, start=0, workers=1)
    assert [clips.sample.tolist() for clips in islice(stream, 2)] == [[0, 1], [2, 3]]
    (worker,) = set(multiprocessing.active_children()) - before
    assert worker.pid is not None
    killing = threading.Timer(0.3, os.kill, (worker.pid, signal.SIGKILL))
    killing.start()
    with pytest.raises(ChildProcessError, match="a process that loads clips died; waiting for samples 4 to 5"):
        next(stream)
    killing.join()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timeout": 0.0}, "timeout must be above 0 seconds, got 0.0"),
        ({"start": 4}, "start must be a multiple of batch_size, got 4 for 6"),
        ({"start": -6}, "got -6 for 6"),
        ({"world_size": 4}, "multiple of the number of ranks, got 6 for 4"),
        ({"batch_size": 0}, "got 0 for 1"),
        ({"rank": 2, "world_size": 2}, "got 2, 2 and 0"),
        ({"workers": -1}, "got 0, 1 and -1"),
    ],
)
def test_impossible_requests_are_refused_at_once(changes: dict[str, Any], message: str) -> None:
    """At the call, not at the first batch, and with both values."""
    with pytest.raises(ValueError, match=message):
        batches(Numbers(), **({"batch_size": 6, "start": 0} | changes))
