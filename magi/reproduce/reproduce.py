"""The recipe of `magi reproduce`: register the plan, train in order, ask each question, write each answer down.

Whatever is finished is never done again: a reproduction that was stopped goes on by the same command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from magi.bench.training import count_training_flops
from magi.distributed import Device, Distributed, pick_device
from magi.report.studies import Study, write_study
from magi.reproduce.plan import register
from magi.reproduce.runs import ablations, equal_flops, explanations, headline
from magi.reproduce.scale import SCALES, Scale, ScaleName
from magi.reproduce.studies import exposure, footage, forcing, history, interval, length, quality, time, unconditional
from magi.reproduce.workshop import Workshop, machine, today

PARTS = (
    "forcing", "frames", "history", "exposure", "unconditional", "time", "length", "interval", "quality", "footage"
)  # fmt: skip


def reproduce(
    name: ScaleName,
    *,
    folder: Path | None = None,
    results: Path | None = None,
    only: Sequence[str] | None = None,
    device: Device = "auto",
) -> Path:
    """Run what is not yet there, the headline first; returns the folder of results.

    Args:
        name: the scale.
        folder: where models and clips are kept.
        results: where results go.
        only: names of studies; all by default. What they need is trained.
        device: where to compute.

    Raises:
        ValueError: the folder of results is another plan's, or there is no such study.
    """
    if unknown := sorted(set(only or ()) - set(PARTS)):
        raise ValueError(f"--only {unknown[0]!r}: there is no such study; there are {', '.join(PARTS)}")
    scale = SCALES[name]
    folder, results = folder or Path("runs") / f"reproduce-{name}", results or Path("results/reproduce") / name
    workshop = Workshop(scale, folder, results, Distributed(device=pick_device(device)))
    ratio = flops_ratio(scale)
    print(f"plan {register(workshop, name, ratio)[:12]}, results in {results}", flush=True)
    if only is None:
        for recipe in (*headline(scale), *equal_flops(scale, ratio), *explanations(scale), *ablations(scale)):
            workshop.trained(recipe)
    studies: dict[str, Callable[[], Study]] = {
        "forcing": lambda: forcing.study(workshop, ratio),
        "frames": lambda: forcing.frames_study(workshop, ratio),
        "history": lambda: history.study(workshop),
        "exposure": lambda: exposure.study(workshop),
        "unconditional": lambda: unconditional.study(workshop),
        "time": lambda: time.study(workshop),
        "length": lambda: length.study(workshop),
        "interval": lambda: interval.study(workshop),
        "quality": lambda: quality.study(workshop),
        "footage": lambda: footage.study(workshop),
    }
    for part in only or PARTS:
        path = results / f"{PARTS.index(part) + 1}-{part}.json"  # so that pages have them in this order
        if path.is_file():
            print(f"{part}: {path} is there", flush=True)
            continue
        if part == "footage" and only is None and (missing := footage.missing()):
            print(f"footage: left out, for it needs {missing}", flush=True)
            continue
        where = machine(workshop.distributed.device)
        found = replace(studies[part](), command=command(name), machine=where, date=today())
        write_study(path, found)
        print(f"{part}: {found.verdict}. {found.answer}", flush=True)
    return results


def command(name: ScaleName) -> str:
    """What runs it again."""
    return f"magi reproduce --scale {name}"


def flops_ratio(scale: Scale) -> float:
    """FLOPs of a training step of CTF over those of MTF, head included, by torch's counter."""
    ctf, mtf = (count_training_flops(replace(scale.model, forcing=forcing))["pruned"] for forcing in ("ctf", "mtf"))
    return ctf / mtf
