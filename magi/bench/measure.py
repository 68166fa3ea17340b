"""How the benchmarks measure: clocks, taking turns, counting operations, fitting a power law, describing the machine.

Knows nothing of the model. Times are wall clock unless asked otherwise, with the device's queue emptied before each
reading. Everything is run once before it is timed, and what is compared takes turns, so that a change in the machine's
load falls on all alike.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

METHOD = "each run once untimed to warm up, then in turn; median and range of wall-clock times"


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one quantity."""

    values: tuple[float, ...]

    def per(self, work: float) -> Spread:
        """The rate at which `work` was done, for values that are seconds."""
        return Spread(tuple(work / value for value in self.values))

    def times(self, factor: float) -> Spread:
        """Every value times a factor."""
        return Spread(tuple(factor * value for value in self.values))

    def summary(self) -> dict[str, float]:
        """What goes into the report."""
        return {
            "median": median(self.values), "min": min(self.values), "max": max(self.values), "repeats": len(self.values)
        }  # fmt: skip


def now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done all it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return perf_counter()


def alternate(
    runs: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    device: torch.device,
    clock: Callable[[], float] | None = None,
) -> dict[str, Spread]:
    """Seconds of each run, after one that is not timed, taking turns; on the wall's clock, or on another."""
    read = clock or partial(now, device)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            start = read()
            run()
            seconds[name].append(read() - start)
    return {name: Spread(tuple(values)) for name, values in seconds.items()}


@contextmanager
def stopwatch(parts: Mapping[str, Sequence[tuple[object, str]]], *, device: torch.device) -> Iterator[dict[str, float]]:
    """Add up the seconds spent in some methods for as long as the block lasts.

    Args:
        parts: by name of a part, the (object, method name) pairs whose calls belong to it; no call inside another.
        device: whose queue is emptied around each call, which makes an accelerator slower than it is unobserved.

    Yields:
        Seconds by part, growing with every call.
    """
    spent = dict.fromkeys(parts, 0.0)

    def timed(part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = now(device)
            result = method(*args, **kwargs)
            spent[part] += now(device) - start
            return result

        return call

    methods = [(part, owner, name) for part, pairs in parts.items() for owner, name in pairs]
    for part, owner, name in methods:
        setattr(owner, name, timed(part, getattr(owner, name)))
    try:
        yield spent
    finally:
        for _, owner, name in methods:
            delattr(owner, name)  # the method of the class is visible again


class OperationCounter(TorchDispatchMode):
    """Counts the aten operations that compute or copy; views, which only reinterpret memory, are free."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # A matrix product of more than two axes ends in this view, which its schema does not own up to.
        if not func.is_view and func is not torch.ops.aten._unsafe_view.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


def count_operations(run: Callable[[], object]) -> int:
    """Non-view aten operations that a run issues; noise-free, unlike its time."""
    with OperationCounter() as counter:
        run()
    return counter.count


def count_flops(run: Callable[[], object]) -> int:
    """Operations of the matrix products of a run, by torch's counter: a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def fitted_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The p of seconds ~ size^p: slope of the least-squares line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), deg=1)[0])


def machine(device: torch.device) -> dict[str, str | int | float]:
    """What the numbers were measured on, and when."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 1,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "unset"),
        **({"load_before": round(os.getloadavg()[0], 2)} if hasattr(os, "getloadavg") else {}),  # not on Windows
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    """As Linux tells it; elsewhere the processor's family."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
