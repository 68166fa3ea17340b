"""The recipe of `magi reproduce`: register the plan, then do step after step, or several at a time.

Whatever is finished is never done again: a reproduction that was stopped goes on by the same command.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from magi.bench.training import count_training_flops
from magi.distributed import Device, Distributed, pick_device
from magi.reproduce.crew import Crew, Outcome
from magi.reproduce.plan import FLOPS_RATIO, register
from magi.reproduce.scale import SCALES, Scale, ScaleName
from magi.reproduce.steps import PARTS, answer, path_of, steps
from magi.reproduce.workshop import Workshop
from magi.training.loop import Interrupted


def reproduce(
    name: ScaleName,
    *,
    folder: Path | None = None,
    results: Path | None = None,
    only: Sequence[str] | None = None,
    step: str | None = None,
    crew: Crew | None = None,
    graphs: bool = False,
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
        graphs: train in CUDA graphs, as `TrainConfig.cuda_graphs` says.
        device: where to compute.

    Raises:
        ValueError: the folder of results is another plan's, there is no such study or step, steps failed, or a crew is
            given what it does not do.
        Interrupted: a signal stopped a crew or a training.
    """
    if crew is not None and (only is not None or step is not None):
        raise ValueError("--jobs and --minutes are for all steps; leave out --only and --step, or these")
    if unknown := sorted(set(only or ()) - set(PARTS)):
        raise ValueError(f"--only {unknown[0]!r}: there is no such study; there are {', '.join(PARTS)}")
    scale = SCALES[name]
    folder, results = folder or Path("runs") / f"reproduce-{name}", results or Path("results/reproduce") / name
    workshop = Workshop(scale, folder, results, Distributed(device=pick_device(device)), graphs)
    ratio = registered_ratio(results) or flops_ratio(scale)
    print(f"plan {register(workshop, name, ratio)[:12]}, results in {results}", flush=True)
    if only is None and step is None and all(path_of(workshop, part).is_file() for part in PARTS):
        print("every study is there; give another --results to ask again", flush=True)
        return results
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
            *("--device", device, *(["--graphs"] if graphs else []), "--step"),
        ]
        needs = {each.name: each.needs for each in every.values()}
        already = [each.name for each in every.values() if each.done()]
        outcome = crew.work(needs, lambda chosen: [*words, chosen], logs=folder / "logs", already=already)
        conclude(outcome)
    else:
        for each in every.values():
            if not each.done():
                each.run()
    return results


def conclude(outcome: Outcome) -> None:
    """Say what is not done.

    Raises:
        Interrupted: a signal ended the work.
        ValueError: steps failed.
    """
    left = f"{len(outcome.left)} steps left, {outcome.left[0]} the first" if outcome.left else "nothing else is left"
    if outcome.failed:
        raise ValueError(f"failed: {', '.join(outcome.failed)}; {left}. Their logs tell why; the same command goes on")
    if outcome.signal:
        raise Interrupted(f"stopped with {left}; run the same command again to go on", outcome.signal)
    print(f"{left}; the same command goes on" if outcome.left else "all is done", flush=True)


def flops_ratio(scale: Scale) -> float:
    """FLOPs of a training step of CTF over those of MTF, head included, by torch's counter."""
    ctf, mtf = (count_training_flops(replace(scale.model, forcing=forcing))["pruned"] for forcing in ("ctf", "mtf"))
    return round(ctf / mtf, 4)


def registered_ratio(results: Path) -> float | None:
    """The same from the plan that is there, whose counting takes as long as starting a process."""
    path = results / "plan.json"
    return json.loads(path.read_text(encoding="utf-8")).get(FLOPS_RATIO) if path.is_file() else None
