"""How fast may sampling be before it shows? Mask steps times head steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import median

from magi.bench.sampling import Rollout, race
from magi.report.studies import Curves, Series, Study, Table
from magi.reproduce.models import sampling
from magi.reproduce.runs import Recipe
from magi.reproduce.tasks import FIRST, Grade, distance, grade, graded, make, real, test_clips
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
    quality = {setting: distance(at(workshop, chosen), real(workshop, FIRST)) for setting, chosen in settings.items()}
    reference = (scale.mask_steps[-1], scale.head_steps[-1])
    best = front(seconds, quality)
    fast = recommended(seconds, quality, reference)
    rows = [
        [f"{mask} x {head}", f"{quality[mask, head]:.1f}", f"{seconds[reference] / seconds[mask, head]:.1f}",
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
        f"than {reference[0]} x {reference[1]} at world-FVD {quality[fast]:.1f} against {quality[reference]:.1f}.",
        protocol={
            "model": f"CTF, seed {scale.seeds[0]}, first frame given, {scale.clips} clips",
            "time": f"of frames 2 to {TIMED_FRAMES}, one video, settings in turn frame by frame",
            "reference": f"one token at a time, {reference[1]} {scale.sample.solver} steps each",
            "recommended": "the fastest whose world-FVD is at most a tenth above the reference's",
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


def at(workshop: Workshop, settings: SampleConfig) -> Grade:
    """The clips of one setting."""

    def compute() -> Grade:
        test = test_clips(workshop, FIRST)
        release = workshop.trained(Recipe("ctf", seed=workshop.scale.seeds[0]))
        print(f"{settings.mask_steps} x {settings.head_steps} steps", flush=True)
        return grade(make(workshop, release, FIRST, settings=settings, given=test.video), test, context=FIRST.context)

    return graded(workshop, f"quality-{settings.mask_steps}x{settings.head_steps}", compute)


def front(seconds: Mapping[Setting, float], quality: Mapping[Setting, float]) -> list[Setting]:
    """The settings that no other beats in both, fastest first (the Pareto front)."""
    kept: list[Setting] = []
    for setting in sorted(seconds, key=seconds.__getitem__):
        if all(quality[setting] < quality[other] for other in kept):
            kept.append(setting)
    return kept


def recommended(seconds: Mapping[Setting, float], quality: Mapping[Setting, float], reference: Setting) -> Setting:
    """The fastest setting whose distance is at most a tenth above the reference's."""
    good = [setting for setting in seconds if quality[setting] <= 1.1 * quality[reference]]
    return min(good, key=seconds.__getitem__)
