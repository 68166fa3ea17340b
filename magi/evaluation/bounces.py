"""Did bodies bounce when they should? Bounces are read from the tracks of a video and matched with the world's own.

A bounce is seen as a reversal: the velocity of a body changes sign on an axis. Every bounce off a wall is one; a
glancing blow between two bodies bends a path without turning it, and no reader of positions can tell a faint bend from
noise. So there are two sets of true bounces: those that reverse a body must be found (recall), and a reversal that is
found may be any bounce (precision).

Under gravity a body that rises comes down again without having touched anything. A turn from up to down is therefore no
bounce in a world with gravity, on either side of the comparison, and bounces off its ceiling are not graded.

Shapes: B clips, T frames, K bodies. y points down.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from magi.evaluation.tracking import Tracks

LEAST_STEP = 0.75  # px per frame on an axis; less has no sign, since a centre is read to a fraction of a pixel
TOLERANCE = 1  # frames between a bounce and the true one it is taken for


@dataclass(frozen=True)
class BounceScores:
    """How well bounces were found. Counts are sums over clips and bodies, (T,) each; the rates are over any frames."""

    matched: Tensor  # bounces seen that are true ones, at the frame they were seen
    spurious: Tensor  # bounces seen where nothing was hit
    recalled: Tensor  # true reversals that were seen, at the frame they were due
    missed: Tensor  # true reversals that were not
    late: Tensor  # sum over the matched of the frames they came after the true ones, negative if before

    @property
    def precision(self) -> Tensor:
        """Share of the bounces seen that are true, (T,), NaN where none was seen."""
        return self.matched / (self.matched + self.spurious)

    @property
    def recall(self) -> Tensor:
        """Share of the true reversals that were seen, (T,), NaN where there was none."""
        return self.recalled / (self.recalled + self.missed)

    @property
    def f1(self) -> Tensor:
        """Harmonic mean of the two, (T,): 0 where nothing is right, NaN where nothing was seen and nothing was due."""
        precision, recall = self.precision, self.recall
        both = 2 * precision * recall / (precision + recall)
        wrong = (self.matched + self.recalled == 0) & (self.spurious + self.missed > 0)
        return torch.where(wrong, 0.0, torch.where(both.isnan(), precision.nan_to_num(0) + recall.nan_to_num(0), both))

    @property
    def offset(self) -> Tensor:
        """Mean lateness of the matched in frames, (T,), NaN where none was."""
        return self.late / self.matched

    def total(self) -> BounceScores:
        """The counts over all frames, (1,) each."""
        counts = (self.matched, self.spurious, self.recalled, self.missed, self.late)
        return BounceScores(*(count.sum(0, keepdim=True) for count in counts))


def reversals(position: Tensor, *, gravity: bool = False) -> Tensor:
    """Find the steps in which bodies turn back.

    A step is the way from one frame to the next. The step that holds the bounce goes partly there and partly back, so
    of the steps between those of the old direction and those of the new one, both included, it is the shortest.

    Args:
        position: (B, T, K, 2) px; NaN where not found, and nothing is concluded across a gap.
        gravity: whether the world has it; then a turn from up to down is none.

    Returns:
        (B, T, K) bool, at the frame that ends the step; never at the first.
    """
    step = position.diff(dim=1)  # (B, T - 1, K, 2)
    turned = torch.zeros(position.shape, dtype=torch.bool, device=position.device)
    direction = torch.zeros_like(position[:, 0])  # (B, K, 2), of the last step that had one, 0 if none
    shortest = torch.full_like(direction, torch.inf)  # since then, that step included
    where = torch.zeros_like(direction, dtype=torch.long)
    for frame, way in enumerate(step.unbind(1), start=1):
        length, sign = way.abs(), torch.where(way.abs() >= LEAST_STEP, way.sign(), 0)
        closer = length < shortest
        shortest, where = torch.where(closer, length, shortest), torch.where(closer, frame, where)
        turn = sign * direction < 0
        if gravity:
            turn[..., 1] &= direction[..., 1] > 0
        turned.scatter_(1, where[:, None], turned.gather(1, where[:, None]) | turn[:, None])
        moves, lost = sign != 0, way.isnan()
        shortest, where = torch.where(moves, length, shortest), torch.where(moves, frame, where)
        direction = torch.where(lost, 0, torch.where(moves, sign, direction))
        shortest = torch.where(lost, torch.inf, shortest)
    return turned.any(-1)


def true_reversals(position: Tensor, velocity: Tensor, *, bounces: Tensor, gravity: bool = False) -> Tensor:
    """Which true bounces turn a body back on an axis, fast enough to be seen, by the end of the clip.

    Args:
        position: (B, T, K, 2) px, exact.
        velocity: (B, T, K, 2) in any unit, exact.
        bounces: (B, T, K) since the frame before.
        gravity: as for `reversals`.

    Returns:
        (B, T, K) bool, never at the first frame.
    """
    step = position.diff(dim=1)
    # The ways that lead up to the bounce and away from it; after the last frame nothing is seen but its own step.
    before = torch.cat([torch.full_like(step[:, :1], torch.nan), step[:, :-1]], dim=1)
    after = torch.cat([step[:, 1:], step[:, -1:]], dim=1)
    turn = (velocity[:, 1:] * velocity[:, :-1] < 0) & (before * after < 0)
    turn &= torch.minimum(before.abs(), after.abs()) >= LEAST_STEP
    if gravity:
        turn[..., 1] &= velocity[:, :-1, :, 1] > 0
    turn = turn.any(-1) & (bounces[:, 1:] > 0)
    return torch.cat([torch.zeros_like(turn[:, :1]), turn], dim=1)


def score_bounces(
    tracks: Tracks, truth: Tensor, velocity: Tensor, *, bounces: Tensor, gravity: bool = False
) -> BounceScores:
    """Match the bounces of a video with the true ones, body by body, each with one at most.

    Bounces of the same frame are matched first, then those that are up to `TOLERANCE` frames apart.

    Args:
        tracks: of T frames. The first frame only gives a direction, the second too: `tracking.join` puts given frames
            before the generated ones.
        truth: (B, T, K, 2) px, the true centres.
        velocity: (B, T, K, 2) px per physics step, the true velocities.
        bounces: (B, T, K), true hits since the frame before.
        gravity: whether the world has gravity.

    Raises:
        ValueError: truth of another shape.
    """
    if truth.shape != tracks.position.shape or velocity.shape != truth.shape or bounces.shape != truth.shape[:-1]:
        raise ValueError(
            f"tracks are {tuple(tracks.position.shape)}, true positions {tuple(truth.shape)}, velocities "
            f"{tuple(velocity.shape)}, bounces {tuple(bounces.shape)}; expected one shape, bounces without the last 2"
        )
    seen = reversals(tracks.position, gravity=gravity)
    due = true_reversals(truth, velocity, bounces=bounces, gravity=gravity)
    recalled, free = torch.zeros_like(due), seen.clone()
    matched, late = torch.zeros_like(seen), torch.zeros(seen.shape[1], dtype=torch.float64, device=seen.device)
    hits = bounces > 0
    for candidates in (due, hits):  # what must be found takes its match before what may be
        left = candidates & ~recalled
        for shift in sorted(range(-TOLERANCE, TOLERANCE + 1), key=abs):
            pair = free & _later(left, shift)
            free, left, matched = free & ~pair, left & ~_later(pair, -shift), matched | pair
            recalled |= _later(pair, -shift)
            late += shift * pair.sum((0, 2))
    return BounceScores(
        matched=matched.sum((0, 2)).double(),
        spurious=free.sum((0, 2)).double(),
        recalled=(due & recalled).sum((0, 2)).double(),
        missed=(due & ~recalled).sum((0, 2)).double(),
        late=late,
    )


def _later(events: Tensor, frames: int) -> Tensor:
    """Events (B, T, K) moved to later frames, or to earlier ones; those that leave the clip are gone."""
    moved = events.roll(frames, dims=1)
    if frames > 0:
        moved[:, :frames] = False
    elif frames < 0:
        moved[:, frames:] = False
    return moved
