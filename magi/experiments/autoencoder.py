"""Train the small autoencoder on clips: `magi tokenizer train`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from magi.data.clips import BEYOND, Clips
from magi.distributed import Distributed
from magi.experiments.data import DataConfig, stream
from magi.experiments.publish import publish
from magi.seeds import generator
from magi.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from magi.tokenizers.protocol import to_pixels
from magi.tokenizers.store import save_autoencoder
from magi.training.loop import TrainConfig, train


@dataclass(frozen=True)
class AutoencoderRun:
    """Everything that decides an autoencoder's training."""

    data: DataConfig = field(default_factory=DataConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def train_autoencoder(run: AutoencoderRun, *, run_dir: Path, distributed: Distributed) -> Path:
    """Train, measure the latent statistics, and write `run_dir/release`; returns that folder."""
    torch.manual_seed(run.train.seed)
    model, source = Autoencoder(run.autoencoder), run.data.source()

    def prepare(clips: Clips, step: int) -> tuple[Tensor, Tensor]:
        pixels = to_pixels(clips.video.to(distributed.device))
        shape = model.latent_shape(*pixels.shape[1:2], *pixels.shape[-2:])
        noise = [
            generator(run.train.seed, "posterior", int(i)).standard_normal(shape, dtype=np.float32)
            for i in clips.sample
        ]
        return pixels, torch.from_numpy(np.stack(noise)).to(distributed.device)

    def evaluate(samples: int, averaged: nn.Module) -> Iterable[tuple[str, float]]:
        assert isinstance(averaged, Autoencoder)
        pixels = to_pixels(source.clips(range(BEYOND, BEYOND + 16)).video.to(distributed.device))
        yield "fixed psnr", reconstruction_psnr(averaged, pixels)

    state = train(
        model,
        stream(source, run.train, distributed),
        prepare=prepare,
        config=run.train,
        resolved=asdict(run),
        run_dir=run_dir,
        distributed=distributed,
        evaluate=evaluate,
    )
    averaged = state.ema.model
    assert isinstance(averaged, Autoencoder)
    chunks = (range(BEYOND + 16 + i, BEYOND + 32 + i) for i in range(0, 256, 16))
    averaged.measure_statistics(to_pixels(source.clips(chunk).video.to(distributed.device)) for chunk in chunks)
    release = run_dir / "release"
    if distributed.is_first:
        psnr = reconstruction_psnr(
            averaged, to_pixels(source.clips(range(BEYOND, BEYOND + 64)).video.to(distributed.device))
        )
        text = card(run, averaged, psnr)
        publish(release, lambda folder: save_autoencoder(folder, averaged, text, run={"samples": state.samples}))
    return release


def reconstruction_psnr(model: Autoencoder, pixels: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pixels (B, T, 3, H, W) in [-1, 1] after encoding and decoding."""
    error = (model.decode(model.encode(pixels)) - pixels).square().mean()
    return float(-10 * torch.log10(error / 4))


def card(run: AutoencoderRun, model: Autoencoder, psnr: float) -> str:
    """What a user must know about the autoencoder, from the run itself."""
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return f"""# Autoencoder

A per-frame convolutional KL autoencoder of MAGI, {millions:.2f} M parameters: {model.spatial_stride}x smaller in space,
{model.latent_channels} channels. Trained on `{run.data.kind}` clips, {run.train.total_samples:,} of
{run.data.chosen.num_frames} frames at {run.data.chosen.size} pixels, batch {run.train.batch_size},
seed {run.train.seed}. Reconstruction of clips beyond the training: {psnr:.2f} dB PSNR.
"""
