"""Small videos, tokenizers that look trained, and caches of their latents. Nothing here is a claim."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from magi.data.folder import FolderConfig, list_videos
from magi.data.latent_store import LatentStore
from magi.data.latents import LatentConfig
from magi.experiments.data import DataConfig
from magi.experiments.encode import EncodeRun, encode
from magi.seeds import generator
from magi.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from magi.tokenizers.protocol import Posterior, Tokenizer, latent_shape_of
from magi.video import Frames, write_video

LENGTHS = {"a": 9, "b": 30, "c": 4, "d": 17, "e": 24}  # frames; "c" is too short for most clips
SIZE = 16


def scene(seed: int, num_frames: int, height: int = 20, width: int = 24) -> Frames:
    """Frames (T, H, W, 3) of which no two, and no two sides, are alike."""
    rng = generator(seed, "scene")
    coarse = rng.integers(0, 256, (num_frames, height // 4, width // 4, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(4, axis=1).repeat(4, axis=2))


def make_videos(root: Path) -> Path:
    """Five videos, one of varying rate, and one that is none; in two folders."""
    for number, (name, length) in enumerate(LENGTHS.items()):
        folder = root / ("one", "two")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"{name}.mp4", scene(number, length), fps=25, quality="lossless")
    first, *others = [Image.fromarray(frame) for frame in scene(9, 12)]
    durations = [40, 40, 40, 120, 40, 40, 200, 40, 40, 40, 40, 40]  # milliseconds
    first.save(root / "one" / "varying.gif", save_all=True, append_images=others, duration=durations)
    (root / "two" / "junk.mp4").write_text("no video")
    return root


def folder_config(root: Path, **changes: Any) -> FolderConfig:
    """Clips of 5 frames at intervals of up to 6."""
    return FolderConfig(**({"path": str(root), "num_frames": 5, "size": SIZE, "max_interval": 6, "seed": 3} | changes))


def latent_config(root: Path, like: FolderConfig, **changes: Any) -> LatentConfig:
    """The same clips from a cache."""
    names = ("num_frames", "size", "crop", "min_interval", "max_interval", "interval_rule", "flip", "seed")
    kept = {name: getattr(like, name) for name in names}
    return LatentConfig(**({"path": str(root)} | kept | changes))


def autoencoder(seed: int = 0) -> Autoencoder:
    """A tiny one of frames, 4 times smaller, with every parameter random."""
    config = AutoencoderConfig(latent_channels=3, channels=(8, 8), encoder_blocks=(1,), decoder_blocks=(1, 1))
    model = Autoencoder(config)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=rng)
        model.shift.copy_(torch.tensor([0.3, -0.2, 0.1]))
        model.scale.copy_(torch.tensor([0.7, 1.2, 0.9]))
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Causal:
    """A tokenizer of groups of 4 frames after the first: their means, in squares of 8 pixels, and how far they vary."""

    latent_channels: int = 3
    spatial_stride: int = 8
    temporal_stride: int = 4
    is_causal: bool = True

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        return latent_shape_of(num_frames, height, width, channels=3, stride=8, temporal_stride=4)

    def posterior(self, pixels: Tensor) -> Posterior:
        self.latent_shape(pixels.shape[1], *pixels.shape[-2:])
        groups = torch.cat([pixels[:, :1].repeat_interleave(4, dim=1), pixels[:, 1:]], dim=1)
        # a slope along the width, so that mirroring the latents is not mirroring the pixels
        groups = groups * torch.linspace(0.5, 1, pixels.shape[-1])
        parts = rearrange(groups, "b (t s) c (h p) (w q) -> b t c h w (s p q)", s=4, p=8, q=8)
        return Posterior(parts.mean(dim=-1), parts.std(dim=-1))

    def encode(self, pixels: Tensor) -> Tensor:
        return self.posterior(pixels).mean

    def decode(self, latents: Tensor) -> Tensor:
        frames = latents.repeat_interleave(8, dim=-1).repeat_interleave(8, dim=-2)
        return torch.cat([frames[:, :1], frames[:, 1:].repeat_interleave(4, dim=1)], dim=1).clamp(-1, 1)


def encoded(
    videos: Path, out: Path, tokenizer: Tokenizer, *, fingerprint: str = "toy", rank: int = 0, world_size: int = 1,
    data: dict[str, Any] | None = None, **changes: Any,
) -> LatentStore:  # fmt: skip
    """The cache of these videos, or this process's share of it, without a word about the one that is bad."""
    config = folder_config(videos, **(data or {}))
    run = EncodeRun(DataConfig("folder", folder=config), **({"tokenizer": "toy", "videos_per_shard": 3} | changes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return encode(
            run, list_videos(config), tokenizer, fingerprint=fingerprint, out=out, rank=rank, world_size=world_size
        )
