"""The model that ships with the package: bouncing bodies at 64 pixels.

    magi tokenizer train world64 --out runs/world64-tokenizer                              # 14 minutes
    magi train world64 --tokenizer runs/world64-tokenizer/release --out runs/world64       # 3 hours
    magi evaluate runs/world64/release --data world

Hardware: one CPU core with AVX-512 bf16, 2 GB of memory. What to expect stands in the model's card.
"""

from __future__ import annotations

from dataclasses import replace

from magi.data.world import WorldConfig
from magi.experiments.autoencoder import AutoencoderRun
from magi.experiments.data import DataConfig
from magi.experiments.video import VideoRun
from magi.model.config import PRESETS
from magi.model.head import HeadConfig
from magi.sampling.config import SampleConfig
from magi.training.loop import TrainConfig
from magi.training.optim import OptimConfig

TOKENIZER = AutoencoderRun(
    # frames far apart, so that four of one clip show four different scenes
    data=DataConfig(world=WorldConfig(num_frames=4, max_interval=25)),
    train=TrainConfig(
        total_samples=24_000,
        batch_size=8,
        optim=OptimConfig(lr=2e-3, warmup_samples=800, decay="cosine"),
        ema_half_life=1_600,
        ema_ramp=0.05,
        checkpoint_every=8_000,
        log_every=400,
        evaluate_every=4_000,
    ),
)

VIDEO = VideoRun(
    data=DataConfig(world=WorldConfig(num_frames=16, max_interval=2)),
    tokenizer="world64",
    model=replace(
        PRESETS["tiny"],
        max_interval=2,  # only intervals that are trained may be asked for
        # With 16 tokens a frame is revealed in few steps, so training must meet frames of which much is visible.
        mask_ratio_min=0.4,
        # The noise of the paper's reading (.7) hides where the bodies are from a model that sees few clips.
        noise_max=0.25,
        clean_probability=0.2,
        # A small head learns a flow sooner than a noise prediction, and samples it in a tenth of the steps.
        head=HeadConfig(kind="flow", width=128),
        head_repeats=4,
    ),
    train=TrainConfig(
        total_samples=144_000,
        batch_size=8,
        optim=OptimConfig(lr=2e-3, warmup_samples=4_000, decay="tail", decay_samples=40_000, clip=1.0),
        ema_half_life=8_000,
        ema_ramp=0.05,
        checkpoint_every=8_000,
        log_every=400,
        evaluate_every=16_000,
    ),
    sample=SampleConfig(mask_steps=8, head_steps=10, solver="euler", temperature=0.3, window=16, noise_source="cpu"),
)
