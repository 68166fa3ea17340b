"""What the paper's three trainings share: its largest model, its optimizer, and how long it trains (A.1, A.3).

The learning rates and the picture size are blank in the paper's text. They are ours: MAR's rule of 1e-4 per 256 clips
gives two values for the paper's two batches, and 256 pixels are those of the UCF-101 table that it compares with.
"""

from __future__ import annotations

from dataclasses import replace

from magi.data.folder import FolderConfig
from magi.experiments.data import DataConfig
from magi.experiments.video import VideoRun
from magi.model.config import PRESETS
from magi.training.loop import TrainConfig
from magi.training.optim import OptimConfig

SIZE = 256  # pixels; blank in the paper
LEARNING_RATE_PER_256_CLIPS = 1e-4  # blank in the paper; MAR's rule
WARMUP_STEPS = 10_000
EMA_HALF_LIFE_STEPS = 6_931  # ln 2 / -ln .9999
STEPS_BETWEEN_CHECKPOINTS = 5_000


def paper_run(
    footage: FolderConfig,
    *,
    tokenizer: str,
    channels: int,
    latents: int,
    stochastic: bool,
    checkpointed: bool,
    batch: int,
    videos: int,
    epochs: int,
) -> VideoRun:
    """A training of the paper.

    Args:
        footage: the videos; clips of 256 pixels with the paper's intervals of 1 to 25.
        tokenizer: by name; 8 times smaller in space.
        channels: of its latents.
        latents: latent frames in a clip.
        stochastic: whether the tokenizer tells a distribution of latents, from which each epoch draws anew.
        checkpointed: whether eight GPUs of 141 GB need each block computed again in the backward pass.
        batch: clips per step.
        videos: in the data set, which with the epochs says how many clips are seen.
        epochs: of the paper.
    """
    steps = -(-videos * epochs // batch)
    xl = PRESETS["xl"]
    return VideoRun(
        data=DataConfig("folder", folder=replace(footage, size=SIZE, max_interval=xl.max_interval, flip=True)),
        tokenizer=tokenizer,
        sample_latents=stochastic,
        checkpointed=checkpointed,
        model=replace(xl, latent_channels=channels, num_frames=latents),
        train=TrainConfig(
            total_samples=steps * batch,
            batch_size=batch,
            optim=OptimConfig(lr=LEARNING_RATE_PER_256_CLIPS * batch / 256, warmup_samples=WARMUP_STEPS * batch),
            ema_half_life=EMA_HALF_LIFE_STEPS * batch,
            checkpoint_every=STEPS_BETWEEN_CHECKPOINTS * batch,
            evaluate_every=STEPS_BETWEEN_CHECKPOINTS * batch,
            log_every=100 * batch,
            workers=8,
        ),
    )
