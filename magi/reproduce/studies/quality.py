"""How fast may sampling be before it shows? Mask steps times head steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import median

from magi.bench.sampling import Rollout, race
from magi.report.studies import Curves, Series, Study, Table
from magi.reproduce.grades import distance, distance_ratio, real
from magi.reproduce.models import sampled, sampling
from magi.reproduce.plan import GOOD_ENOUGH
from magi.reproduce.runs import Recipe
from magi.reproduce.tasks import FIRST
from magi.reproduce.workshop import Workshop
from magi.sampling.config import SampleConfig

TIMED_FRAMES = 6
Setting = tuple[int, int]  # mask steps, head steps


def study(workshop: Workshop) -> Study:
    """world-FVD and time of a frame over the grid; the front that nothing beats in both."""
    scale = workshop.scale
    settings = {
        (mask, head): replace(sampling(workshop, "ctf"), mask_steps=mask, head_steps=head)
        for mask in scale.mask_steps
        for head in scale.head_steps
    }
    seconds = timed(workshop, settings)
    recipe, others = Recipe("ctf", seed=scale.seeds[0]), real(workshop, FIRST)
    grades = {setting: sampled(workshop, recipe, FIRST, chosen) for setting, chosen in settings.items()}
    quality = {setting: distance(grade, others) for setting, grade in grades.items()}
    reference = (scale.mask_steps[-1], scale.head_steps[-1])
    best = front(seconds, quality)
    fast = recommended(seconds, quality, reference)
    ratio, interval = distance_ratio(grades[fast], grades[reference], others, resamples=scale.resamples)
    rows = [
        [f"{mask} x {head}", f"{quality[mask, head]:.2f}", f"{seconds[reference] / seconds[mask, head]:.1f}",
         "front" if (mask, head) in best else ""]
        for mask, head in settings
    ]  # fmt: skip
    series = [
        Series(f"{mask} mask steps", [seconds[mask, head] / seconds[reference] for head in scale.head_steps],
               [quality[mask, head] for head in scale.head_steps])
        for mask in scale.mask_steps
    ]  # fmt: skip
    return Study(
        name="quality",
        title="Speed against quality",
        question="How few steps are enough?",
        claim="",
        verdict="measured",
        answer=f"{fast[0]} mask steps x {fast[1]} head steps are {seconds[reference] / seconds[fast]:.0f} times faster "
        f"than {reference[0]} x {reference[1]}, and their world-FVD is {ratio:.2f} times as large "
        f"({interval.low:.2f} to {interval.high:.2f}).",
        protocol={
            "model": f"CTF, seed {scale.seeds[0]}, first frame given, {scale.clips} clips",
            "time": f"of frames 2 to {TIMED_FRAMES}, one video, settings in turn frame by frame",
            "temperature": f"tuned at {scale.sample.mask_steps} x {scale.sample.head_steps}, the same for all: another "
            "number of head steps may want another",
            "reference": f"{reference[0]} mask steps x {reference[1]} {scale.sample.solver} steps: the head is a flow, "
            "which has no DDPM steps",
            "recommended": f"the fastest whose world-FVD is at most {GOOD_ENOUGH} times the reference's",
        },
        tables=[Table("Every setting", ("steps", "world-FVD", "times faster", ""), rows)],
        curves=[Curves("Quality against time", "time of a frame, of the reference's", "world-FVD", series, log="x")],
    )


def timed(workshop: Workshop, settings: Mapping[Setting, SampleConfig]) -> dict[Setting, float]:
    """Median seconds of a frame."""
    release = workshop.trained(Recipe("ctf", seed=workshop.scale.seeds[0]))
    rollouts = {f"{mask} {head}": Rollout(release.model, chosen) for (mask, head), chosen in settings.items()}
    times = race(rollouts, frames=TIMED_FRAMES)
    middle = {name: median(frame.total for frame in frames[1:]) for name, frames in times.items()}
    return {setting: middle[f"{setting[0]} {setting[1]}"] for setting in settings}


def front(seconds: Mapping[Setting, float], quality: Mapping[Setting, float]) -> list[Setting]:
    """The settings that no other beats in both, fastest first (the Pareto front)."""
    kept: list[Setting] = []
    for setting in sorted(seconds, key=seconds.__getitem__):
        if all(quality[setting] < quality[other] for other in kept):
            kept.append(setting)
    return kept


def recommended(seconds: Mapping[Setting, float], quality: Mapping[Setting, float], reference: Setting) -> Setting:
    """The fastest setting whose distance is at most `GOOD_ENOUGH` times the reference's."""
    good = [setting for setting in seconds if quality[setting] <= GOOD_ENOUGH * quality[reference]]
    return min(good, key=seconds.__getitem__)
