"""Does it pay to hide tokens of a clip in several ways at once? Quality at equal FLOPs, in the procedural world.

    python -m magi.experiments.masks_per_clip --out results/masks-per-clip-cpu.json     # half an hour on one core

In CTF one pass over the observation frames can serve M differently masked copies of a clip, so a masked copy costs less
than with a clip of its own; but the copies are of one clip. Two ways to spend that are compared with one copy each of 8
clips per step: as many clips per step, so that a step costs more and there are fewer; and as many copies per step, so
that a step costs less and there are more. Everything else is equal: weights at the beginning, optimizer, learning rate
after the same FLOPs, the order of clips. All models are examined on the same clips with the same masks, one copy of
each. The same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from magi.data.world import WorldConfig
from magi.distributed import Distributed
from magi.evaluation.dynamics import copy_last, position_error
from magi.evaluation.run import continuations
from magi.evaluation.tracking import track
from magi.evaluation.uncertainty import Interval, over_seeds
from magi.evaluation.world import EVALUATION_WORLD, WorldTest, world_test
from magi.experiments.data import stream
from magi.experiments.encoded_once import EncodedOnce
from magi.experiments.video import preparation
from magi.model.config import MagiConfig
from magi.model.draws import draw_training
from magi.model.head import HeadConfig
from magi.model.magi import Magi
from magi.model.plan import training_flops
from magi.report.studies import Curves, Series, Study, Table, write_study
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release
from magi.threads import configure_threads
from magi.tokenizers.protocol import Tokenizer, to_pixels
from magi.tokenizers.store import load_tokenizer
from magi.training.loop import TrainConfig, train
from magi.training.optim import OptimConfig

LOSS, ERROR = "held-out loss", "position error"
CHUNK = 32  # held-out clips that share how many tokens are hidden, as the clips of a training step do


MODEL = MagiConfig(
    latent_channels=4, latent_height=8, latent_width=8, patch=2, num_frames=6,
    depth=2, width=64, mlp_width=256, heads=4, dropout=0.0, max_interval=1,
    mask_ratio_min=0.4, noise_max=0.25, clean_probability=0.2,
    head=HeadConfig(kind="flow", width=64), head_repeats=2,
)  # fmt: skip
"""As the model that ships, and a sixth of its size."""
WORLD = WorldConfig(num_frames=6, min_bodies=1, max_bodies=2, max_interval=1)
OPTIM = OptimConfig(lr=2e-3, clip=1.0)
SAMPLE = SampleConfig(mask_steps=8, head_steps=10, solver="euler", noise_source="cpu")


@dataclass(frozen=True)
class Arm:
    """What is compared."""

    copies: int
    """M, masked copies of a clip."""
    batch: int
    """Clips per step."""

    def __str__(self) -> str:
        return f"M = {self.copies}, {self.batch} clips"


ARMS = (Arm(1, 8), Arm(2, 8), Arm(4, 8), Arm(2, 4), Arm(4, 2))


@dataclass(frozen=True)
class Setting:
    """Everything that decides the numbers."""

    model: MagiConfig = MODEL
    world: WorldConfig = WORLD
    tokenizer: str = "world64"
    arms: tuple[Arm, ...] = ARMS
    """The first is what the others are compared with."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of weights, clips, masks and noise."""
    flops: float = 1.4e12
    """Of a training, forward and backward, as the planner counts them."""
    points: int = 4
    """Equal parts of the training, after each of which the averaged model is examined."""
    optim: OptimConfig = OPTIM
    """The learning rate stays, so that a model is as good after half of the FLOPs as if it had been given half."""
    warmup: float = 0.05
    """Share of the FLOPs in which the learning rate rises."""
    sample: SampleConfig = SAMPLE
    held: int = 256
    """Clips that the loss is measured on."""
    continued: int = 64
    """How many of these are continued."""
    context: int = 3
    """Frames given."""

    def model_of(self, arm: Arm) -> MagiConfig:
        """The model of one arm."""
        return replace(self.model, masks_per_clip=arm.copies)

    def step_flops(self, arm: Arm) -> float:
        """Of one optimizer step."""
        return arm.batch * training_flops(self.model_of(arm)).total

    def steps_per_point(self, arm: Arm) -> int:
        """Optimizer steps in each of the equal parts: within half a step of the same FLOPs for all."""
        return max(1, round(self.flops / self.points / self.step_flops(arm)))

    def training(self, arm: Arm, seed: int) -> TrainConfig:
        """How to train one arm; each part ends with an examination and a checkpoint."""
        part = self.steps_per_point(arm) * arm.batch
        return TrainConfig(
            total_samples=self.points * part, batch_size=arm.batch, seed=seed,
            precision="fp32",  # not every CPU has bf16
            optim=replace(self.optim, warmup_samples=round(self.warmup * self.points * part)),
            ema_half_life=1e12, ema_ramp=0.05,  # always the same share of the samples seen, however many these are
            checkpoint_every=part, log_every=part, evaluate_every=part,
        )  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A model after some of its training."""

    arm: Arm
    seed: int
    clips: int
    flops: float
    scores: Mapping[str, float]


class Examination:
    """What every model is asked: the same clips, masks and noise, one masked copy of each clip."""

    def __init__(self, setting: Setting, tokenizer: Tokenizer) -> None:
        world = replace(setting.world, seed=EVALUATION_WORLD.seed)
        self.setting, self.tokenizer = setting, tokenizer
        self.config = replace(setting.model, masks_per_clip=1)
        held = world_test(1, clips=setting.held, config=world)
        self.latents = torch.cat([tokenizer.encode(to_pixels(part)) for part in held.video.split(CHUNK)])
        self.shown = world_test(1, clips=setting.continued, config=world)

    @torch.no_grad()
    def __call__(self, model: Magi) -> dict[str, float]:
        """The scores of a model, whatever the number of copies it is trained with."""
        one = Magi(self.config).eval()
        one.load_state_dict(model.state_dict())
        made = continuations(
            Release(one, self.tokenizer, self.setting.sample), self.shown.video,
            context=self.setting.context, interval=1, seeds=range(len(self.shown.video)), batch_size=CHUNK,
        )  # fmt: skip
        return {LOSS: self.loss(one), ERROR: error_of(made, self.shown, context=self.setting.context)}

    def loss(self, model: Magi) -> float:
        """Mean over the held-out clips."""
        total = 0.0
        for step, latents in enumerate(self.latents.split(CHUNK)):
            draws = draw_training(self.config, 0, step=step, samples=range(step * CHUNK, step * CHUNK + len(latents)))
            total += len(latents) * float(model(latents, torch.ones(len(latents), dtype=torch.long), draws)["loss"])
        return total / len(self.latents)


def error_of(made: Tensor, test: WorldTest, *, context: int) -> float:
    """Mean distance, px, of the bodies in generated frames (B, F, 3, H, W) from where they should be."""
    states = test.states
    found = track(made, states.color, present=states.present, radius=states.radius)
    return float(position_error(found, states.position[:, context:]).mean())


def error_held_still(test: WorldTest, *, context: int) -> float:
    """The same of nothing moving after the last given frame."""
    states, frames = test.states, test.video.shape[1] - context
    seen = track(test.video[:, :context], states.color, present=states.present, radius=states.radius)
    return float(position_error(copy_last(seen, frames), states.position[:, context:]).mean())


def measure(setting: Setting, work: Path, *, note: Callable[[str], None]) -> tuple[list[Point], float]:
    """Train all arms with all seeds; returns their points, and the position error of a still picture, px.

    Args:
        setting: what is compared.
        work: a folder for checkpoints and encoded clips; trainings that it holds already are not made again.
        note: is told of each point.
    """
    tokenizer = load_tokenizer(setting.tokenizer)
    examine = Examination(setting, tokenizer)
    points = []
    for seed in setting.seeds:
        for arm in setting.arms:
            found = train_arm(setting, tokenizer, examine, arm=arm, seed=seed, work=work)
            for point in found:
                scores = "  ".join(f"{name} {value:.4f}" for name, value in point.scores.items())
                note(f"{arm}  seed {seed}  {point.flops / 1e12:.2f} TFLOP  {point.clips:,} seen  {scores}")
            points += found
    return points, error_held_still(examine.shown, context=setting.context)


def train_arm(
    setting: Setting, tokenizer: Tokenizer, examine: Examination, *, arm: Arm, seed: int, work: Path
) -> list[Point]:
    """Train one model, or read what came out of its training."""
    config, distributed = setting.training(arm, seed), Distributed()
    torch.manual_seed(seed)
    model = Magi(setting.model_of(arm))
    world = replace(setting.world, seed=seed)
    source = EncodedOnce(work / "clips", world, tokenizer, size=CHUNK, device=distributed.device)

    def evaluate(samples: int, averaged: nn.Module) -> Iterable[tuple[str, float]]:
        assert isinstance(averaged, Magi)
        yield from examine(averaged).items()

    run = work / f"copies-{arm.copies}-batch-{arm.batch}-seed-{seed}"
    train(
        model, stream(source, config, distributed),
        prepare=preparation(model.config, tokenizer, seed=seed, device=distributed.device),
        config=config, resolved={**asdict(setting), "train": asdict(config)}, run_dir=run, distributed=distributed,
        evaluate=evaluate,
    )  # fmt: skip
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    flops = setting.step_flops(arm) / arm.batch
    return [
        Point(arm, seed, one["samples"], one["samples"] * flops, {name: one[name] for name in (LOSS, ERROR)})
        for one in map(json.loads, lines)
        if LOSS in one
    ]


def values(points: Sequence[Point], arm: Arm, score: str) -> list[list[float]]:
    """A score of one arm, by point of the training and then by seed."""
    seeds = list(dict.fromkeys(point.seed for point in points))
    by_seed = [[p.scores[score] for p in points if (p.arm, p.seed) == (arm, seed)] for seed in seeds]
    return [list(at) for at in zip(*by_seed, strict=True)]


def differences(points: Sequence[Point], arm: Arm, score: str, *, base: Arm) -> list[tuple[float, Interval | None]]:
    """By point, how much higher a score is than that of `base`: mean over seeds, each against its own; and the interval
    of that mean."""
    found = []
    for ours, theirs in zip(values(points, arm, score), values(points, base, score), strict=True):
        each = [a - b for a, b in zip(ours, theirs, strict=True)]
        found.append((sum(each) / len(each), over_seeds(each)))
    return found


def study(setting: Setting, points: Sequence[Point], still: float, *, command: str) -> Study:
    """The record of what came out."""
    base, *others = setting.arms
    first = [p for p in points if p.seed == setting.seeds[0]]
    spent = {arm: [p.flops / 1e12 for p in first if p.arm == arm] for arm in setting.arms}
    said, told = [], []
    for score, unit in ((LOSS, ""), (ERROR, " px")):
        for arm in others:
            lost = score == ERROR and min(averages(points, base, score) + averages(points, arm, score)) > still
            verdicts = [told_difference(*one, lost=lost) for one in differences(points, arm, score, base=base)]
            told += [(score, str(arm), f"{at:.2f}", text) for at, text in zip(spent[base], verdicts, strict=True)]
            if not lost:
                said.append(f"{score}{unit and ','}{unit}, {arm}: {verdicts[-1]}")
    if min(min(averages(points, arm, ERROR)) for arm in setting.arms) > still:
        said.append(
            f"no arm's videos are nearer the truth than a still picture, {still:.2f} px, so they decide nothing"
        )
    return Study(
        name="masks-per-clip",
        title="Several masked copies of a clip at equal FLOPs",
        question="At equal training FLOPs, is a model better that hides tokens of each clip in 2 or 4 ways at once?",
        claim="",
        verdict="measured",
        answer=f"Against {base} per step, at the end, over {len(setting.seeds)} seeds: {'; '.join(said)}.",
        protocol=json.loads(json.dumps({**asdict(setting), "precision": "fp32", "error held still, px": still})),
        tables=(
            Table("Steps", ("arm", "GFLOP a step", "FLOPs per masked copy, of M = 1", "steps", "clips"),
                  [step_row(setting, arm) for arm in setting.arms]),
            Table(f"Less {base}, at equal FLOPs and seed by seed: mean, 95 % interval over {len(setting.seeds)} seeds "
                  "(Student's), and what follows", ("score", "arm", "TFLOP", "difference"), told),
            Table("Every point", ("arm", "seed", "TFLOP", "clips", LOSS, f"{ERROR}, px"),
                  [(str(p.arm), str(p.seed), f"{p.flops / 1e12:.4f}", str(p.clips), f"{p.scores[LOSS]:.4f}",
                    f"{p.scores[ERROR]:.3f}") for p in points]),
        ),
        curves=tuple(
            Curves(f"{score}: mean, and range over seeds", "TFLOP of training", unit, [
                over_training(str(arm), spent[arm], values(points, arm, score)) for arm in setting.arms
            ])
            for score, unit in ((LOSS, "loss"), (ERROR, "px"))
        ),
        notes=(
            "FLOPs are the planner's, at the mean mask ratio. The learning rate is the same for all and was tuned for "
            "none; every clip is new, so what M is worth where clips are few, or after a long training, is not told.",
            "Both scores are of the averaged weights, on clips of a world seed that no training uses. Their draws are "
            "the same for all models, so the spread is that of trainings.",
            f"Position error: of bodies in the {setting.world.num_frames - setting.context} frames generated after "
            f"{setting.context} given ones; {still:.2f} px where the last given frame is held still.",
        ),
        command=command,
        machine=f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        date=time.strftime("%Y-%m-%d"),
    )  # fmt: skip


def averages(points: Sequence[Point], arm: Arm, score: str) -> list[float]:
    """Means over seeds, by point."""
    return [sum(at) / len(at) for at in values(points, arm, score)]


def told_difference(mean: float, interval: Interval | None, *, lost: bool) -> str:
    """A difference of scores of which less is better; `lost` where both are worse than doing nothing would be."""
    if interval is None:
        return f"{mean:+.4f} (one seed)"
    verdict = "decides nothing" if interval.holds(0) else "better" if mean < 0 else "worse"
    if lost:
        verdict = "decides nothing, both being worse than a still picture"
    return f"{mean:+.4f} ({interval.low:+.4f} to {interval.high:+.4f}): {verdict}"


def step_row(setting: Setting, arm: Arm) -> tuple[str, ...]:
    """What a step of one arm costs and how many there are."""
    flops, one = setting.step_flops(arm), setting.step_flops(Arm(1, 1))
    steps = setting.points * setting.steps_per_point(arm)
    per_copy = flops / one / (arm.copies * arm.batch)
    return str(arm), f"{flops / 1e9:.3f}", f"{per_copy:.3f}", str(steps), str(steps * arm.batch)


def over_training(name: str, flops: Sequence[float], by_point: Sequence[Sequence[float]]) -> Series:
    """The line of one arm."""
    means = [sum(at) / len(at) for at in by_point]
    return Series(name, flops, means, [min(at) for at in by_point], [max(at) for at in by_point])


def main(argv: list[str] | None = None) -> None:
    """Train, examine and write the results file."""
    parser = argparse.ArgumentParser(description="Compare numbers of masked copies of a clip at equal FLOPs.")
    parser.add_argument("--out", type=Path, default=Path("results/masks-per-clip-cpu.json"))
    parser.add_argument("--work", type=Path, default=Path("runs/masks-per-clip"), help="checkpoints, to resume from")
    given = parser.parse_args(argv)
    configure_threads(1)  # models this small gain nothing from a second
    setting = Setting()
    points, still = measure(setting, given.work, note=lambda line: print(line, flush=True))
    write_study(given.out, study(setting, points, still, command="python -m magi.experiments.masks_per_clip"))
    print(given.out)


if __name__ == "__main__":
    main()
