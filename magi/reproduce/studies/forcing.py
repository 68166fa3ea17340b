"""Complete or masked teacher forcing? (Fig. 4, Fig. 5b)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from magi.evaluation.uncertainty import Interval, over_seeds
from magi.model.config import Forcing
from magi.report.studies import Curves, Series, Study, Table, Verdict
from magi.reproduce.answers import by_frame, film, mean_over, number
from magi.reproduce.models import performance, sampling
from magi.reproduce.runs import Recipe
from magi.reproduce.tasks import FIRST, FIVE, Grade, Task, distance, frame_distances, held_still, real, test_clips
from magi.reproduce.workshop import Workshop

CLAIMED = 0.77
"""The paper's ratio of FVD, CTF over MTF, at most: "nearly 23 %" better."""
GATE = 4
"""At this generated frame both must be nearer to the truth than a still picture."""

PREFIX = "MTF with complete beginnings"

Found = Mapping[str, Sequence[Grade]]  # by paradigm, one per seed


def study(workshop: Workshop, flops_ratio: float) -> Study:
    """Compare the paradigms at equal clips and at equal FLOPs."""
    first, five = (_found(workshop, task, flops_ratio) for task in (FIRST, FIVE))
    others = real(workshop, FIRST)  # 16 frames at interval 1, whatever is given
    ratio, against_longer = (_ratios(first["CTF"], first[name], others) for name in ("MTF", "MTF, equal FLOPs"))
    still = held_still(test_clips(workshop, FIVE), context=FIVE.context).mean(0)
    gate = {name: _at_gate(grades) for name, grades in five.items()}
    counts = all(error < float(still[GATE - 1]) for name, error in gate.items() if name in ("CTF", "MTF"))
    interval = over_seeds(ratio)
    verdict = judge(interval) if counts else "undecided"
    answer = (
        f"world-FVD of CTF is {number(ratio, interval)} times that of MTF at equal clips, "
        f"{number(against_longer, over_seeds(against_longer))} times at equal FLOPs, over {len(ratio)} seeds."
    )
    notes = [
        f"At generated frame {GATE}, 5 given: position error "
        + ", ".join(f"{name} {error:.2f} px" for name, error in gate.items())
        + f"; the last frame held still {float(still[GATE - 1]):.2f} px. "
        + (
            "The comparison counts."
            if counts
            else "Not both are ahead of a still picture: the comparison does not count."
        ),
        _frame_note(first, others),
        f"{PREFIX} was added after the plan, with one seed, to find out how much of the difference is that MTF never "
        "sees a complete frame in training: half of its steps begin with 1 to 15 complete frames, as in 1X's Genie.",
    ]
    return Study(
        name="forcing",
        title="CTF against MTF",
        question="Does conditioning on complete frames generate better motion than conditioning on masked ones?",
        claim="CTF is nearly 23 % better in FVD on first-frame prediction, while MTF is slightly better in FID frame "
        "by frame (§5.2, Fig. 4, Fig. 5b).",
        verdict=verdict,
        answer=answer,
        protocol=_protocol(workshop),
        tables=[_distances(first, five, others)],
        curves=[
            Curves("world-FID by frame, first frame given", "frame", "world-FID", _frame_series(first, others)),
            Curves("Position error by generated frame, 5 frames given", "generated frame", "px",
                   [*_error_series(five), Series("last frame held still", *by_frame(still))]),
            Curves("Frames with all bodies and no others, first frame given", "generated frame", "share",
                   [Series(name, *by_frame(_mean(grades, "right"))) for name, grades in first.items()]),
        ],
        films=[film(workshop, "forcing", {
            "truth": real(workshop, FIVE, part=0).shown,
            **{name: grades[0].shown for name, grades in five.items()},
        }, given=FIVE.context, caption="5 frames given, then each on its own; the first seed")],
        notes=notes,
    )  # fmt: skip


def _found(workshop: Workshop, task: Task, flops_ratio: float) -> Found:
    def of(forcing: Forcing, length: float) -> list[Grade]:
        return [performance(workshop, Recipe(forcing, seed=seed, length=length), task) for seed in workshop.scale.seeds]

    with_prefix = performance(workshop, Recipe("mtf", prefix=True, seed=workshop.scale.seeds[0]), task)
    return {
        "CTF": of("ctf", 1.0), "MTF": of("mtf", 1.0), "MTF, equal FLOPs": of("mtf", flops_ratio),
        PREFIX: [with_prefix],
    }  # fmt: skip


def _ratios(one: Sequence[Grade], other: Sequence[Grade], others: Grade) -> list[float]:
    return [distance(a, others) / distance(b, others) for a, b in zip(one, other, strict=True)]


def judge(interval: Interval | None) -> Verdict:
    """By the rule of the plan."""
    if interval is None:
        return "undecided"
    if interval.high <= CLAIMED:
        return "held"
    return "did not hold" if interval.low > CLAIMED else "undecided"


def _mean(grades: Sequence[Grade], what: str) -> Tensor:
    return torch.stack([getattr(grade, what).mean(0) for grade in grades]).mean(0)


def _at_gate(grades: Sequence[Grade]) -> float:
    frames = _mean(grades, "error")
    return float(frames[min(GATE, len(frames)) - 1])


def _distances(first: Found, five: Found, others: Grade) -> Table:
    rows = []
    for name in first:
        cells = [name]
        for found in (first, five):
            values = [distance(grade, others) for grade in found[name]]
            cells += [number(values, over_seeds(values)), ", ".join(f"{value:.1f}" for value in values)]
        rows.append(cells)
    columns = ("", "world-FVD, first frame given", "by seed", "world-FVD, 5 frames given", "by seed")
    return Table("Mean over seeds and its 95 % t interval; lower is better", columns, rows)


def _frame_series(found: Found, others: Grade) -> list[Series]:
    series = []
    for name, grades in found.items():
        mean, low, high = mean_over([torch.tensor(frame_distances(grade, others)) for grade in grades])
        series.append(Series(name, *by_frame(mean), low, high))
    return series


def _error_series(found: Found) -> list[Series]:
    series = []
    for name, grades in found.items():
        mean, low, high = mean_over([grade.error.mean(0) for grade in grades])
        series.append(Series(name, *by_frame(mean), low, high))
    return series


def _frame_note(first: Found, others: Grade) -> str:
    means = {
        name: [sum(curve[1:]) / len(curve[1:]) for curve in (frame_distances(grade, others) for grade in grades)]
        for name, grades in first.items()
    }
    told = ", ".join(f"{name} {number(values, over_seeds(values))}" for name, values in means.items())
    return f"world-FID averaged over the generated frames, first frame given: {told}. Bands: range over seeds."


def _protocol(workshop: Workshop) -> dict[str, object]:
    scale = workshop.scale
    return {
        "clips": f"{scale.clips} generated against {scale.clips} real ones of other scenes, 16 frames, interval 1",
        "detector": "world-FVD, given frames included; covariance divided by N",
        "seeds": list(scale.seeds),
        "training": f"{scale.train_clips:,} clips, batch {scale.batch}",
        **{
            f"sampling, {name}": f"{s.mask_steps} mask steps x {s.head_steps} {s.solver}, temperature {s.temperature:g}"
            for name, s in (("CTF", sampling(workshop, "ctf")), ("MTF", sampling(workshop, "mtf")))
        },
    }
