"""From two streams of clips to a distance with its uncertainty: features once, moments as they come.

Only features are kept, D numbers per clip; no more than one batch of pixels is in memory. Per frame index the same is
done with a detector of single frames: how the distance grows with the frame is a model's drift.

Shapes: N clips, T frames, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from magi.evaluation.detectors.protocol import Detector
from magi.evaluation.frechet import Moments, finite_sample_bias, frechet_distance
from magi.evaluation.kernel import kernel_distance
from magi.evaluation.protocols import DetectorName, Protocol
from magi.evaluation.uncertainty import bootstrap_frechet

LOADERS: dict[DetectorName, tuple[str, str]] = {
    "world": ("magi.evaluation.detectors.world", "load"),
    "i3d-torchscript": ("magi.evaluation.detectors.torchscript_i3d", "load_torchscript_i3d"),
    "i3d-tfhub": ("magi.evaluation.detectors.torchscript_i3d", "load_torchscript_i3d"),
    "i3d-videogpt": ("magi.evaluation.detectors.i3d", "load_i3d"),
}
"""Module and function by the detector's name in a protocol. TF-hub's network is the one that was traced anew."""
RESAMPLES = 100  # of the bootstrap; each costs a distance


@dataclass(frozen=True)
class Measured:
    """What was measured of two sets of clips."""

    name: str
    """Of the distance, from the detector."""
    detector: str
    """Fingerprint of the detector."""
    real_count: int
    generated_count: int
    distance: float
    interval: tuple[float, float]
    """95 %, over which clips happened to be there; seeds of training are another matter."""
    bias: float
    """What two sets of these sizes would have between them if nothing distinguished them."""
    kernel: float
    by_frame: tuple[float, ...] = ()
    """Fréchet distance of single frames by frame index; empty without a detector of frames."""
    by_frame_name: str = ""
    real: Tensor | None = field(default=None, repr=False)  # (N, D) float32
    generated: Tensor | None = field(default=None, repr=False)  # (N, D) float32

    def record(self) -> dict[str, Any]:
        """Plain data, without the features."""
        return {
            "name": self.name,
            "detector": self.detector,
            "real_count": self.real_count,
            "generated_count": self.generated_count,
            "distance": self.distance,
            "interval_95": list(self.interval),
            "finite_sample_bias": self.bias,
            "kernel_distance": self.kernel,
            "by_frame": {"name": self.by_frame_name, "distance": list(self.by_frame)},
        }


class _Gathered:
    """Features of one side: clips whole, moments of each frame index, as they come."""

    def __init__(self, detector: Detector, frame_detector: Detector | None) -> None:
        self.detector, self.frame_detector = detector, frame_detector
        self.parts: list[Tensor] = []
        self.by_frame: list[Moments] = []

    def add(self, video: Tensor) -> None:
        features = self.detector.features(video)
        if features.ndim != 2 or len(features) != len(video) or not bool(features.isfinite().all()):
            raise ValueError(
                f"{self.detector.name} gives {tuple(features.shape)} features of {len(video)} clips, or some that are "
                f"not finite; expected finite ({len(video)}, {self.detector.dim})"
            )
        self.parts.append(features)
        if self.frame_detector is not None:
            frames = [Moments.of(self.frame_detector.features(frame[:, None])) for frame in video.unbind(1)]
            before = self.by_frame
            self.by_frame = [old.merge(new) for old, new in zip(before, frames, strict=True)] if before else frames


def measure(
    protocol: Protocol,
    detector: Detector,
    real: Iterable[Tensor],
    generated: Iterable[Tensor],
    *,
    frame_detector: Detector | None = None,
    note: Callable[[str, int], None] = lambda side, clips: None,
) -> Measured:
    """Compare two sets of clips as a protocol says.

    Args:
        protocol: counts, frames, divisor and seed.
        detector: of whole clips.
        real, generated: batches (B, T, 3, S, S) uint8, T the protocol's `frames`; gone through once.
        frame_detector: of single frames, for the curve by frame index.
        note: is told how many clips of which side are through.

    Raises:
        ValueError: other counts or frames than the protocol's; a detector for clips of another length.
    """
    if detector.frames is not None and detector.frames != protocol.frames:
        raise ValueError(
            f"{detector.name} takes clips of {detector.frames} frames, protocol {protocol.name} has {protocol.frames}"
        )
    sides = []
    for name, clips, expected in (
        ("real", real, protocol.real_count),
        ("generated", generated, protocol.generated_count),
    ):
        gathered, count = _Gathered(detector, frame_detector), 0
        for video in _checked(clips, protocol, name):
            gathered.add(video)
            count += len(video)
            note(name, count)
        if count != expected:
            raise ValueError(
                f"protocol {protocol.name} compares {expected:,} {name} clips, got {count:,}: a distance depends on "
                "the number of clips, so another number is another protocol (--clips)"
            )
        sides.append(gathered)
    return _compare(protocol, detector, sides[0], sides[1])


def _checked(clips: Iterable[Tensor], protocol: Protocol, side: str) -> Iterator[Tensor]:
    for video in clips:
        if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[1:3] != (protocol.frames, 3):
            raise ValueError(
                f"{side} clips are {video.dtype} {tuple(video.shape)}; protocol {protocol.name} compares uint8 "
                f"(clips, {protocol.frames}, 3, side, side)"
            )
        yield video


def _compare(protocol: Protocol, detector: Detector, real: _Gathered, generated: _Gathered) -> Measured:
    one, two = torch.cat(real.parts), torch.cat(generated.parts)
    divisor, unequal = protocol.divisor, len(one) != len(two)  # if unequal, the protocol wants it: `measure` saw to it
    paired = protocol.task == "prediction" and len(one) == len(two)  # each clip continues a real one
    resampled = bootstrap_frechet(
        one,
        two,
        pairing="joint" if paired else "apart",
        resamples=RESAMPLES,
        seed=protocol.seed,
        divisor=divisor,
        allow_different_counts=unequal,
    )
    chance = finite_sample_bias(Moments.of(one), len(one), other_count=len(two), divisor=divisor, seed=protocol.seed)
    interval = resampled.recentred()
    frames = real.frame_detector
    return Measured(
        name=detector.name,
        detector=detector.fingerprint,
        real_count=len(one),
        generated_count=len(two),
        distance=resampled.point,
        interval=(interval.low, interval.high),
        bias=chance.mean,
        kernel=kernel_distance(one, two),
        by_frame=tuple(
            frechet_distance(a, b, divisor=divisor, allow_different_counts=unequal)
            for a, b in zip(real.by_frame, generated.by_frame, strict=True)
        ),
        by_frame_name=frames.name if frames is not None else "",
        real=one,
        generated=two,
    )


def load_detector(name: DetectorName) -> Detector:
    """The detector that a protocol names; weights that do not ship are looked for where the environment says.

    Raises:
        ValueError: its file is absent, with where it is published; or not to be trusted.
    """
    place, function = LOADERS[name]
    module = import_module(place)
    options = {"choices": module.I3DChoices(epsilon="1e-5")} if name == "i3d-videogpt" else {}
    loaded: Detector = getattr(module, function)(**options)
    return loaded


def load_frame_detector(name: DetectorName) -> Detector | None:
    """The detector of single frames that goes with a detector of clips and ships; None if there is none."""
    if name != "world":
        return None
    loaded: Detector = import_module("magi.evaluation.detectors.world").load_frames()
    return loaded
