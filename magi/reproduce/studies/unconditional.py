"""Generation from nothing, beside what the autoencoder alone loses (Tab. 3)."""

from __future__ import annotations

from magi.evaluation.run import through_tokenizer
from magi.evaluation.uncertainty import over_seeds
from magi.report.studies import Study, Table
from magi.reproduce.answers import film, number
from magi.reproduce.grades import Grade, about, distance, grade, graded, real
from magi.reproduce.models import performance
from magi.reproduce.runs import Recipe
from magi.reproduce.tasks import NOTHING, test_clips
from magi.reproduce.workshop import FORCINGS, Workshop


def study(workshop: Workshop) -> Study:
    """world-FVD of clips made from nothing, of reconstructed ones, and of real ones against others."""
    others = real(workshop, NOTHING)
    made = {
        forcing.upper(): [performance(workshop, Recipe(forcing, seed=seed), NOTHING) for seed in workshop.scale.seeds]
        for forcing in FORCINGS
    }
    found = {name: [distance(one, others) for one in grades] for name, grades in made.items()}
    least = distance(reconstructed(workshop), others)
    floor = distance(real(workshop, NOTHING, part=0), others)
    rows = [[name, number(values, over_seeds(values))] for name, values in found.items()]
    rows += [["real clips through the autoencoder", f"{least:.2f}"], ["real clips of other scenes", f"{floor:.2f}"]]
    return Study(
        name="unconditional",
        title="From nothing",
        question="How near are clips that are made from nothing to real ones?",
        claim="",
        verdict="measured",
        answer="world-FVD of clips from nothing: "
        + ", ".join(f"{name} {number(values, over_seeds(values))}" for name, values in found.items())
        + f"; of real clips through the autoencoder {least:.2f}; of real clips of other scenes {floor:.2f}, which is "
        "what so few clips leave.",
        protocol={"clips": workshop.scale.clips, "frames": NOTHING.frames, "seeds": list(workshop.scale.seeds)},
        tables=[Table("world-FVD against real clips, lower is better", ("", "world-FVD"), rows)],
        films=[film(workshop, "unconditional", {name: grades[0].shown for name, grades in made.items()}, given=0,
                    caption="Made from nothing; the first seed")],
    )  # fmt: skip


def reconstructed(workshop: Workshop) -> Grade:
    """Real clips through the tokenizer: the best that any model in its latents could do."""

    def compute() -> Grade:
        test = test_clips(workshop, NOTHING)
        release = workshop.trained(Recipe("ctf", seed=workshop.scale.seeds[0]))
        return grade(through_tokenizer(release, test.video), test, context=0)

    return graded(
        workshop, "reconstructed", {"tokenizer": workshop.scale.tokenizer, **about(workshop, NOTHING)}, compute
    )
