"""What will be run, measured and concluded, written down with a hash before the first headline run.

A comparison is worth little if its rules could be chosen after its result was known. What was tried before a plan was
made is no secret: pilots and earlier plans are kept beside the results.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any, Final

from magi.checkpoint import compare_configs
from magi.evaluation.detectors.world import load as load_detector
from magi.evaluation.detectors.world import load_frames
from magi.reproduce.runs import ablations, equal_flops, explanations, headline
from magi.reproduce.scale import Scale, ScaleName
from magi.reproduce.workshop import Workshop, write_json
from magi.tokenizers.store import fingerprint as tokenizer_fingerprint
from magi.tokenizers.store import load_tokenizer

EVALUATION_SEED = 20_260_101
"""Of the world that results are measured on."""
TEMPERATURE_SEED = 20_260_102
"""Of the world that temperatures are chosen on."""

CLAIMED: Final = 0.77
"""The paper's ratio of FVD, CTF over MTF, at most: "nearly 23 %" better."""
GATE: Final = 4
"""At this generated frame a model must be nearer to the truth than a still picture."""
LINEAR: Final = 1.1
"""An exponent of time up to this is called approximately linear."""
WORSE: Final = 1.25
"""By how much the last window of a long video may be worse than the first."""
TOLERANCE: Final = 0.15
"""How far the speed at an interval may be from what was asked for."""
GOOD_ENOUGH: Final = 1.1
"""How much farther than the reference a faster setting of the sampler may be from real clips."""

FLOPS_RATIO: Final = "flops of a training step, CTF / MTF"
"""Under which the plan has it."""

METRICS: Final = (
    "world-FVD: Frechet distance of the world detector's features of 16 frames, given ones included, covariance "
    "divided by N, N generated against N real clips of other scenes",
    "world-FID by frame: the same of the detector's features of single frames",
    "by generated frame: position error, in which a body that is not found is as far off as it can be; the error of "
    "those that are found beside their share; frames with all bodies and no others; bounces",
)
RULES: Final = (
    "Counting: with 5 frames given, the position error at the 4th generated frame must be below that of the last given "
    "frame held still, for every model of a comparison; otherwise it is undecided.",
    f"Headline: first-frame prediction (1 given, 15 made), interval 1; the ratio of world-FVD CTF / MTF over seeds "
    f"with its 95 % t interval. It held if all of the interval is at most {CLAIMED}, did not hold if all of it is "
    "above, and is undecided otherwise.",
    "Single frames: the ratio of the world-FID averaged over generated frames, MTF / CTF, over seeds. It held if all "
    "of its interval is at most 1, did not hold if all of it is above, and is undecided otherwise.",
    "Exposure bias: one seed, so at most a tendency: measured, with intervals over clips and the ratio of two seeds of "
    "one recipe beside them.",
    f"Time: linear if the median exponent of the whole time with the cache is at most {LINEAR}.",
    f"Length: the paper's way, positions interpolated. It held if the interval of the last window's world-FVD over the "
    f"first's is at most {WORSE} and frames with all bodies are at least {1 / WORSE:.2f} times as many; did not hold "
    "if either is beyond, and is undecided otherwise.",
    f"Intervals: it held if at every trained interval the 95 % interval of the speed is within {TOLERANCE:.0%} of real "
    "clips at that interval, did not hold if one lies outside, and is undecided otherwise.",
    f"Sampler: recommended is the fastest setting with a world-FVD of at most {GOOD_ENOUGH} times the reference's.",
    "Learning rate: of each paradigm the one with the lowest held-out loss after the tuning clips; same choices, same "
    "number of clips. The ablations keep what was tuned with both techniques.",
    "Temperature: of each paradigm the one with the lowest world-FVD of first-frame prediction by its first seed's "
    "model, on clips that no result is measured on; same choices for both.",
    "Equal FLOPs: MTF trains on more clips, by the ratio of the FLOPs of one training step that torch's counter finds.",
    "Every run is in runs/, and none is repeated because of its result.",
)


def plan(name: ScaleName, scale: Scale, flops_ratio: float) -> dict[str, Any]:
    """The whole plan as plain values."""
    runs = {
        "headline": headline(scale), "ablations": ablations(scale), "equal FLOPs": equal_flops(scale, flops_ratio),
        "to explain": explanations(scale),
    }  # fmt: skip
    return {
        "scale": name,
        "settings": json.loads(json.dumps({**asdict(scale), "sample": scale.sample.described()})),
        "runs": {kind: [recipe.name for recipe in recipes] for kind, recipes in runs.items()},
        FLOPS_RATIO: round(flops_ratio, 4),
        "metrics": list(METRICS),
        "rules": list(RULES),
        "evaluation": {"world seed": EVALUATION_SEED, "temperature chosen on world seed": TEMPERATURE_SEED},
        "detectors": {"world-FVD": load_detector().fingerprint, "world-FID": load_frames().fingerprint},
        "tokenizer": tokenizer_fingerprint(load_tokenizer(scale.tokenizer)),
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
        if found.pop("sha256") != digest:
            differences = "; ".join(compare_configs(found, content)[:5])
            raise ValueError(
                f"{path} is another plan than this program's: {differences}. Results of two plans do not mix: give "
                "another --results, or go on with the version of this program that made it"
            )
        return digest
    write_json(path, {"sha256": digest, **content})
    return digest
