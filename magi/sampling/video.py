"""From pixels to pixels: encode the context, generate latents, decode frames as they are finished.

Frames are counted in pixels here. How many latent frames they take is the tokenizer's business, and where one stands
for several frames these come out together.

Shapes: B videos, T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, tee

import torch
from torch import Tensor

from magi.sampling import rollout
from magi.sampling.config import SampleConfig
from magi.sampling.journal import Journal
from magi.sampling.release import Release
from magi.tokenizers.protocol import Tokenizer, to_pixels, to_video
from magi.tokenizers.streaming import decode_stream


def generate(
    release: Release,
    context: Tensor | None = None,
    *,
    num_frames: int,
    seeds: Sequence[int] = (0,),
    interval: int | Sequence[int] = 1,
    settings: SampleConfig | None = None,
    journal: Journal | None = None,
) -> Iterator[Tensor]:
    """Continue videos, or begin them. Mistakes are found at once; frames are made as they are asked for.

    Args:
        release: from `magi.load`.
        context: (B, k, 3, H, W) uint8 frames that are given; None generates from nothing. They are encoded by
            themselves, so nothing that comes after them can show, whatever the tokenizer.
        num_frames: frames to generate. Frames that the last latent frame stands for beyond these are dropped.
        seeds: one per video; a video depends on its own seed alone.
        interval: frame interval to generate at, for all videos or one each.
        settings: steps, solver and memory; the release's own by default.
        journal: where latent frames are kept before they are shown. Those of an interrupted call with all these
            arguments are taken from it: all frames come out again, the same bits, and only the missing ones are made.

    Returns:
        An iterator over `num_frames` frames (B, 3, H, W) uint8, each there as soon as its latent frame is finished; of
        a tokenizer that is not causal, all of them after the last.

    Raises:
        ValueError: a context that is not uint8 RGB of the model's size and of whole latent frames, or settings that do
            not fit the model.
    """
    tokenizer, device, settings = release.tokenizer, release.model.head_position.device, settings or release.sample
    stride, given = tokenizer.temporal_stride, 0
    latents = None
    if context is not None:
        if context.dtype != torch.uint8 or context.ndim != 5 or context.shape[2] != 3:
            raise ValueError(
                f"context is {context.dtype} {tuple(context.shape)}; expected uint8 (videos, frames, 3, height, width)"
            )
        given = context.shape[1]
        clips = context.split(1 if settings.deterministic else len(context))  # alone, or as they come
        latents = torch.cat([tokenizer.encode(to_pixels(clip.to(device))) for clip in clips])
    made = rollout.generate(
        release.model,
        latents,
        num_frames=latents_to_make(given, num_frames, stride),
        seeds=seeds,
        interval=interval,
        settings=settings,
        made=journal.frames if journal else (),
    )
    if journal is not None:
        made = journal.keep(made)
    groups: Iterator[Tensor] = (frame[:, None] for frame in made)
    decoded = 0  # frames that come out before the first of those that were asked for
    if stride > 1 and latents is not None:  # how a latent frame looks depends on those before it
        groups, decoded = chain([latents], groups), given
    shown = _alone(tokenizer, groups, len(seeds)) if settings.deterministic else decode_stream(tokenizer, groups)
    return _one_by_one(shown, skip=decoded, count=num_frames)


def latents_to_make(given: int, num_frames: int, stride: int) -> int:
    """The fewest latent frames that show `num_frames` frames after the `given` ones, which fill whole latent frames."""
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    if given:
        return -(-num_frames // stride)
    return 1 + -(-(num_frames - 1) // stride)  # the first stands alone


def _alone(tokenizer: Tokenizer, groups: Iterator[Tensor], videos: int) -> Iterator[Tensor]:
    """Pixels of latent frames, each video decoded by itself: beside others it would be rounded otherwise."""

    def frames_of(video: int, groups: Iterator[Tensor]) -> Iterator[Tensor]:
        return decode_stream(tokenizer, (group[video : video + 1] for group in groups))

    streams = [frames_of(*each) for each in enumerate(tee(groups, videos))]
    return (torch.cat(group) for group in zip(*streams, strict=True))


def _one_by_one(groups: Iterator[Tensor], *, skip: int, count: int) -> Iterator[Tensor]:
    """The frames (B, 3, H, W) uint8 of groups of pixels (B, f, 3, H, W), from number `skip` on, `count` of them."""
    position = 0
    for group in groups:
        for frame in to_video(group).unbind(1):
            if position >= skip:
                yield frame
            position += 1
            if position == skip + count:
                return
