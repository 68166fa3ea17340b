"""How large the miniature is: everything that a result depends on, in one record per scale.

Knows sizes and numbers; `runs` makes trainings of them and the studies questions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from magi.data.world import WorldConfig
from magi.experiments.world64 import VIDEO
from magi.model.config import MagiConfig
from magi.sampling.config import SampleConfig

ScaleName = Literal["smoke", "cpu", "gpu"]

TRAINED_INTERVALS = 3
"""Dynamic interval training draws 1..3; the model also embeds one id more, which is never trained (study of intervals).
"""


@dataclass(frozen=True)
class Scale:
    """A size of the whole reproduction."""

    model: MagiConfig
    """The model with both techniques against exposure bias, trained by CTF."""
    world: WorldConfig
    """The scenes, of training and of evaluation alike; evaluation has a seed of its own."""
    tokenizer: str
    train_clips: int
    tuning_clips: int
    batch: int
    seeds: tuple[int, ...]
    """Of the headline; the ablations take the first."""
    learning_rates: tuple[float, ...]
    """Among which each paradigm is tuned, for `tuning_clips` each."""
    temperatures: tuple[float, ...]
    """Among which each paradigm is tuned, on clips that no result is measured on."""
    clips: int
    """N: clips per evaluation."""
    sample: SampleConfig
    """How all models sample; the temperature is tuned."""
    long_frames: int
    long_clips: int
    cache_lengths: tuple[int, ...]
    """Frames, in the study of time."""
    mask_steps: tuple[int, ...]
    head_steps: tuple[int, ...]
    """The grid of speed against quality; the last of each is the reference."""
    resamples: int = 200
    """Of the bootstrap."""
    generate_batch: int = 32


WORLD = WorldConfig(num_frames=16, min_bodies=2, max_bodies=3, max_interval=TRAINED_INTERVALS)

CPU = Scale(
    model=replace(VIDEO.model, max_interval=TRAINED_INTERVALS + 1),
    world=WORLD,
    tokenizer="world64",
    train_clips=64_000,
    tuning_clips=6_400,
    batch=8,
    seeds=(0, 1, 2),
    learning_rates=(5e-4, 1e-3, 2e-3),
    temperatures=(0.6, 1.0, 1.3),
    clips=256,
    sample=SampleConfig(mask_steps=8, head_steps=10, solver="euler", noise_source="cpu"),
    long_frames=112,
    long_clips=128,
    cache_lengths=(8, 16, 32, 64, 128),
    mask_steps=(2, 4, 8, 16),
    head_steps=(5, 10, 25, 100),
)

SMOKE = replace(
    CPU,
    model=replace(CPU.model, depth=1, width=32, mlp_width=64, heads=2, head=replace(CPU.model.head, width=32)),
    train_clips=8,
    tuning_clips=4,
    batch=4,
    seeds=(0, 1),
    learning_rates=(1e-3, 2e-3),
    temperatures=(0.6, 1.0),
    clips=4,
    sample=SampleConfig(mask_steps=2, head_steps=2, solver="euler", noise_source="cpu"),
    long_frames=32,
    long_clips=2,
    cache_lengths=(4, 8),
    mask_steps=(1, 2),
    head_steps=(1, 2),
    resamples=20,
)

# one H200 for ten minutes, with twenty steps at a time in CUDA graphs
GPU = replace(
    CPU,
    train_clips=96_000,
    tuning_clips=12_800,
    batch=16,
    temperatures=(0.15, 0.3, 0.6, 1.0, 1.3, 1.6),
    clips=512,
    long_clips=256,
    generate_batch=512,
)

SCALES: dict[ScaleName, Scale] = {"smoke": SMOKE, "cpu": CPU, "gpu": GPU}
