"""Attempts in a process of their own, so that one that crashes or hangs is only told. Knows processes, not attempts."""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from magi.selftest import toy

Attempt = Callable[[int], str]
"""From the number of an attempt to what came of it, in words."""


def attempts(
    numbers: range, attempt: Attempt, *, seconds: float, batch: int = 250, memory_bytes: int | None = None
) -> Iterator[tuple[int, str]]:
    """Make attempts in forked processes, some hundred in each, and yield what came of each.

    An attempt that ends its process, or takes longer, is told so, and the next one has a new process.

    Args:
        numbers: of the attempts, one after another.
        attempt: runs in the other process.
        seconds: that one may take.
        batch: attempts for which a process is used.
        memory_bytes: of address space beyond what a new process has; only Linux enforces it.
    """
    first = numbers.start
    while first < numbers.stop:
        heard, told = os.pipe()
        last = min(first + batch, numbers.stop)
        child = toy.fork(partial(_run, told, range(first, last), attempt, memory_bytes))
        os.close(told)
        lines, is_late = b"", False
        deadline = time.monotonic() + seconds
        while first < last:
            if not select.select([heard], [], [], max(0.0, deadline - time.monotonic()))[0]:
                is_late = True
                break
            part = os.read(heard, 1 << 16)
            if not part:
                break
            *whole, lines = (lines + part).split(b"\n")
            for line in whole:
                yield first, str(json.loads(line))
                first, deadline = first + 1, time.monotonic() + seconds
        if is_late:
            os.kill(child, signal.SIGKILL)
        os.close(heard)
        code = toy.ended(child)
        if first < last:
            yield first, f"took longer than {seconds:g} s" if is_late else f"ended its process, code {code}"
            first += 1


def _run(told: int, numbers: range, attempt: Attempt, memory_bytes: int | None) -> int:
    faulthandler.disable()  # the parent tells in one line what happened
    if memory_bytes is not None:
        bound_memory(memory_bytes)
    for number in numbers:
        line = json.dumps(attempt(number)).encode() + b"\n"
        while line:
            line = line[os.write(told, line) :]
    return 0


def bound_memory(more: int) -> None:
    """Let this process take only so many bytes of address space more than it has; elsewhere than on Linux it may."""
    statistics = Path("/proc/self/statm")
    if statistics.is_file():
        import resource  # not on Windows

        used = int(statistics.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.getrlimit(resource.RLIMIT_AS)[1]))
