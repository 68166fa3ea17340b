"""Is a video that is asked for at interval k really k times faster? (§3, dynamic interval training)

Shapes: N clips, T frames, K bodies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from magi.evaluation.speed import seen_speeds
from magi.evaluation.tracking import track
from magi.evaluation.uncertainty import Interval, bootstrap_mean
from magi.report.studies import Curves, Series, Study, Table, Verdict
from magi.reproduce.models import sampling
from magi.reproduce.plan import TOLERANCE
from magi.reproduce.runs import Recipe
from magi.reproduce.scale import TRAINED_INTERVALS
from magi.reproduce.tasks import FIRST, make, test_clips
from magi.reproduce.workshop import Workshop


def study(workshop: Workshop) -> Study:
    """Begin with one frame, which tells no speed, ask for each interval, and measure how fast bodies move."""
    asked = list(range(1, TRAINED_INTERVALS + 2))
    base = float(true_speed(workshop, 1).nanmean())
    truth = [float(true_speed(workshop, interval).nanmean()) / base for interval in asked]
    found = {interval: generated_speed(workshop, interval) / base for interval in asked}
    means = [float(values.nanmean()) for values in found.values()]
    bands = [interval_of(values) for values in found.values()]
    rows = [
        [str(k), "trained" if k <= TRAINED_INTERVALS else "never trained", f"{truth[k - 1]:.2f}",
         f"{means[k - 1]:.2f} ({bands[k - 1].low:.2f} to {bands[k - 1].high:.2f})"]
        for k in asked
    ]  # fmt: skip
    seen = [k for k in asked if math.isfinite(means[k - 1])]  # a model that draws no bodies has no speed
    generated = Series(
        "generated", list(map(float, seen)), [means[k - 1] for k in seen], [bands[k - 1].low for k in seen],
        [bands[k - 1].high for k in seen],
    )  # fmt: skip
    return Study(
        name="interval",
        title="Interval control",
        question="Does the interval embedding control how fast things move?",
        claim="Interval embeddings allow controllable generation at user-specified frame intervals (§3).",
        verdict=judge(bands[:TRAINED_INTERVALS], truth[:TRAINED_INTERVALS]),
        answer="Asked for intervals " + ", ".join(map(str, asked)) + ", the model makes bodies move "
        + ", ".join(f"{mean:.2f}" for mean in means) + " times as fast as real ones at interval 1; real clips at these "
        "intervals " + ", ".join(f"{value:.2f}" for value in truth)
        + f". Interval {asked[-1]} was never trained. One model.",
        protocol={
            "model": f"CTF, seed {workshop.scale.seeds[0]}",
            "clips": f"{workshop.scale.clips}; one frame given, which shows no speed",
            "speed": "way of a body from frame to frame, away from its bounces, of generated and real clips alike",
        },
        tables=[Table("Speed, of real clips at interval 1", ("interval", "", "real clips", "generated"), rows)],
        curves=[Curves("Speed against the interval that was asked for", "interval", "times", [
            generated,
            Series("real clips", list(map(float, asked)), truth),
        ])],
    )  # fmt: skip


def judge(generated: Sequence[Interval], real: Sequence[float]) -> Verdict:
    """By the rule of the plan; undecided too if no speed could be seen."""
    lows = [made.low / true - 1 for made, true in zip(generated, real, strict=True)]
    highs = [made.high / true - 1 for made, true in zip(generated, real, strict=True)]
    if all(low >= -TOLERANCE and high <= TOLERANCE for low, high in zip(lows, highs, strict=True)):
        return "held"
    outside = any(high < -TOLERANCE or low > TOLERANCE for low, high in zip(lows, highs, strict=True))
    return "did not hold" if outside else "undecided"


def true_speed(workshop: Workshop, interval: int) -> Tensor:
    """Mean speed (N,) px per frame of the bodies of real clips."""
    test = test_clips(workshop, replace(FIRST, interval=interval))
    return speed_of(test.video, workshop, interval)


def generated_speed(workshop: Workshop, interval: int) -> Tensor:
    """Mean speed (N,) px per frame of the bodies of clips that are asked for at an interval."""
    task = replace(FIRST, interval=interval)
    release = workshop.trained(Recipe("ctf", seed=workshop.scale.seeds[0]))
    print(f"first frame given, interval {interval}", flush=True)
    given = test_clips(workshop, FIRST).video  # the same first frames at every interval
    return speed_of(make(workshop, release, task, settings=sampling(workshop, "ctf"), given=given), workshop, 1)


def speed_of(video: Tensor, workshop: Workshop, interval: int) -> Tensor:
    """Mean speed (N,) px per frame of the bodies of the evaluation's scenes; NaN where none was found twice."""
    states = test_clips(workshop, replace(FIRST, interval=interval)).states
    tracks = track(video, states.color, present=states.present, radius=states.radius)
    speeds = seen_speeds(tracks)
    return speeds.speed.sum((1, 2)) / speeds.free.sum((1, 2))


def interval_of(values: Tensor) -> Interval:
    """95 % bootstrap interval of the mean over clips."""
    seen = values[~torch.isnan(values)]
    return bootstrap_mean(seen).interval() if len(seen) else Interval(math.nan, math.nan, 0.95)
