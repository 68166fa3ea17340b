"""A trained model at its task: its sampling settings as tuned, its clips as graded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from magi.model.config import Forcing
from magi.reproduce.plan import TEMPERATURE_SEED
from magi.reproduce.runs import Recipe
from magi.reproduce.tasks import FIRST, Grade, Task, distance, grade, graded, make, real, slug, test_clips
from magi.reproduce.workshop import Workshop, write_json
from magi.sampling.config import SampleConfig


def sampling(workshop: Workshop, forcing: Forcing) -> SampleConfig:
    """How a paradigm's models sample: the scale's settings at the paradigm's own temperature."""
    return replace(workshop.scale.sample, temperature=temperature(workshop, forcing))


def temperature(workshop: Workshop, forcing: Forcing) -> float:
    """The one with the lowest world-FVD of first-frame prediction, on clips that nothing else is measured on."""
    path = workshop.results / f"temperature-{forcing}.json"
    if not path.is_file():
        write_json(path, _try_temperatures(workshop, forcing))
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return float(found["temperature"])


def _try_temperatures(workshop: Workshop, forcing: Forcing) -> dict[str, Any]:
    release = workshop.trained(Recipe(forcing, seed=workshop.scale.seeds[0]))
    test = test_clips(workshop, FIRST, seed=TEMPERATURE_SEED)
    others = real(workshop, FIRST, seed=TEMPERATURE_SEED)
    tried: dict[float, float] = {}
    for value in workshop.scale.temperatures:
        settings = replace(workshop.scale.sample, temperature=value)

        def compute(settings: SampleConfig = settings) -> Grade:
            video = make(workshop, release, FIRST, settings=settings, given=test.video)
            return grade(video, test, context=FIRST.context)

        tried[value] = distance(graded(workshop, f"temperature-{forcing}-{value:g}", compute), others)
        print(f"{forcing} at temperature {value:g}: world-FVD {tried[value]:.2f}", flush=True)
    return {"temperature": min(tried, key=tried.__getitem__), "world-FVD by temperature": tried}


def performance(workshop: Workshop, recipe: Recipe, task: Task) -> Grade:
    """A recipe's model at a task; trained, sampled and read now unless that has been done."""

    def compute() -> Grade:
        settings = sampling(workshop, recipe.forcing)
        release = workshop.trained(recipe)
        test = test_clips(workshop, task)
        print(f"{recipe.name}: {task.name}, {workshop.scale.clips} clips", flush=True)
        return grade(make(workshop, release, task, settings=settings, given=test.video), test, context=task.context)

    return graded(workshop, f"{recipe.name}-{slug(task)}", compute)
