"""What a reproduction consists of: steps with names, each of which is done once and says what must be done before it.

They are in an order in which one process can do them all; `crew` does several at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from magi.data.world import WorldConfig
from magi.experiments.encoded_once import EncodedOnce
from magi.report.studies import Study, write_study
from magi.reproduce.models import performance, temperature
from magi.reproduce.runs import Recipe, ablations, equal_flops, explanations, headline, training
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
"""The studies, in the order of their pages."""

ALONE = ("quality", "time", "footage")
"""The last of them, which measure time or train anew, and want the machine to themselves."""


PARTS_OF_CLIPS = 10
"""Steps that the drawing of clips is divided into."""


@dataclass(frozen=True)
class Step:
    """A piece of work that finds what has been done and does the rest."""

    name: str
    run: Callable[[], object]
    needs: tuple[str, ...] = ()
    """Names of steps."""
    done: Callable[[], bool] = lambda: False
    """Whether it has been done, where that is told at a glance."""


def steps(workshop: Workshop, name: ScaleName, ratio: float) -> Iterator[Step]:
    """All steps of a reproduction: tune, train, tune how to sample, look at what the models make, answer.

    Args:
        workshop: where things lie.
        name: of the scale.
        ratio: FLOPs of a training step of CTF over those of MTF.
    """
    scale = workshop.scale
    tunings = [
        Step(key, partial(workshop.train, key, run), done=partial(workshop.has_tuned, key))
        for key, run in workshop.tunings().items()
    ]
    # the headline first: a reproduction that is stopped has it
    recipes = [*headline(scale), *equal_flops(scale, ratio), *explanations(scale), *ablations(scale)]
    drawings = [
        Step(
            f"clips-{part}", partial(draw_clips, workshop, recipes, part), done=partial(all_trained, workshop, recipes)
        )
        for part in range(PARTS_OF_CLIPS)
    ]
    before = tuple(step.name for step in (*tunings, *drawings))
    trainings = [
        Step(recipe.name, partial(workshop.trained, recipe), before, partial(workshop.has, recipe.name))
        for recipe in recipes
    ]
    temperatures = [
        Step(
            f"temperature-{forcing}",
            partial(temperature, workshop, forcing),
            (Recipe(forcing, seed=scale.seeds[0]).name,),
            (workshop.results / f"temperature-{forcing}.json").is_file,
        )
        for forcing in FORCINGS
    ]
    gradings = [
        Step(
            f"grades-{recipe.name}",
            partial(_grade, workshop, recipe),
            (recipe.name, f"temperature-{recipe.forcing}"),
        )
        for recipe in recipes
    ]
    yield from chain(tunings, drawings, trainings, temperatures, gradings)
    graded = tuple(step.name for step in gradings)
    for number, part in enumerate(PARTS):
        needs = PARTS[:number] if part in ALONE else graded
        yield Step(part, partial(answer, workshop, name, ratio, part), needs, path_of(workshop, part).is_file)


def path_of(workshop: Workshop, part: str) -> Path:
    """Where a study is written: with a number, so that pages have them in order."""
    return workshop.results / f"{PARTS.index(part) + 1:02d}-{part}.json"


def all_trained(workshop: Workshop, recipes: Sequence[Recipe]) -> bool:
    """Whether no training needs clips any more."""
    return all(workshop.has(recipe.name) for recipe in recipes)


def draw_clips(workshop: Workshop, recipes: Sequence[Recipe], part: int) -> None:
    """Draw and encode a part of all clips that the trainings see, so that none of them has to."""
    sources: dict[WorldConfig, EncodedOnce] = {}
    ends: dict[WorldConfig, int] = {}
    for recipe in recipes:
        run = training(workshop.scale, recipe)
        world = run.data.world
        sources[world] = sources.get(world) or workshop.clips(run)
        ends[world] = max(ends.get(world, 0), run.train.total_samples)
    for world, source in sources.items():
        for number in range(part, -(-ends[world] // source.size), PARTS_OF_CLIPS):
            source.chunk(number)


def _grade(workshop: Workshop, recipe: Recipe) -> None:
    for task in (FIRST, FIVE):
        performance(workshop, recipe, task)


def answer(workshop: Workshop, name: ScaleName, ratio: float, part: str) -> None:
    """Write a study down, unless it has been; the one of footage is left out where its engine is missing."""
    path = path_of(workshop, part)
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
