"""What a reproduction consists of: steps with names, each of which is done once and says what must be done before it.

They are in an order in which one process can do them all; `crew` does several at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

from magi.report.studies import Study, write_study
from magi.reproduce.models import performance, temperature
from magi.reproduce.runs import Recipe, ablations, equal_flops, explanations, headline
from magi.reproduce.scale import ScaleName
from magi.reproduce.studies import (
    exposure,
    footage,
    forcing,
    history,
    interval,
    length,
    quality,
    time,
    unconditional,
)  # fmt: skip
from magi.reproduce.tasks import FIRST, FIVE
from magi.reproduce.workshop import FORCINGS, Workshop, machine, today

PARTS = (
    "forcing", "frames", "history", "exposure", "unconditional", "length", "interval", "quality", "time", "footage"
)  # fmt: skip
"""The studies, in the order of their pages. The one of time is near the end: it wants the machine to itself."""


@dataclass(frozen=True)
class Step:
    """A piece of work that finds what has been done and does the rest."""

    name: str
    run: Callable[[], object]
    needs: tuple[str, ...] = ()
    """Names of steps."""


def steps(workshop: Workshop, name: ScaleName, ratio: float) -> Iterator[Step]:
    """All steps of a reproduction: tune, train, tune how to sample, look at what the models make, answer.

    Args:
        workshop: where things lie.
        name: of the scale.
        ratio: FLOPs of a training step of CTF over those of MTF.
    """
    scale = workshop.scale
    tunings = [Step(key, partial(workshop.train, key, run)) for key, run in workshop.tunings().items()]
    tuned = tuple(step.name for step in tunings)
    # the headline first: a reproduction that is stopped has it
    recipes = [*headline(scale), *equal_flops(scale, ratio), *explanations(scale), *ablations(scale)]
    trainings = [Step(recipe.name, partial(workshop.trained, recipe), tuned) for recipe in recipes]
    temperatures = [
        Step(f"temperature-{forcing}", partial(temperature, workshop, forcing), (Recipe(forcing, seed=first).name,))
        for forcing, first in ((forcing, scale.seeds[0]) for forcing in FORCINGS)
    ]
    gradings = [
        Step(
            f"grades-{recipe.name}",
            partial(_grade, workshop, recipe),
            (recipe.name, f"temperature-{recipe.forcing}"),
        )
        for recipe in recipes
    ]
    yield from chain(tunings, trainings, temperatures, gradings)
    graded = tuple(step.name for step in gradings)
    for part in PARTS:
        alone = part in ("time", "footage")
        needs = tuple(other for other in PARTS if other not in ("time", "footage")) if alone else graded
        yield Step(part, partial(answer, workshop, name, ratio, part), needs)


def _grade(workshop: Workshop, recipe: Recipe) -> None:
    for task in (FIRST, FIVE):
        performance(workshop, recipe, task)


def answer(workshop: Workshop, name: ScaleName, ratio: float, part: str) -> None:
    """Write a study down, unless it has been; the one of footage is left out where its engine is missing."""
    path = workshop.results / f"{PARTS.index(part) + 1:02d}-{part}.json"  # so that pages have them in this order
    if path.is_file():
        print(f"{part}: {path} is there", flush=True)
        return
    if part == "footage" and (missing := footage.missing()):
        print(f"footage: left out, for it needs {missing}", flush=True)
        return
    studies: dict[str, Callable[[], Study]] = {
        "forcing": lambda: forcing.study(workshop, ratio),
        "frames": lambda: forcing.frames_study(workshop, ratio),
        "history": lambda: history.study(workshop),
        "exposure": lambda: exposure.study(workshop),
        "unconditional": lambda: unconditional.study(workshop),
        "length": lambda: length.study(workshop),
        "interval": lambda: interval.study(workshop),
        "quality": lambda: quality.study(workshop),
        "time": lambda: time.study(workshop),
        "footage": lambda: footage.study(workshop),
    }
    where = machine(workshop.distributed.device)
    found = replace(studies[part](), command=f"magi reproduce --scale {name}", machine=where, date=today())
    write_study(path, found)
    print(f"{part}: {found.verdict}. {found.answer}", flush=True)
