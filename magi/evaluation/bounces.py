"""Did bodies bounce when they should? Reads reversals of motion from tracks and compares them with the world's truth.

A bounce turns the velocity of a body around along an axis at least. Gravity turns a rising body around too, slowly,
which is no bounce: a reversal counts only where the speed along the axis is more than `SLOWEST` both before and after.

Shapes: B clips, T frames, K bodies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from magi.evaluation.dynamics import Tracks

SLOWEST = 0.25  # px per frame along an axis; less is a turn at the top of a flight, or an error of finding
TOLERANCE = 1  # frames by which a bounce may come early or late


@dataclass(frozen=True)
class BounceScores:
    """How the bounces that were seen compare with those that should have been."""

    precision: float
    """Share of the bounces seen that should have been; NaN if none was seen."""
    recall: float
    """Share of the bounces that should have been and were seen; NaN if none should have been."""
    expected: int
    seen: int

    @property
    def f1(self) -> float:
        """Harmonic mean of both; NaN where one is, 0 where both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else total


def reversals(tracks: Tracks) -> Tensor:
    """Where bodies turned around: (B, T, K) bool.

    True at frame t if the motion from t - 1 to t and that from t to t + 1 are opposite along an axis: the bounce was
    just before or just after t. Never at the ends, nor where a body was not found in all three frames.
    """
    moved = tracks.position[:, 1:] - tracks.position[:, :-1]  # (B, T - 1, K, 2), NaN where not found
    before, after = moved[:, :-1], moved[:, 1:]
    turned = (before * after < 0) & (before.abs() > SLOWEST) & (after.abs() > SLOWEST)
    return functional.pad(turned.any(-1), (0, 0, 1, 1))


def score_bounces(tracks: Tracks, bounces: Tensor) -> BounceScores:
    """Compare reversals with the truth.

    A bounce between frames t - 1 and t shows as a reversal at either of them; `TOLERANCE` frames more are allowed on
    both sides. At the ends of a clip no reversal can be seen, so bounces there do not count. Glancing hits turn no
    component around and are missed even in true clips: compare a recall with that of the truth.

    Args:
        tracks: of T frames.
        bounces: (B, T, K) hits since the frame before.
    """
    if bounces.shape != tracks.found.shape:
        raise ValueError(f"bounces have shape {tuple(bounces.shape)}, the tracks {tuple(tracks.found.shape)}")
    inner = torch.zeros_like(tracks.found)
    inner[:, 1 + TOLERANCE : inner.shape[1] - TOLERANCE] = True
    seen = reversals(tracks)
    should = (bounces > 0) & tracks.present[:, None]
    near_truth = _widened(should, earlier=1 + TOLERANCE, later=TOLERANCE)
    near_seen = _widened(seen, earlier=TOLERANCE, later=1 + TOLERANCE)
    counted, claimed = should & inner, seen & inner
    return BounceScores(
        precision=_share(claimed & near_truth, claimed),
        recall=_share(counted & near_seen, counted),
        expected=int(counted.sum()),
        seen=int(claimed.sum()),
    )


def _widened(events: Tensor, *, earlier: int, later: int) -> Tensor:
    """Events (B, T, K) bool, and the frames up to so many before and after each."""
    padded = functional.pad(events, (0, 0, later, earlier))
    length = events.shape[1]
    return torch.stack([padded[:, shift : shift + length] for shift in range(earlier + later + 1)]).any(0)


def _share(part: Tensor, whole: Tensor) -> float:
    return float(part.sum() / whole.sum()) if whole.any() else float("nan")
