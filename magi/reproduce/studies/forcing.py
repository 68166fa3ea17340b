"""Complete or masked teacher forcing? (Fig. 4, Fig. 5b)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from magi.evaluation.uncertainty import over_seeds
from magi.report.studies import Curves, Series, Study, Table
from magi.reproduce.answers import by_frame, film, judge, number, ranged
from magi.reproduce.grades import (
    Grade,
    distance,
    frame_distances,
    held_still,
    mean_frame_distance,
    mean_of,
    real,
)
from magi.reproduce.models import behind_still, edges, performance, sampling
from magi.reproduce.plan import CLAIMED, GATE
from magi.reproduce.runs import Recipe, equal_flops, explanations, headline
from magi.reproduce.tasks import FIRST, FIVE, Task, test_clips
from magi.reproduce.workshop import FORCINGS, Workshop

CTF, MTF, LONGER, PREFIX = "CTF", "MTF", "MTF, equal FLOPs", "MTF with complete beginnings"
PAIR = (CTF, MTF)

Found = Mapping[str, Sequence[Grade]]  # by name, one per seed


def study(workshop: Workshop, flops_ratio: float) -> Study:
    """Compare the paradigms in motion, at equal clips and at equal FLOPs."""
    first, five = (found(workshop, task, flops_ratio) for task in (FIRST, FIVE))
    others = real(workshop, FIRST)  # 16 frames at interval 1, whatever is given
    distances = {name: [distance(grade, others) for grade in grades] for name, grades in first.items()}
    ratio, longer = (ratios(distances[CTF], distances[name]) for name in (MTF, LONGER))
    not_counting = behind_still(workshop, {name: five[name] for name in PAIR})
    still = held_still(test_clips(workshop, FIVE), context=FIVE.context).mean(0)
    counts = {name: five[name] for name in five if name != PREFIX}
    return Study(
        name="forcing",
        title="CTF against MTF",
        question="Does conditioning on complete frames generate better motion than conditioning on masked ones?",
        claim="CTF is nearly 23 % better in FVD on first-frame prediction (§5.2, Fig. 4, Fig. 5b).",
        verdict="undecided" if not_counting else judge(over_seeds(ratio), CLAIMED),
        answer=f"{not_counting} world-FVD of CTF is {number(ratio, over_seeds(ratio))} times that of MTF at equal "
        f"clips, {number(longer, over_seeds(longer))} times at equal FLOPs, over {len(ratio)} seeds.".strip(),
        protocol=protocol(workshop),
        tables=[_distances(first, five, others), _bodies(five)],
        curves=[
            Curves("Position error by generated frame, 5 frames given; bands are ranges over seeds",
                   "generated frame", "px",
                   [*(ranged(name, [g.error.mean(0) for g in grades]) for name, grades in counts.items()),
                    Series("last frame held still", *by_frame(still))]),
            Curves("Frames with all bodies and no others, first frame given; bands are ranges over seeds",
                   "generated frame", "share",
                   [ranged(name, [g.right.mean(0) for g in grades]) for name, grades in first.items()]),
        ],
        films=[film(workshop, "forcing", {
            "truth": real(workshop, FIVE, part=0).shown, **{name: grades[0].shown for name, grades in counts.items()},
        }, given=FIVE.context, caption="5 frames given, then each on its own; the first seed")],
        notes=[
            f"{PREFIX}: one seed; half of its steps begin with 1 to 15 complete frames, as in 1X's Genie, to show how "
            "much of the difference is that MTF never sees a complete frame in training.",
            *edges(workshop),
        ],
    )  # fmt: skip


def frames_study(workshop: Workshop, flops_ratio: float) -> Study:
    """Compare the paradigms frame by frame, without regard to motion."""
    first = found(workshop, FIRST, flops_ratio)
    others = real(workshop, FIRST)
    means = {
        name: [mean_frame_distance(grade, others, context=FIRST.context) for grade in grades]
        for name, grades in first.items()
    }
    ratio = ratios(means[MTF], means[CTF])
    not_counting = behind_still(workshop, {name: found(workshop, FIVE, flops_ratio)[name] for name in PAIR})
    rows = [[name, number(values, over_seeds(values))] for name, values in means.items()]
    return Study(
        name="frames",
        title="CTF against MTF, frame by frame",
        question="Are single frames of MTF as good as those of CTF, or better?",
        claim="MTF achieves slightly better frame-wise FID (§5.2, Fig. 5b).",
        verdict="undecided" if not_counting else judge(over_seeds(ratio), 1.0),
        answer=f"{not_counting} world-FID averaged over the generated frames of MTF is "
        f"{number(ratio, over_seeds(ratio))} times that of CTF, over {len(ratio)} seeds.".strip(),
        protocol=protocol(workshop),
        tables=[Table("world-FID, mean over generated frames, first given", ("", "mean (95 % over seeds)"), rows)],
        curves=[
            Curves("world-FID by frame, first frame given; bands are ranges over seeds", "frame", "world-FID",
                   [ranged(name, [frame_distances(g, others) for g in grades]) for name, grades in first.items()]),
        ],
    )  # fmt: skip


def found(workshop: Workshop, task: Task, flops_ratio: float) -> Found:
    """The clips of every model of the comparison, in the order of the plan."""
    names: dict[str, list[Recipe]] = {CTF: [], MTF: []}
    for recipe in headline(workshop.scale):
        names[CTF if recipe.forcing == "ctf" else MTF].append(recipe)
    names[LONGER] = list(equal_flops(workshop.scale, flops_ratio))
    names[PREFIX] = list(explanations(workshop.scale))
    return {name: [performance(workshop, recipe, task) for recipe in recipes] for name, recipes in names.items()}


def ratios(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Seed by seed."""
    return [a / b for a, b in zip(one, other, strict=True)]


def _distances(first: Found, five: Found, others: Grade) -> Table:
    rows = []
    for name in first:
        cells = [name]
        for grades in (first[name], five[name]):
            values = [distance(grade, others) for grade in grades]
            cells += [number(values, over_seeds(values)), ", ".join(f"{value:.2f}" for value in values)]
        rows.append(cells)
    columns = ("", "world-FVD, first frame given", "by seed", "world-FVD, 5 frames given", "by seed")
    return Table("Mean over seeds and its 95 % t interval; lower is better", columns, rows)


def _bodies(five: Found) -> Table:
    rows = []
    for name, grades in five.items():
        curves = [mean_of(grades, what) for what in ("found", "found_error")]
        cells = [f"{float(curve[frame]):.2f}" for curve in curves for frame in (min(GATE, len(curve)) - 1, -1)]
        rows.append([name, *cells, f"{sum(grade.bounce_f1 for grade in grades) / len(grades):.2f}"])
    columns = ("", "share found, frame 4", "last frame", "error of found ones, px, frame 4", "last frame", "bounce F1")
    return Table("Bodies, 5 frames given", columns, rows)


def protocol(workshop: Workshop) -> dict[str, object]:
    """What moves these numbers."""
    scale = workshop.scale
    return {
        "clips": f"{scale.clips} generated against {scale.clips} real ones of other scenes, 16 frames, interval 1",
        "detector": "world-FVD, given frames included; covariance divided by N",
        "seeds": list(scale.seeds),
        "training": f"{scale.train_clips:,} clips, batch {scale.batch}; learning rates {_tuned(workshop)}",
        **{
            f"sampling, {name}": f"{s.mask_steps} mask steps x {s.head_steps} {s.solver}, temperature {s.temperature:g}"
            for name, s in ((CTF, sampling(workshop, "ctf")), (MTF, sampling(workshop, "mtf")))
        },
        "tuned": "learning rate and temperature, for each paradigm from the same choices",
    }


def _tuned(workshop: Workshop) -> str:
    return ", ".join(f"{kind.upper()} {workshop.tuned(kind)['learning_rate']:g}" for kind in FORCINGS)
