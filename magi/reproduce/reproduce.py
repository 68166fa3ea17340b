"""The recipe of `magi reproduce`: register the plan, then do step after step, or several at a time.

Whatever is finished is never done again: a reproduction that was stopped goes on by the same command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from magi.bench.training import count_training_flops
from magi.distributed import Device, Distributed, pick_device
from magi.reproduce.crew import Crew
from magi.reproduce.plan import register
from magi.reproduce.scale import SCALES, Scale, ScaleName
from magi.reproduce.steps import PARTS, answer, steps
from magi.reproduce.workshop import Workshop


def reproduce(
    name: ScaleName,
    *,
    folder: Path | None = None,
    results: Path | None = None,
    only: Sequence[str] | None = None,
    step: str | None = None,
    crew: Crew | None = None,
    workers: int = 0,
    device: Device = "auto",
) -> Path:
    """Do what is not yet done, the trainings first; returns the folder of results.

    Args:
        name: the scale.
        folder: where models and clips are kept.
        results: where results go.
        only: names of studies; all by default. What they need is made.
        step: do this step alone.
        crew: does several steps at a time; by default they are done here, one after the other.
        workers: processes that draw clips for a training; 0 draws them in the training process.
        device: where to compute.

    Raises:
        ValueError: the folder of results is another plan's, or there is no such study or step.
    """
    if unknown := sorted(set(only or ()) - set(PARTS)):
        raise ValueError(f"--only {unknown[0]!r}: there is no such study; there are {', '.join(PARTS)}")
    scale = SCALES[name]
    folder, results = folder or Path("runs") / f"reproduce-{name}", results or Path("results/reproduce") / name
    workshop = Workshop(scale, folder, results, Distributed(device=pick_device(device)), workers)
    ratio = flops_ratio(scale)
    print(f"plan {register(workshop, name, ratio)[:12]}, results in {results}", flush=True)
    every = {each.name: each for each in steps(workshop, name, ratio)}
    if step is not None:
        if step not in every:
            raise ValueError(f"--step {step!r}: there is no such step; there are {', '.join(every)}")
        every[step].run()
    elif only is not None:
        for part in only:
            answer(workshop, name, ratio, part)
    elif crew is not None:
        words = [
            *(sys.executable, "-m", "magi.reproduce", "--scale", name, "--out", str(folder), "--results", str(results)),
            *("--device", device, "--workers", str(workers), "--step"),
        ]
        needs = {each.name: each.needs for each in every.values()}
        left = crew.work(needs, lambda chosen: [*words, chosen], logs=folder / "logs")
        print(f"left: {', '.join(left)}; the same command goes on" if left else "all is done", flush=True)
    else:
        for each in every.values():
            each.run()
    return results


def flops_ratio(scale: Scale) -> float:
    """FLOPs of a training step of CTF over those of MTF, head included, by torch's counter."""
    ctf, mtf = (count_training_flops(replace(scale.model, forcing=forcing))["pruned"] for forcing in ("ctf", "mtf"))
    return ctf / mtf
