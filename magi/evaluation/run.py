"""Measure a released model: continue clips, then grade the continuations frame by frame beside baselines and a ceiling.

Every measure is read from uint8 tensors, by generated frame. A context is encoded by itself, so nothing of the frames
to be predicted can reach the model, whatever the tokenizer. Knows no files and prints nothing.

Shapes: B clips, T = context + F frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from magi.evaluation.pixel import copy_last, psnr, ssim
from magi.evaluation.world import WorldTest, score_positions
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release
from magi.sampling.video import generate
from magi.tokenizers.protocol import to_pixels, to_video

Scores = dict[str, Tensor]  # name to (F,) float64, by generated frame; NaN where there was nothing to measure


def continuations(
    release: Release,
    video: Tensor,
    *,
    context: int,
    interval: int,
    seeds: Sequence[int],
    settings: SampleConfig | None = None,
    batch_size: int = 8,
    note: Callable[[int], None] = lambda clips: None,
) -> Tensor:
    """Continue each clip from its first frames, one sample per clip.

    Args:
        release: the model.
        video: (B, T, 3, H, W) uint8.
        context: frames that are given; the rest is only counted.
        interval: of the clips.
        seeds: one per clip.
        settings: how to sample; the release's own by default.
        batch_size: clips at a time, which does not change the result.
        note: called with the number of clips done.

    Returns:
        (B, T - context, 3, H, W) uint8 on the CPU.
    """
    if not 1 <= context < video.shape[1]:
        raise ValueError(f"context is {context} of {video.shape[1]} frames; give at least one and leave at least one")
    parts = []
    for first in range(0, len(video), batch_size):
        chunk = video[first : first + batch_size, :context]
        frames = generate(
            release,
            chunk,
            num_frames=video.shape[1] - context,
            seeds=seeds[first : first + batch_size],
            interval=interval,
            settings=settings,
        )
        parts.append(torch.stack([frame.cpu() for frame in frames], dim=1))
        note(first + len(chunk))
    return torch.cat(parts)


@torch.no_grad()
def through_tokenizer(release: Release, video: Tensor, *, batch_size: int = 8) -> Tensor:
    """Encode and decode clips (B, T, 3, H, W) uint8: the best that a model in this latent space could show."""
    device = release.model.head_position.device
    chunks = (to_pixels(chunk.to(device)) for chunk in video.split(batch_size))
    return torch.cat([to_video(release.tokenizer.decode(release.tokenizer.encode(chunk))).cpu() for chunk in chunks])


def score_pixels(made: Tensor, video: Tensor, *, reconstructed: Tensor) -> Scores:
    """PSNR and SSIM of generated frames, of `copy_last`, and of the tokenizer's own reconstruction.

    Args:
        made: (B, F, 3, H, W) uint8, the last F frames of the clips as generated.
        video: (B, T, 3, H, W) uint8, the clips; at least one frame more.
        reconstructed: (B, T, 3, H, W) uint8, the clips through the tokenizer.

    Returns:
        Means over clips, (F,) each: PSNR in dB, SSIM.
    """
    frames = made.shape[1]
    truth = video[:, -frames:]
    shown = {
        "model": made,
        "copy last": copy_last(reconstructed, frames=frames),
        "tokenizer": reconstructed[:, -frames:],
    }
    psnrs = {f"PSNR, {name}": psnr(frames, truth).mean(0) for name, frames in shown.items()}
    return psnrs | {f"SSIM, {name}": ssim(frames, truth).mean(0) for name, frames in shown.items()}


def score_world(made: Tensor, test: WorldTest, *, context: int, reconstructed: Tensor) -> Scores:
    """`score_positions` of the procedural world, for what the model made and for the tokenizer's reconstruction."""
    scores = score_positions(made, test, context=context)
    ceiling = score_positions(reconstructed[:, context:], test, context=context)
    return {
        "position error, model": scores["position error"],
        "position error, copy last": scores["position error, copy last"],
        "position error, constant velocity": scores["position error, constant velocity"],
        "position error, tokenizer": ceiling["position error"],
        "position error where found, model": scores["position error where found"],
        "position error where found, tokenizer": ceiling["position error where found"],
        "share found, model": scores["share found"],
        "share found, tokenizer": ceiling["share found"],
        "velocity error, model": scores["velocity error"],
        "velocity error, copy last": scores["velocity error, copy last"],
        "velocity error, constant velocity": scores["velocity error, constant velocity"],
        "velocity error, tokenizer": ceiling["velocity error"],
        "bounce F1, model": scores["bounce F1"],
        "bounce F1, tokenizer": ceiling["bounce F1"],
        "count correct, model": scores["count correct"],
        "count correct, tokenizer": ceiling["count correct"],
    }


def evaluate(
    release: Release,
    clips: Tensor | WorldTest,
    *,
    context: int,
    interval: int,
    seed: int = 0,
    settings: SampleConfig | None = None,
    batch_size: int = 8,
    note: Callable[[int], None] = lambda clips: None,
) -> Scores:
    """All scores of a model on clips.

    Args:
        release: the model.
        clips: (B, T, 3, H, W) uint8, or the test of the procedural world, which adds the scores of its bodies.
        context: frames that are given; the T - context others are generated and graded.
        interval: of the clips.
        seed: clip i is continued with seed + i.
        settings, batch_size, note: as for `continuations`.

    Returns:
        By name, (T - context,) float64 each; NaN at frames where there is nothing to measure, as of no body found.
    """
    video = clips.video if isinstance(clips, WorldTest) else clips
    for frames in (context, video.shape[1]):  # before the work begins: both are encoded
        release.tokenizer.latent_shape(frames, *video.shape[-2:])
    made = continuations(
        release, video, context=context, interval=interval, seeds=range(seed, seed + len(video)),
        settings=settings, batch_size=batch_size, note=note,
    )  # fmt: skip
    reconstructed = through_tokenizer(release, video, batch_size=batch_size)
    if not release.tokenizer.is_causal:  # or the last given frame, which is held still, would know what comes
        given = through_tokenizer(release, video[:, :context], batch_size=batch_size)
        reconstructed = torch.cat([given, reconstructed[:, context:]], dim=1)
    scores = score_pixels(made, video, reconstructed=reconstructed)
    if isinstance(clips, WorldTest):
        scores |= score_world(made, clips, context=context, reconstructed=reconstructed)
    return scores
