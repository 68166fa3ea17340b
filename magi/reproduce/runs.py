"""The trainings of the reproduction, by name. All start from one set of weights and see one order of clips per seed.

Two runs of a seed differ in nothing but what their names say: the draw of the weights, the clips, the masks and the
noise of the head are functions of the seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from magi.experiments.data import DataConfig
from magi.experiments.video import VideoRun
from magi.model.config import Forcing
from magi.reproduce.scale import Scale
from magi.training.loop import TrainConfig
from magi.training.optim import OptimConfig

TUNING_SEED = 100
LEARNING_RATE = 1e-3  # of runs before the tuning has spoken


@dataclass(frozen=True)
class Recipe:
    """What distinguishes a training."""

    forcing: Forcing = "ctf"
    interval: bool = True
    """Dynamic interval training: intervals 1..3; otherwise 1 alone."""
    noise: bool = True
    """Noise injection into frames that are seen; otherwise none, ever."""
    prefix: bool = False
    """MTF whose clips begin with complete frames in half of the steps, as 1X's Genie is trained."""
    seed: int = 0
    length: float = 1.0
    """In units of the scale's clips."""

    @property
    def paradigm(self) -> str:
        """`ctf` or `mtf` with what is left out of the techniques against exposure bias."""
        kept = [name for name, on in (("interval", self.interval), ("noise", self.noise)) if on]
        techniques = "" if len(kept) == 2 else f"-{kept[0] if kept else 'neither'}"
        return f"{self.forcing}{techniques}{'-prefix' if self.prefix else ''}"

    @property
    def name(self) -> str:
        """Under which the run is kept."""
        return f"{self.paradigm}{'' if self.length == 1 else '-equal-flops'}-seed{self.seed}"


def headline(scale: Scale) -> Iterator[Recipe]:
    """CTF and MTF, seed by seed, so that an interrupted reproduction has whole pairs."""
    for seed in scale.seeds:
        yield Recipe("ctf", seed=seed)
        yield Recipe("mtf", seed=seed)


def ablations(scale: Scale) -> Iterator[Recipe]:
    """What leaving out one or both techniques does (Fig. 5c), with the first seed."""
    seed = scale.seeds[0]
    yield Recipe("ctf", interval=False, noise=False, seed=seed)
    yield Recipe("ctf", noise=False, seed=seed)
    yield Recipe("ctf", interval=False, seed=seed)
    yield Recipe("mtf", interval=False, noise=False, seed=seed)


def explanations(scale: Scale) -> Iterator[Recipe]:
    """How much of the difference is that MTF never sees a complete frame in training, with the first seed."""
    yield Recipe("mtf", prefix=True, seed=scale.seeds[0])


def equal_flops(scale: Scale, ratio: float) -> Iterator[Recipe]:
    """MTF trained for longer, as long as it takes to spend what CTF spends."""
    for seed in scale.seeds:
        yield Recipe("mtf", seed=seed, length=ratio)


def training(scale: Scale, recipe: Recipe, *, learning_rate: float = LEARNING_RATE) -> VideoRun:
    """The whole configuration of a run."""
    clips = round(scale.train_clips * recipe.length / scale.batch) * scale.batch
    return _run(scale, recipe, learning_rate=learning_rate, clips=clips)


def tuning(scale: Scale, forcing: Forcing, *, learning_rate: float) -> VideoRun:
    """A short run that only has to show which learning rate suits a paradigm."""
    return _run(scale, Recipe(forcing, seed=TUNING_SEED), learning_rate=learning_rate, clips=scale.tuning_clips)


def _run(scale: Scale, recipe: Recipe, *, learning_rate: float, clips: int) -> VideoRun:
    model = replace(scale.model, forcing=recipe.forcing)
    if not recipe.noise:
        model = replace(model, clean_probability=1.0)
    if recipe.prefix:
        model = replace(model, mtf_clean_prefix_probability=0.5)
    world = scale.world if recipe.interval else replace(scale.world, max_interval=1)
    return VideoRun(
        data=DataConfig(world=replace(world, seed=recipe.seed)),
        tokenizer=scale.tokenizer,
        model=model,
        train=TrainConfig(
            total_samples=clips,
            batch_size=scale.batch,
            seed=recipe.seed,
            optim=OptimConfig(
                lr=learning_rate, warmup_samples=clips // 16, decay="tail", decay_samples=clips // 4, clip=1.0
            ),
            ema_half_life=clips / 20,
            ema_ramp=0.05,
            checkpoint_every=max(scale.batch, clips // 16),
            keep_checkpoints=1,
            log_every=max(scale.batch, clips // 64),
            evaluate_every=clips,
        ),
        sample=scale.sample,
        watch_clips=0,
    )
