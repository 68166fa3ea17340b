"""The recipe of `magi reproduce`: register the plan, train in order, ask each question, write each answer down.

Whatever is finished is never done again: a reproduction that was stopped goes on by the same command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from magi.bench.training import count_training_flops
from magi.distributed import Device, Distributed, pick_device
from magi.reproduce.plan import register
from magi.reproduce.runs import ablations, equal_flops, headline
from magi.reproduce.scale import SCALES, Scale, ScaleName
from magi.reproduce.workshop import Workshop


def reproduce(
    name: ScaleName,
    *,
    folder: Path | None = None,
    results: Path | None = None,
    only: Sequence[str] | None = None,
    device: Device = "auto",
    minutes: float | None = None,
) -> Path:
    """Run what is not yet there; returns the folder of results.

    Args:
        name: the scale.
        folder: where models and clips are kept.
        results: where results go.
        only: some of the parts; all by default.
        device: where to compute.
        minutes: stop after so long at the next point from which the same command goes on.

    Raises:
        ValueError: the folder of results is another plan's.
    """
    scale = SCALES[name]
    folder, results = folder or Path("runs") / f"reproduce-{name}", results or Path("results/reproduce") / name
    workshop = Workshop(scale, folder, results, Distributed(device=pick_device(device)))
    ratio = flops_ratio(scale)
    print(f"plan {register(workshop, name, ratio)[:12]}, results in {results}", flush=True)
    for recipe in (*headline(scale), *ablations(scale), *equal_flops(scale, ratio)):
        workshop.trained(recipe)
    return results


def flops_ratio(scale: Scale) -> float:
    """FLOPs of a training step of CTF over those of MTF, head included, by torch's counter."""
    ctf, mtf = (count_training_flops(replace(scale.model, forcing=forcing))["pruned"] for forcing in ("ctf", "mtf"))
    return ctf / mtf
