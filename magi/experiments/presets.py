"""Runs by name, where `magi train` starts from: a plain dictionary, to which an experiment is added in one line.

The sizes are for a user's own folder of videos, which has no tokenizer yet. There `own` stands for an autoencoder that
is trained on the same videos first: a model needs latents of few channels, and those of other videos may not do.
"""

from __future__ import annotations

from dataclasses import replace

from magi.data.folder import FolderConfig
from magi.experiments import k600_omni, ucf101_cosmos, ucf101_sd14, world64
from magi.experiments.autoencoder import AutoencoderRun
from magi.experiments.data import DataConfig
from magi.experiments.video import OWN, VideoRun
from magi.model.config import PRESETS as MODELS
from magi.sampling.config import SampleConfig
from magi.tokenizers.autoencoder import AutoencoderConfig
from magi.training.loop import TrainConfig
from magi.training.optim import OptimConfig

VIDEOS_64 = FolderConfig(path="", size=64, max_interval=world64.VIDEO.model.max_interval)
VIDEOS_256 = FolderConfig(path="", size=256)

PRESETS: dict[str, VideoRun] = {
    # 64 pixels, hours on one CPU core, minutes on a GPU; the recipe of world64
    "tiny": replace(world64.VIDEO, data=DataConfig("folder", folder=VIDEOS_64), tokenizer=OWN),
    # 256 pixels: small for one large GPU, the others for several
    "small": VideoRun(
        data=DataConfig("folder", folder=VIDEOS_256),
        tokenizer=OWN,
        model=MODELS["small"],
        train=TrainConfig(
            total_samples=1_024_000, batch_size=32, ema_half_life=50_000, ema_ramp=0.05, workers=8,
            optim=OptimConfig(lr=2e-4, warmup_samples=64_000, decay="tail", decay_samples=256_000),
        ),
        sample=SampleConfig(head_steps=20, solver="dpm++"),
    ),
    "base": VideoRun(
        data=DataConfig("folder", folder=VIDEOS_256),
        tokenizer=OWN,
        model=MODELS["base"],
        train=TrainConfig(
            total_samples=4_096_000, batch_size=64, ema_half_life=200_000, ema_ramp=0.05, workers=8,
            optim=OptimConfig(lr=1e-4, warmup_samples=256_000, decay="tail", decay_samples=1_024_000),
        ),
    ),
    "large": VideoRun(
        data=DataConfig("folder", folder=VIDEOS_256),
        tokenizer=OWN,
        model=MODELS["large"],
        train=TrainConfig(total_samples=8_192_000, workers=8, optim=OptimConfig(warmup_samples=640_000)),
    ),
    # the paper's UCF-101 run: 13,320 videos x 1400 epochs at batch 128 (A.3)
    "xl": VideoRun(
        data=DataConfig("folder", folder=VIDEOS_256),
        tokenizer=OWN,
        model=MODELS["xl"],
        train=TrainConfig(total_samples=18_648_064, workers=8, optim=OptimConfig(lr=5e-5)),
    ),
    "world64": world64.VIDEO,
    # the paper's trainings, for those who have the videos and the tokenizers
    "ucf101-sd14": ucf101_sd14.VIDEO,
    "ucf101-cosmos": ucf101_cosmos.VIDEO,
    "k600-omni": k600_omni.VIDEO,
}  # fmt: skip

FOOTAGE = {
    "ucf101-sd14": ucf101_sd14.FOOTAGE,
    "ucf101-cosmos": ucf101_sd14.FOOTAGE,
    "k600-omni": k600_omni.FOOTAGE,
}
"""What is known of the data of experiments that fix theirs."""


def own_tokenizer(run: VideoRun) -> AutoencoderRun:
    """The autoencoder that `own` stands for: of the latents the model takes, on the data of the run, 4 frames a clip.

    Raises:
        ValueError: no autoencoder of this package makes such latents of such frames.
    """
    if run.data.kind == "latents":
        raise ValueError("latents have a tokenizer already: give it with --tokenizer, or the cache with --data")
    data, height = run.data.chosen, run.model.latent_height
    # wider where there is more to see than discs; both were sized for 64 and 256 pixels
    channels = (32, 48, 96) if data.size < 128 else (64, 128, 256)
    if data.size not in (4 * height, 8 * height):
        raise ValueError(
            f"an autoencoder makes frames 4 or 8 times smaller; these are {data.size} pixels and the model's latents "
            f"{height}: set --data.{run.data.kind}.size to {8 * height}, or --model.latent-height and "
            f"--model.latent-width to {data.size // 8}"
        )
    depth = 2 if data.size == 4 * height else 3
    train = world64.TOKENIZER.train if data.size < 128 else LONGER
    if (samples := run.own_tokenizer_samples) is not None:
        if samples < 1 or samples % train.batch_size:
            raise ValueError(f"--own-tokenizer-samples must be a multiple of its batch, {train.batch_size}: {samples}")
        train = replace(train, total_samples=samples)
    world = replace(run.data.world, num_frames=4) if run.data.kind == "world" else run.data.world
    folder = replace(run.data.folder, num_frames=4) if run.data.kind == "folder" else run.data.folder
    return AutoencoderRun(
        data=replace(run.data, world=world, folder=folder),
        autoencoder=AutoencoderConfig(
            latent_channels=run.model.latent_channels,
            channels=channels[:depth], encoder_blocks=(1, 2)[: depth - 1], decoder_blocks=(1, 2, 2)[:depth],
        ),
        train=replace(train, seed=run.train.seed, workers=run.train.workers, precision=run.train.precision),
    )  # fmt: skip


LONGER = TrainConfig(
    total_samples=96_000,
    batch_size=16,
    optim=OptimConfig(lr=5e-4, warmup_samples=3_200, decay="cosine"),
    ema_half_life=6_400,
    ema_ramp=0.05,
    checkpoint_every=16_000,
    log_every=800,
    evaluate_every=16_000,
)

TINY_CAUSAL = AutoencoderRun(
    kind="causal",
    data=DataConfig("folder", folder=replace(VIDEOS_64, num_frames=17)),
    # four frames share a latent frame, so it needs more channels to tell them apart
    autoencoder=AutoencoderConfig(latent_channels=16, channels=(32, 64, 96)),
    train=replace(world64.TOKENIZER.train, batch_size=4, optim=replace(world64.TOKENIZER.train.optim, lr=1e-3)),
)

TOKENIZERS: dict[str, AutoencoderRun] = {
    **{name: own_tokenizer(run) for name, run in PRESETS.items() if run.tokenizer == OWN},
    "world64": world64.TOKENIZER,
    "tiny-causal": TINY_CAUSAL,
    "small-causal": AutoencoderRun(
        kind="causal",
        data=DataConfig("folder", folder=replace(VIDEOS_256, num_frames=17)),
        autoencoder=AutoencoderConfig(latent_channels=16, channels=(64, 128, 256)),
        train=LONGER,
    ),
}
"""Where `magi tokenizer train` starts from, under the names of the models they are for; the causal ones are for models
whose clips have 1 + 4k frames: five latent frames of 16 channels for 17."""
