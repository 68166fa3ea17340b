"""Features of one side of a comparison, taken once and kept: of clips whole, and the moments of each frame index.

    PLACE/features.safetensors    (N, D) float32, and for each frame index count, mean and scatter
    PLACE/features.json           all that decides them

Only features are kept, D numbers per clip; no more than one batch of pixels is in memory. Knows detectors, not models.

Shapes: B or N clips, T frames, S side in pixels, D features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from magi import checkpoint
from magi.evaluation.detectors.protocol import Detector
from magi.evaluation.frechet import Moments
from magi.evaluation.protocols import Protocol

Side = Literal["real", "generated"]
CLIPS, FILE = "clips", "features"


@dataclass(frozen=True, eq=False)
class Features:
    """What is compared of one side."""

    clips: Tensor  # (N, D) float32
    by_frame: tuple[Moments, ...] = ()
    """Of single frames, by frame index; empty without a detector of frames."""


def features_of(
    clips: Iterable[Tensor],
    side: Side,
    *,
    protocol: Protocol,
    detector: Detector,
    frame_detector: Detector | None = None,
    note: Callable[[str, int], None] = lambda side, clips: None,
) -> Features:
    """Take the features of one side.

    Args:
        clips: batches (B, T, 3, S, S) uint8, T the protocol's `frames`; gone through once.
        side: which.
        protocol: how many clips of how many frames there have to be.
        detector: of whole clips.
        frame_detector: of single frames, for the curve by frame index.
        note: is told how many clips are through.

    Raises:
        ValueError: other counts or frames than the protocol's; features that are not finite.
    """
    expected = protocol.real_count if side == "real" else protocol.generated_count
    parts: list[Tensor] = []
    by_frame: list[Moments] = []
    count = 0
    for video in clips:
        _check_clips(video, protocol, side)
        parts.append(_finite(detector, video))
        if frame_detector is not None:
            frames = [Moments.of(frame_detector.features(frame[:, None])) for frame in video.unbind(1)]
            by_frame = [old.merge(new) for old, new in zip(by_frame, frames, strict=True)] if by_frame else frames
        count += len(video)
        note(side, count)
    if count != expected:
        raise ValueError(
            f"protocol {protocol.name} compares {expected:,} {side} clips, got {count:,}: a distance depends on the "
            f"number of clips; hand over all {expected:,}, or state another protocol with Protocol.changed"
        )
    return Features(torch.cat(parts), tuple(by_frame))


def _check_clips(video: Tensor, protocol: Protocol, side: Side) -> None:
    if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[1:3] != (protocol.frames, 3):
        raise ValueError(
            f"{side} clips are {video.dtype} {tuple(video.shape)}; protocol {protocol.name} compares uint8 "
            f"(clips, {protocol.frames}, 3, side, side): cut them to {protocol.frames} frames, and do not scale pixels"
        )


def _finite(detector: Detector, video: Tensor) -> Tensor:
    features = detector.features(video)
    lost = int((~features.isfinite()).sum())
    if features.ndim != 2 or len(features) != len(video) or lost:
        raise ValueError(
            f"{detector.name} gives {tuple(features.shape)} features of {len(video)} clips, {lost} of them not finite; "
            f"expected ({len(video)}, {detector.dim}), all finite: check its file of weights"
        )
    return features


def place_of(work: Path, label: str, told: Mapping[str, Any]) -> Path:
    """The folder of some features: its name is of all that decides them, so that no two meet."""
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
    return work / f"features-{label}-{key}"


def read_or_take(work: Path, label: str, told: Mapping[str, Any], take: Callable[[], Features]) -> Features:
    """The features that an earlier run kept, every byte checked, else those that `take` makes, kept from now on.

    Args:
        work: the folder that holds them.
        label: how the name of their own folder goes on after "features-".
        told: plain data: all that decides them.
        take: makes them.

    Raises:
        CheckpointError: what was kept is damaged.
    """
    place = place_of(work, label, told)
    if not place.is_dir():
        found = take()
        tensors = {CLIPS: found.clips.contiguous()}
        for frame, moments in enumerate(found.by_frame):
            tensors |= {f"{frame}.{name}": tensor for name, tensor in moments.tensors().items()}
        checkpoint.save(place, {FILE: tensors}, {"features.json": told})
        return found
    checkpoint.verify(place)
    kept = checkpoint.load_tensors(place, FILE, None)
    clips, frames = kept.pop(CLIPS), len(kept) // 3
    by_frame = [{name: kept[f"{frame}.{name}"] for name in ("count", "mean", "scatter")} for frame in range(frames)]
    return Features(clips, tuple(Moments.from_tensors(one, where=str(place)) for one in by_frame))
