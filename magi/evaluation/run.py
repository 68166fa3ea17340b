"""Measure a released model: continue clips, then grade the continuations frame by frame beside baselines and a ceiling.

Every measure is read from uint8 tensors, by generated frame. A context is encoded by itself, so nothing of the frames
to be predicted can reach the model, whatever the tokenizer. Where a clip is continued more than once, one try and the
best of all are told apart. Knows no files and prints nothing.

Shapes: K samples of each clip, B clips, T = context + F frames, W windows of frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor

from magi.evaluation.best_of import BETTER, SingleAndBest, measure_samples, single_and_best
from magi.evaluation.dynamics import position_error
from magi.evaluation.pixel import copy_last, psnr, ssim
from magi.evaluation.tracking import Tracks, track
from magi.evaluation.windows import score_windows
from magi.evaluation.world import WorldTest, score_positions
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release
from magi.sampling.video import generate
from magi.tokenizers.protocol import to_pixels, to_video

Scores = dict[str, Tensor]
"""Name to (F,) float64 by generated frame, or (W,) by window; NaN where there was nothing to measure."""
Measure = Callable[[Tensor, Tensor], Tensor]
"""Of frames (B, F, 3, H, W) uint8 and their truth, a value for each, (B, F)."""
PIXELS: Final[Mapping[str, Measure]] = {"PSNR": psnr, "SSIM": ssim}


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a model."""

    by_frame: Scores
    """(F,) each."""
    by_window: Scores = field(default_factory=dict)
    """(W,) each; empty if no windows were asked for."""


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


def score_pixels(
    samples: Sequence[Tensor], video: Tensor, *, reconstructed: Tensor, measures: Mapping[str, Measure] = PIXELS
) -> Scores:
    """Measure pixels of generated frames, of `copy_last`, and of the tokenizer's own reconstruction.

    Args:
        samples: K times (B, F, 3, H, W) uint8, the last F frames of the clips as generated.
        video: (B, T, 3, H, W) uint8, the clips; at least one frame more.
        reconstructed: (B, T, 3, H, W) uint8, the clips through the tokenizer.
        measures: by name, of which `BETTER` knows what is better.

    Returns:
        Means over clips, (F,) each: PSNR in dB, SSIM, and what else was asked for.
    """
    frames = samples[0].shape[1]
    truth = video[:, -frames:]
    beside = {"copy last": copy_last(reconstructed, frames=frames), "tokenizer": reconstructed[:, -frames:]}
    scores: Scores = {}
    for name, measure in measures.items():
        scores |= _of_model(name, single_and_best(measure_samples(samples, truth, measure), better=BETTER[name]))
        scores |= {f"{name}, {who}": measure(shown, truth).mean(0) for who, shown in beside.items()}
    return scores


def _of_model(measure: str, both: SingleAndBest) -> Scores:
    """A model's scores under names that tell one try from the best of several."""
    return {f"{measure}, model": both.single} if both.samples == 1 else both.named(f"{measure}, model")


def score_world(samples: Sequence[Tensor], test: WorldTest, *, context: int, reconstructed: Tensor) -> Scores:
    """`score_positions` of the procedural world, for what the model made and for the tokenizer's reconstruction.

    Of K samples every score of the model is the mean over them, and the best is told of the position error.
    """
    parts = [score_positions(made, test, context=context) for made in samples]
    ceiling = score_positions(reconstructed[:, context:], test, context=context)
    scores: Scores = {}
    for measure, through in ceiling.items():
        if ", " in measure:  # of a rule that needs no pictures
            continue
        scores[f"{measure}, model"] = torch.stack([part[measure] for part in parts]).nanmean(0)
        scores |= {name: values for name, values in parts[0].items() if name.startswith(f"{measure}, ")}
        scores[f"{measure}, tokenizer"] = through
    if len(samples) == 1:
        return scores
    truth = test.states.position[:, context : context + samples[0].shape[1]]
    errors = measure_samples(
        samples, test.video[:, context:], lambda made, _: position_error(_tracks(made, test), truth)
    )
    del scores["position error, model"]
    return _of_model("position error", single_and_best(errors, better=BETTER["position error"])) | scores


def score_long(samples: Sequence[Tensor], test: WorldTest, *, context: int, size: int, reconstructed: Tensor) -> Scores:
    """`score_windows` of what the model made in the procedural world, and of the tokenizer's reconstruction: (W,) each.

    Args:
        samples: K times (B, F, 3, H, W) uint8, of which the means are told.
        test: the clips that were continued, T frames; the test world has no gravity.
        context: frames given.
        size: generated frames in a window.
        reconstructed: (B, T, 3, H, W) uint8, the clips through the tokenizer.
    """
    ahead = {name: getattr(test.states, name)[:, context:] for name in ("position", "velocity", "bounces", "action")}
    states = replace(test.states, **ahead)
    parts = [score_windows(_tracks(made, test), states, size=size) for made in samples]
    ceiling = score_windows(_tracks(reconstructed[:, context:], test), states, size=size)
    scores: Scores = {}
    for name, values in ceiling.items():
        scores[f"{name}, model"] = torch.stack([part[name] for part in parts]).nanmean(0)
        scores[f"{name}, tokenizer"] = values
    return scores


def _tracks(video: Tensor, test: WorldTest) -> Tracks:
    return track(video, test.states.color, present=test.states.present, radius=test.states.radius)


def evaluate(
    release: Release,
    clips: Tensor | WorldTest,
    *,
    context: int,
    interval: int,
    seed: int = 0,
    samples: int = 1,
    window: int | None = None,
    measures: Mapping[str, Measure] = PIXELS,
    settings: SampleConfig | None = None,
    batch_size: int = 8,
    note: Callable[[int], None] = lambda clips: None,
) -> Evaluation:
    """All scores of a model on clips.

    Args:
        release: the model.
        clips: (B, T, 3, H, W) uint8, or the test of the procedural world, which adds the scores of its bodies.
        context: frames that are given; the T - context others are generated and graded.
        interval: of the clips.
        seed: sample k of clip i is drawn with seed + k B + i, so that no two share one.
        samples: K, continuations of each clip.
        window: in the world, generated frames in a window of a long video; None grades no windows.
        measures: of pixels, by name.
        settings, batch_size: as for `continuations`.
        note: called with the number of continuations done, of K B.

    Returns:
        By name, NaN where there is nothing to measure, as of no body found.

    Raises:
        ValueError: no sample; in the world, fewer than 2 given frames; or windows of clips whose truth is not known or
            that are not as long.
    """
    video = clips.video if isinstance(clips, WorldTest) else clips
    _check(clips, context, samples, window)
    for frames in (context, video.shape[1]):  # before the work begins: both are encoded
        release.tokenizer.latent_shape(frames, *video.shape[-2:])
    for measure in measures.values():
        measure(video[:1, :1], video[:1, :1])  # frames may be too small for it, or a library be absent
    made = []
    for before in range(0, samples * len(video), len(video)):

        def told(done: int, before: int = before) -> None:
            note(before + done)

        seeds = range(seed + before, seed + before + len(video))
        made.append(continuations(
            release, video, context=context, interval=interval, seeds=seeds, settings=settings, batch_size=batch_size,
            note=told,
        ))  # fmt: skip
    reconstructed = _ceiling(release, video, context=context, batch_size=batch_size)
    scores = score_pixels(made, video, reconstructed=reconstructed, measures=measures)
    if not isinstance(clips, WorldTest):
        return Evaluation(scores)
    scores |= score_world(made, clips, context=context, reconstructed=reconstructed)
    if window is None:
        return Evaluation(scores)
    return Evaluation(scores, score_long(made, clips, context=context, size=window, reconstructed=reconstructed))


def _ceiling(release: Release, video: Tensor, *, context: int, batch_size: int) -> Tensor:
    """The clips through the tokenizer, in which given frames know nothing of what comes."""
    reconstructed = through_tokenizer(release, video, batch_size=batch_size)
    if not release.tokenizer.is_causal:  # or the last given frame, which is held still, would know what comes
        given = through_tokenizer(release, video[:, :context], batch_size=batch_size)
        reconstructed = torch.cat([given, reconstructed[:, context:]], dim=1)
    return reconstructed


def _check(clips: Tensor | WorldTest, context: int, samples: int, window: int | None) -> None:
    """Refuse, before the work begins, what could not be measured after it."""
    if samples < 1:
        raise ValueError(f"samples is {samples}; each clip needs at least 1 continuation")
    if isinstance(clips, WorldTest) and context < 2:
        raise ValueError(f"context is {context} frame; give at least 2, for a velocity to go on with")
    if window is None:
        return
    if not isinstance(clips, WorldTest):
        raise ValueError(f"windows of {window} frames need bodies whose truth is known; take the procedural world")
    frames = clips.video.shape[1] - context
    if not 2 <= window <= frames:
        raise ValueError(f"windows of {window} frames in {frames} generated ones; give 2..{frames}")
