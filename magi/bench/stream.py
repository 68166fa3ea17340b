"""How many frames a second a small model makes on one core, one video at a time: `magi bench stream`.

The model is the smallest that is of use, .81 M parameters and 16 tokens a frame, untrained, with the paper's diffusion
head; its head is evaluated by torch and in C.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from magi.bench.measure import METHOD, Spread, alternate, machine
from magi.bench.outcome import described, publish
from magi.bench.rows import Row, measured
from magi.bench.sampling import Rollout, race
from magi.model.config import MagiConfig
from magi.model.head import DiffusionHead, HeadConfig
from magi.model.head_kernel import available
from magi.model.magi import Magi
from magi.sampling.config import SampleConfig
from magi.sampling.presets import Preset, with_preset
from magi.threads import configure_threads

CPU = torch.device("cpu")
SMALLEST = MagiConfig(
    latent_height=8, latent_width=8, num_frames=8, depth=2, width=96, mlp_width=384, heads=3, dropout=0.0,
    head=HeadConfig(width=128),
)  # fmt: skip
INEXACT: tuple[Preset, ...] = ("fast", "fastest")


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    frames: int = 24
    head_widths: tuple[int, ...] = (128, 256)
    head_rows: tuple[int, ...] = (1, 4, 16, 32)
    head_repeats: int = 15
    denoising_steps: int = 100


QUICK = Effort(frames=2, head_widths=(16,), head_rows=(1, 2), head_repeats=1, denoising_steps=3)


def run_stream_bench(*, quick: bool = False, json_path: Path | None = None) -> dict[str, Any]:
    """Measure, print a table, and return all results.

    Args:
        quick: measure so little that the numbers only prove that everything runs.
        json_path: where to save the results.

    Returns:
        ``machine``, ``method``, ``model``, ``effort``; ``frames_per_second``, a summary by way to sample; and
        ``denoising_step``, microseconds of one of the head by width, rows and code.
    """
    effort = QUICK if quick else Effort()
    configure_threads(1)
    torch.manual_seed(0)
    model = Magi(SMALLEST).eval()
    count = sum(parameter.numel() for parameter in model.parameters())
    report: dict[str, Any] = {
        "machine": machine(CPU),
        "method": METHOD,
        "model": {"parameters": count, **asdict(SMALLEST)},
        "effort": {"quick": quick, **asdict(effort)},
        "frames_per_second": measure_stream(model, frames=effort.frames),
        "denoising_step": [
            measure_head(width, rows=rows, effort=effort) for width in effort.head_widths for rows in effort.head_rows
        ],
    }
    title = f"{count / 1e6:.2f} M parameters, {SMALLEST.tokens} tokens a frame, one video"
    publish(report, f"{title}\n{described(report, rows_of(report), None)}", json_path=json_path)
    return report


def codes() -> dict[str, bool]:
    """By name whether a head is compiled: in torch, and in C if this machine has a compiler."""
    return {"torch": False, **({"C": True} if available(torch.float32, CPU) else {})}


def measure_stream(model: Magi, *, frames: int) -> dict[str, dict[str, float]]:
    """Frames per second, all ways in turn frame by frame; a frame's time includes committing the one before it."""
    ways = {f"{mask} x 100": SampleConfig(mask_steps=mask) for mask in (16, 8)}
    ways |= {name: with_preset(SampleConfig(), name, model.config.head) for name in INEXACT}
    rollouts = {
        f"{name}, {code}": Rollout(model, replace(settings, compiled_head=compiled))
        for name, settings in ways.items()
        for code, compiled in codes().items()
    }
    race(rollouts, frames=1)
    times = race(rollouts, frames=frames)
    return {name: Spread(tuple(1 / frame.total for frame in each[1:])).summary() for name, each in times.items()}


def measure_head(width: int, *, rows: int, effort: Effort) -> dict[str, Any]:
    """Microseconds of a denoising step of ddpm, set-up and the solver's part included, for each code in turn.

    Returns:
        ``width``, ``rows``, and a summary by code.
    """
    head = DiffusionHead(SMALLEST.token_channels, SMALLEST.width, HeadConfig(width=width)).eval()
    z, steps = torch.randn(rows, SMALLEST.width), effort.denoising_steps
    noise = torch.randn(steps + 1, rows, SMALLEST.token_channels)
    runs = {
        code: lambda compiled=compiled: head.sample(z, noise, num_steps=steps, compiled=compiled)
        for code, compiled in codes().items()
    }
    with torch.inference_mode():
        seconds = alternate(runs, repeats=effort.head_repeats, device=CPU)
    return {"width": width, "rows": rows, **{code: each.times(1e6 / steps).summary() for code, each in seconds.items()}}


def rows_of(report: Mapping[str, Any]) -> list[Row]:
    """The lines of the table."""
    streams = [measured(f"frames per second, {name}", summary) for name, summary in report["frames_per_second"].items()]
    steps = [
        measured(f"us per denoising step, width {row['width']}, rows {row['rows']}, {code}", row[code])
        for row in report["denoising_step"]
        for code in ("torch", "C")
        if code in row
    ]
    return [*streams, *steps]
