"""What will be run, measured and concluded, written down with a hash before the first headline run.

A comparison is worth what could still be chosen after its result was known: here, nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from magi.reproduce.runs import Recipe, ablations, headline
from magi.reproduce.scale import Scale, ScaleName
from magi.reproduce.workshop import Workshop, write_json

EVALUATION_SEED = 20_260_101
"""Of the world that results are measured on."""
TEMPERATURE_SEED = 20_260_102
"""Of the world that temperatures are chosen on."""

METRICS: Final = (
    "world-FVD: Frechet distance of the world detector's features of 16 frames, given ones included, covariance "
    "divided by N, N generated against N real clips of other scenes",
    "world-FID by frame: the same of the detector's features of single frames",
    "position error of bodies found, share found, right bodies, bounces, by generated frame",
)
RULES: Final = (
    "Headline: first-frame prediction (1 given, 15 generated), interval 1, world-FVD; the statistic is the ratio "
    "CTF / MTF over seeds, with its t interval of 95 %. The paper's claim is that it is at most .77.",
    "The claim held if the whole interval lies at or below .77; CTF is better if it lies below 1; it did not hold if "
    "the interval lies above .77; otherwise undecided.",
    "A comparison counts only if, with 5 frames given, both models show bodies nearer to the truth at the 4th "
    "generated frame than the last given frame held still.",
    "Learning rate: of each paradigm the one with the lowest held-out loss after the tuning clips, same choices, same "
    "number of clips.",
    "Temperature: of each paradigm the one with the lowest world-FVD of first-frame prediction by its first seed's "
    "model, on clips that no result is measured on; same choices for both.",
    "Equal FLOPs: MTF trains on more clips, by the ratio of the FLOPs of one training step that torch's counter finds.",
    "Every run is in runs/, and none is repeated because of its result.",
)


def plan(name: ScaleName, scale: Scale, flops_ratio: float) -> dict[str, Any]:
    """The whole plan as plain values."""

    def listed(recipes: Sequence[Recipe]) -> list[str]:
        return [recipe.name for recipe in recipes]

    return {
        "scale": name,
        "settings": json.loads(json.dumps(asdict(scale))),
        "headline": listed(list(headline(scale))),
        "ablations": listed(list(ablations(scale))),
        "flops of a training step, CTF / MTF": round(flops_ratio, 4),
        "metrics": list(METRICS),
        "rules": list(RULES),
        "evaluation": {"world seed": EVALUATION_SEED, "temperature chosen on world seed": TEMPERATURE_SEED},
    }


def fingerprint(content: dict[str, Any]) -> str:
    """SHA-256 of a plan, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def register(workshop: Workshop, name: ScaleName, flops_ratio: float) -> str:
    """Write the plan, or find that it is the one which is there; returns its fingerprint.

    Raises:
        ValueError: the folder holds the results of another plan.
    """
    path, content = workshop.results / "plan.json", plan(name, workshop.scale, flops_ratio)
    digest = fingerprint(content)
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["sha256"] != digest:
            raise ValueError(
                f"{path} is the plan {found['sha256'][:12]}, this is {digest[:12]}: results of two plans do not mix; "
                "give another --results, or go on with the version of this program that made it"
            )
        return digest
    write_json(path, {"sha256": digest, **content})
    return digest
