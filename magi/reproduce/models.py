"""A trained model at its task: its sampling settings as tuned, its clips as graded, and whether it counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from magi.model.config import Forcing
from magi.reproduce.grades import Grade, about, distance, grade, graded, held_still, mean_of, real
from magi.reproduce.plan import EVALUATION_SEED, GATE, TEMPERATURE_SEED
from magi.reproduce.runs import Recipe
from magi.reproduce.tasks import FIRST, FIVE, Task, make, test_clips
from magi.reproduce.workshop import FORCINGS, Workshop, write_json
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
    recipe = Recipe(forcing, seed=workshop.scale.seeds[0])
    others = real(workshop, FIRST, seed=TEMPERATURE_SEED)
    tried: dict[float, float] = {}
    for value in workshop.scale.temperatures:
        settings = replace(workshop.scale.sample, temperature=value)
        tried[value] = distance(sampled(workshop, recipe, FIRST, settings, seed=TEMPERATURE_SEED), others)
        print(f"{forcing} at temperature {value:g}: world-FVD {tried[value]:.2f}", flush=True)
    return {"temperature": min(tried, key=tried.__getitem__), "world-FVD by temperature": tried}


def edges(workshop: Workshop) -> list[str]:
    """What the tuning took from the end of its choices, beyond which there may be better; a sentence for each."""
    scale = workshop.scale
    chosen = [
        (what, forcing.upper(), value, choices)
        for forcing in FORCINGS
        for what, value, choices in (
            ("learning rate", workshop.tuned(forcing)["learning_rate"], scale.learning_rates),
            ("temperature", temperature(workshop, forcing), scale.temperatures),
        )
    ]
    return [
        f"The {what} of {name}, {value:g}, is the {'smallest' if value == min(choices) else 'largest'} of its choices "
        f"({', '.join(f'{choice:g}' for choice in choices)}): a better one may lie beyond."
        for what, name, value, choices in chosen
        if value in (min(choices), max(choices))
    ]


def performance(workshop: Workshop, recipe: Recipe, task: Task) -> Grade:
    """A recipe's model at a task, sampled as tuned."""
    return sampled(workshop, recipe, task, sampling(workshop, recipe.forcing))


def sampled(
    workshop: Workshop, recipe: Recipe, task: Task, settings: SampleConfig, *, seed: int = EVALUATION_SEED
) -> Grade:
    """A recipe's model at a task; trained, sampled and read now unless that has been done."""
    release = workshop.trained(recipe)
    depends = {
        "model": workshop.fingerprint(recipe.name),
        "sample": settings.described(),
        "seed": seed,
        **about(workshop, task),
    }

    def compute() -> Grade:
        print(f"{recipe.name}: {task.name}, interval {task.interval}, {workshop.scale.clips} clips", flush=True)
        test = test_clips(workshop, task, seed=seed)
        return grade(make(workshop, release, task, settings=settings, given=test.video), test, context=task.context)

    return graded(workshop, f"{recipe.name}-given{task.context}", depends, compute)


def behind_still(workshop: Workshop, grades: Mapping[str, Sequence[Grade]]) -> str:
    """Why a comparison does not count, by the rule of the plan: who is farther from the truth than a still picture.

    Args:
        workshop: says which clips.
        grades: by name, of models that were given 5 frames.

    Returns:
        A sentence; empty if the comparison counts.
    """
    still = float(held_still(test_clips(workshop, FIVE), context=FIVE.context).mean(0)[GATE - 1])
    errors = {name: float(mean_of(each, "error")[GATE - 1]) for name, each in grades.items()}
    behind = [f"{name} {error:.1f} px" for name, error in errors.items() if not error < still]
    if not behind:
        return ""
    return (
        f"This does not count: at generated frame {GATE} after 5 given the bodies of {' and '.join(behind)} are "
        f"farther from the truth than those of the last frame held still ({still:.1f} px)."
    )
