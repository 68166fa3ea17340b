"""From two sides to a distance with its uncertainty, under a protocol.

By frame index the same is done with features of single frames: how the distance grows with the frame is a model's
drift.

Shapes: N clips, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from magi.evaluation.detectors.protocol import Detector
from magi.evaluation.features import Features
from magi.evaluation.frechet import Moments, finite_sample_bias, frechet_distance
from magi.evaluation.kernel import kernel_distance
from magi.evaluation.protocols import Protocol
from magi.evaluation.uncertainty import bootstrap_frechet

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
    """What two sets of these sizes would have between them if nothing distinguished them; `bias_is` says of which."""
    bias_is: str
    """Of what sets the bias is told, in words."""
    kernel: float
    by_frame: tuple[float, ...] = ()
    """Fréchet distance of single frames by frame index; empty without a detector of frames."""
    by_frame_name: str = ""

    def record(self) -> dict[str, Any]:
        """Plain data for a results file."""
        return {
            "name": self.name,
            "detector": self.detector,
            "real_count": self.real_count,
            "generated_count": self.generated_count,
            "distance": self.distance,
            "interval_95": list(self.interval),
            "finite_sample_bias": self.bias,
            "finite_sample_bias_is": self.bias_is,
            "kernel_distance": self.kernel,
            "by_frame": {"name": self.by_frame_name, "distance": list(self.by_frame)},
        }


def check_frames(protocol: Protocol, detector: Detector) -> None:
    """Refuse a detector for clips of another length, before any is looked at.

    Raises:
        ValueError: it is one, with both lengths.
    """
    if detector.frames is not None and detector.frames != protocol.frames:
        raise ValueError(
            f"{detector.name} takes clips of {detector.frames} frames, protocol {protocol.name} has {protocol.frames}; "
            f"give a detector for {protocol.frames}, or a protocol of {detector.frames}"
        )


def compare(
    protocol: Protocol,
    real: Features,
    generated: Features,
    *,
    detector: Detector,
    frame_detector: Detector | None = None,
) -> Measured:
    """Compare two sets of clips as a protocol says.

    Args:
        protocol: task, divisor and seed.
        real, generated: as many as the protocol says (`features_of` sees to it), (N, D) each.
        detector: that the features are of.
        frame_detector: that those by frame are of.
    """
    one, two = real.clips, generated.clips
    divisor, unequal = protocol.divisor, len(one) != len(two)  # if unequal, the protocol wants it
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
    return Measured(
        name=detector.name,
        detector=detector.fingerprint,
        real_count=len(one),
        generated_count=len(two),
        distance=resampled.point,
        interval=(interval.low, interval.high),
        bias=chance.mean,
        bias_is=bias_words(protocol),
        kernel=kernel_distance(one, two),
        by_frame=tuple(
            frechet_distance(a, b, divisor=divisor, allow_different_counts=unequal)
            for a, b in zip(real.by_frame, generated.by_frame, strict=True)
        ),
        by_frame_name=frame_detector.name if frame_detector is not None else "",
    )


def bias_words(protocol: Protocol) -> str:
    """Of what sets the bias beside a distance is told: not of such as share their contexts, where they do."""
    sets = f"{protocol.real_count:,} real and {protocol.generated_count:,} generated clips"
    told = f"the bias is that of independent sets of this size, {sets} of one distribution"
    if protocol.task == "prediction":
        told += "; here the generated clips continue real ones of the other set, so that chance alone gives another"
    return told
