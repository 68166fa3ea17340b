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
from magi.evaluation.protocols import DetectorName, Divisor, Protocol
from magi.seeds import generator

LOADERS: dict[DetectorName, tuple[str, str]] = {
    "world": ("magi.evaluation.detectors.world", "load"),
    "i3d-torchscript": ("magi.evaluation.detectors.torchscript_i3d", "load_torchscript_i3d"),
    "i3d-tfhub": ("magi.evaluation.detectors.torchscript_i3d", "load_torchscript_i3d"),
    "i3d-videogpt": ("magi.evaluation.detectors.i3d", "load_i3d"),
}
"""Module and function by the detector's name in a protocol. TF-hub's network is the one that was traced anew."""
RESAMPLES = 20  # of the bootstrap; each costs a distance


@dataclass(frozen=True)
class Statistics:
    """What is done with features; `statistics` has the library's own."""

    moments: Callable[[Tensor], Any]
    """From features (n, D) to moments that have `merge`."""
    frechet: Callable[[Any, Any, Divisor], float]
    bias: Callable[[Any, int, int], float]
    """Of moments, a count and a seed: the distance that as many clips of the same distribution would have."""
    kernel: Callable[[Tensor, Tensor], float]


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

    def __init__(self, detector: Detector, frame_detector: Detector | None, statistics: Statistics) -> None:
        self.detector, self.frame_detector, self.statistics = detector, frame_detector, statistics
        self.parts: list[Tensor] = []
        self.moments: Any = None
        self.by_frame: list[Any] = []

    def add(self, video: Tensor) -> None:
        features = self.detector.features(video)
        if features.ndim != 2 or len(features) != len(video) or not bool(features.isfinite().all()):
            raise ValueError(
                f"{self.detector.name} gives {tuple(features.shape)} features of {len(video)} clips, or some that are "
                f"not finite; expected finite ({len(video)}, {self.detector.dim})"
            )
        self.parts.append(features)
        self.moments = self._merged(self.moments, features)
        if self.frame_detector is not None:
            frames = [self.frame_detector.features(video[:, t : t + 1]) for t in range(video.shape[1])]
            before = self.by_frame or [None] * len(frames)
            self.by_frame = [self._merged(old, new) for old, new in zip(before, frames, strict=True)]

    def _merged(self, before: Any, features: Tensor) -> Any:
        fresh = self.statistics.moments(features)
        return fresh if before is None else before.merge(fresh)


def measure(
    protocol: Protocol,
    detector: Detector,
    real: Iterable[Tensor],
    generated: Iterable[Tensor],
    *,
    frame_detector: Detector | None = None,
    statistics: Statistics | None = None,
    note: Callable[[str, int], None] = lambda side, clips: None,
) -> Measured:
    """Compare two sets of clips as a protocol says.

    Args:
        protocol: counts, frames, divisor and seed.
        detector: of whole clips.
        real, generated: batches (B, T, 3, S, S) uint8, T the protocol's `frames`; gone through once.
        frame_detector: of single frames, for the curve by frame index.
        statistics: what is done with features.
        note: is told how many clips of which side are through.

    Raises:
        ValueError: other counts or frames than the protocol's; a detector for clips of another length.
    """
    statistics = statistics or load_statistics()
    if detector.frames is not None and detector.frames != protocol.frames:
        raise ValueError(
            f"{detector.name} takes clips of {detector.frames} frames, protocol {protocol.name} has {protocol.frames}"
        )
    sides = []
    for name, clips, expected in (
        ("real", real, protocol.real_count),
        ("generated", generated, protocol.generated_count),
    ):
        gathered, count = _Gathered(detector, frame_detector, statistics), 0
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
    statistics, frames = real.statistics, real.frame_detector
    one, two = torch.cat(real.parts), torch.cat(generated.parts)
    distance = statistics.frechet(real.moments, generated.moments, protocol.divisor)
    curve = [statistics.frechet(a, b, protocol.divisor) for a, b in zip(real.by_frame, generated.by_frame, strict=True)]
    return Measured(
        name=detector.name,
        detector=detector.fingerprint,
        real_count=len(one),
        generated_count=len(two),
        distance=distance,
        interval=_interval(one, two, distance, protocol=protocol, statistics=statistics),
        bias=statistics.bias(real.moments, len(two), protocol.seed),
        kernel=statistics.kernel(one, two),
        by_frame=tuple(curve),
        by_frame_name=frames.name if frames is not None else "",
        real=one,
        generated=two,
    )


def _interval(
    real: Tensor, generated: Tensor, distance: float, *, protocol: Protocol, statistics: Statistics
) -> tuple[float, float]:
    """The basic bootstrap's 95 %: resampled sets are farther apart, having fewer different clips, and are so by as
    much as the sets are farther apart than the distributions; hence the mirror."""
    found = []
    for turn in range(RESAMPLES):
        moments = []
        for side, features in enumerate((real, generated)):
            draws = generator(protocol.seed, "distance bootstrap", turn, side)
            places = torch.from_numpy(draws.integers(0, len(features), len(features)))
            moments.append(statistics.moments(features[places]))
        found.append(statistics.frechet(moments[0], moments[1], protocol.divisor))
    low, high = torch.tensor(found, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return max(0.0, 2 * distance - float(high)), max(0.0, 2 * distance - float(low))


def load_statistics() -> Statistics:
    """The library's own: Fréchet and kernel distance in float64."""
    frechet = import_module("magi.evaluation.frechet")
    kernel = import_module("magi.evaluation.kernel")
    return Statistics(
        moments=frechet.Moments.of,
        frechet=lambda real, made, divisor: float(frechet.frechet_distance(real, made, divisor=divisor)),
        bias=lambda real, count, seed: float(frechet.finite_sample_bias(real, count, seed=seed)),
        kernel=lambda real, made: float(kernel.kernel_distance(real, made)),
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
