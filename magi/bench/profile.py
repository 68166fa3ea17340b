"""Where the time of a frame or of a training step goes, as text: by part of the model, and by operation.

The parts are timed without the profiler, which makes every operation slower than it is; the operations are from one
more run under `torch.profiler`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from magi.bench.measure import Spread, machine, now
from magi.report.console import table

OPERATIONS = 25  # lines of the table


def operations_table(run: Callable[[], object], *, device: torch.device) -> str:
    """The operations of one run by their own CPU time, the longest first."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as seen:
        run()
        now(device)
    told: str = seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=OPERATIONS)
    return "\n".join(line.rstrip() for line in told.strip().splitlines())


def parts_table(seconds: Mapping[str, Sequence[float]]) -> str:
    """Milliseconds by part: median, range and share of the total, which is one of them."""
    spreads = {part: Spread(tuple(values)).times(1e3).summary() for part, values in seconds.items()}
    whole = spreads["total"]["median"]
    rows = [("", "median, ms", "min - max", "share")]
    for part, summary in spreads.items():
        spread = f"{summary['min']:,.4g} - {summary['max']:,.4g}"
        rows.append((part, f"{summary['median']:,.4g}", spread, f"{summary['median'] / whole:.1%}"))
    return table(rows)


def write_profile(
    path: Path,
    *,
    title: str,
    seconds: Mapping[str, Sequence[float]],
    run: Callable[[], Any],
    device: torch.device,
) -> None:
    """Write a profile.

    Args:
        path: of the text file.
        title: what is profiled.
        seconds: by part, of several runs.
        run: what the profiler watches; has run before.
        device: where it runs.
    """
    described = "  ".join(f"{name} {value}" for name, value in machine(device).items())
    text = [title, described, "", "By part, without the profiler:", parts_table(seconds), ""]
    text += ["By operation, one run under the profiler:", operations_table(run, device=device), ""]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text), encoding="utf-8")
