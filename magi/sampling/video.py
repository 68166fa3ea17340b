"""From pixels to pixels: encode the context, generate latents, decode each frame as it is finished.

Shapes: B videos, T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from magi.sampling import rollout
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release
from magi.tokenizers.protocol import to_pixels, to_video


def generate(
    release: Release,
    context: Tensor | None = None,
    *,
    num_frames: int,
    seeds: Sequence[int] = (0,),
    interval: int | Sequence[int] = 1,
    settings: SampleConfig | None = None,
) -> Iterator[Tensor]:
    """Continue videos, or begin them. Mistakes are found at once; frames are made as they are asked for.

    Args:
        release: from `magi.load`.
        context: (B, k, 3, H, W) uint8 frames that are given, encoded by themselves; None generates from nothing.
        num_frames: frames to generate.
        seeds: one per video; a video depends on its own seed alone.
        interval: frame interval to generate at, for all videos or one each.
        settings: steps, solver and memory; the release's own by default.

    Returns:
        An iterator over `num_frames` frames (B, 3, H, W) uint8, each there as soon as it is finished.

    Raises:
        ValueError: a context that is not uint8 RGB of the model's size, or settings that do not fit the model.
    """
    latents = None
    device = release.model.head_position.device
    if context is not None:
        if context.dtype != torch.uint8 or context.ndim != 5 or context.shape[2] != 3:
            raise ValueError(
                f"context is {context.dtype} {tuple(context.shape)}; expected uint8 (videos, frames, 3, height, width)"
            )
        latents = release.tokenizer.encode(to_pixels(context.to(device)))
    frames = rollout.generate(
        release.model,
        latents,
        num_frames=num_frames,
        seeds=seeds,
        interval=interval,
        settings=settings or release.sample,
    )
    return (to_video(release.tokenizer.decode(frame[:, None]))[:, 0] for frame in frames)
