"""How fast a model is on this machine: `magi bench`. One table for people, one JSON for machines.

Nothing here knows how to measure; it decides what is measured, how often, and how it is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from magi.bench.measure import machine
from magi.bench.sampling import (
    count_head_operations,
    measure_cache,
    measure_determinism,
    measure_frames,
    measure_growth,
)
from magi.bench.training import count_training_flops, measure_training
from magi.model.config import PRESETS
from magi.model.magi import Magi
from magi.report.console import table
from magi.sampling.release import Release, load
from magi.threads import configure_threads

Row = tuple[str, str, str, str]  # quantity, value, spread, what it is to be compared with


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    train_batch: int = 16
    train_steps: int = 7
    batches: tuple[int, ...] = (1, 8)
    frames: int = 6
    lengths: tuple[int, ...] = (8, 16, 32)
    growth_repeats: int = 3
    deterministic_batch: int = 4
    head_steps: int = 100
    """Steps of the calls whose operations are counted."""


QUICK = Effort(
    train_batch=2,
    train_steps=2,
    batches=(1,),
    frames=2,
    lengths=(2, 4),
    growth_repeats=1,
    deterministic_batch=2,
    head_steps=20,
)


def run_bench(
    model: Magi | Release | str | Path,
    *,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    quick: bool = False,
    json_path: Path | None = None,
) -> dict[str, Any]:
    """Measure a model, print a table of the results, and return all of them.

    Speed does not depend on what was learned, so an untrained preset will do.

    Args:
        model: a model, a release, the name of a preset, or the folder of a release. It is moved to the device and put
            into evaluation mode; its weights stay as they are.
        device: where to measure.
        threads: CPU threads; None leaves them as they are.
        quick: measure so little that the numbers only prove that everything runs.
        json_path: where to save the results.

    Returns:
        ``machine`` (processor, versions, threads, date), ``model`` (name, parameters, configuration), ``effort`` (how
        much was measured), and ``training``, ``training_flops``, ``frame``, ``growth`` (by batch size), ``operations``,
        ``cache`` and ``deterministic``, as the functions that measure them describe. A measured quantity is a summary:
        ``median``, ``min``, ``max`` and the number of ``repeats``.
    """
    if threads is not None:
        configure_threads(threads)
    device = torch.device(device)
    name, model = _resolve(model)
    model = model.to(device).eval()
    effort = QUICK if quick else Effort()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    report: dict[str, Any] = {
        "machine": machine(device),
        "model": {"name": name, "parameters": parameters, **asdict(model.config)},
        "effort": {"quick": quick, **asdict(effort)},
        "operations": count_head_operations(model.head, steps=effort.head_steps, rows=1),
        "cache": measure_cache(model, batch=2, frames=max(effort.lengths)),
        "training_flops": count_training_flops(model.config),
        "frame": measure_frames(model, batches=effort.batches, frames=effort.frames),
        "deterministic": measure_determinism(model, batch=effort.deterministic_batch, frames=effort.frames),
        "growth": [
            measure_growth(model, batch=batch, lengths=effort.lengths, repeats=effort.growth_repeats)
            for batch in effort.batches
        ],
        "training": measure_training(model, batch=effort.train_batch, repeats=effort.train_steps, device=device),
    }
    print(show(report))
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _resolve(model: Magi | Release | str | Path) -> tuple[str, Magi]:
    """A name for the report and the model itself."""
    if isinstance(model, Magi):
        return "custom", model
    if isinstance(model, Release):
        return "release", model.model
    if isinstance(model, str) and model in PRESETS:
        torch.manual_seed(0)
        return model, Magi(PRESETS[model])
    return Path(model).name, load(model).model


def show(report: dict[str, Any]) -> str:
    """The report for people: what was measured on what, and a table."""
    described = "  ".join(f"{name} {value}" for name, value in report["machine"].items())
    model = report["model"]
    head = f"{model['head']['kind']} head {model['head']['depth']} x {model['head']['width']}"
    size = f"{model['parameters'] / 1e6:.2f} M parameters, {model['depth']} blocks of width {model['width']}, {head}"
    quick = ["quick: these numbers only prove that everything runs"] if report["effort"]["quick"] else []
    return "\n".join([f"{model['name']}: {size}", described, *quick, table(list(_rows(report)), words=(0, 2, 3))])


def _rows(report: dict[str, Any]) -> Iterator[Row]:
    yield ("", "median", "min - max", "")
    yield from _training_rows(report)
    yield from _frame_rows(report)
    for growth in report["growth"]:
        yield from _growth_rows(growth)
    for solver, count in report["operations"].items():
        with_setup = f"{count['all']:.1f} with set-up"
        yield (f"operations per denoising step, {solver}", f"{count['loop']}", with_setup, "goal <= 30")
    cache = report["cache"]
    yield ("KV cache per frame, bytes", f"{cache['bytes_per_frame']:,}", "", f"formula {cache['formula']:,}")


def _training_rows(report: dict[str, Any]) -> Iterator[Row]:
    training, flops = report["training"], report["training_flops"]
    for precision in ("fp32", "bf16"):
        for quantity in ("clips_per_second", "tokens_per_second", "gflops"):
            value, spread = _told(training[precision][quantity])
            yield (f"training {precision}, {quantity.replace('_', ' ')}", value, spread, f"batch {training['batch']}")
    compared = f"{flops['ratio']:.3f} of the plain layout"
    yield ("training operations, GFLOP per clip", f"{flops['pruned'] / 1e9:,.2f}", "", compared)


def _frame_rows(report: dict[str, Any]) -> Iterator[Row]:
    for row in report["frame"]:
        value, spread = _told(row["total"])
        shares = ", ".join(f"{part} {row[part]['median']:.3g}" for part in ("transformer", "head", "rest"))
        steps = f"{row['mask_steps']} x {row['head_steps']} {row['solver']}"
        yield (f"ms per frame, {steps}, batch {row['batch']}", value, spread, shares)
    exact = report["deterministic"]
    value, spread = _told(exact["deterministic"])
    compared = f"{exact['ratio']:.2f} x batched {exact['batched']['median']:.3g}"
    yield (f"ms per frame, deterministic, batch {exact['batch']}", value, spread, compared)


def _growth_rows(growth: dict[str, Any]) -> Iterator[Row]:
    lengths, batch = ", ".join(map(str, growth["lengths"])), f"batch {growth['batch']}"
    goals = {"total": "goal <= 1.05", "transformer": "goal <= 1.10"}
    for part, told in (("total", "with head"), ("transformer", "transformer alone")):
        for way in ("cached", "uncached"):
            timed = growth[way][part]
            seconds = ", ".join(f"{summary['median']:.3g}" for summary in timed["seconds"])
            yield (f"seconds for {lengths} frames, {way}, {told}", seconds, "", batch)
            value, spread = _told(timed["exponent"])
            yield (f"  exponent, {way}, {told}", value, spread, f"{batch}, {goals[part]}" if way == "cached" else batch)
        speedup = ", ".join(f"{summary['median']:.3g}" for summary in growth["speedup"][part])
        yield (f"  times faster with the cache, {told}", speedup, "", batch)


def _told(summary: dict[str, float]) -> tuple[str, str]:
    """Median and range of a summary."""
    return f"{summary['median']:,.4g}", f"{summary['min']:,.4g} - {summary['max']:,.4g}"
