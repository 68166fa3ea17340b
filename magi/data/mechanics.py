"""Mechanics of discs: flight under gravity, elastic walls, elastic collisions.

Flight and walls are exact. Discs that overlap after a substep get the impulse of an elastic collision and are moved
apart about their common centre of mass, so that momentum, kinetic and potential energy are kept to rounding.

Everything is elementwise float64: addition, multiplication, division and square root round the same way everywhere, so
a scene moves the same, bit for bit, in any batch. Knows nothing of colours, frames or seeds.

Shapes: B scenes, K bodies, P pairs of bodies. A body of radius 0 is absent: it stays at the origin and touches nothing.
Lengths are in pixels, y points down, times are in physics steps and a disc weighs its radius squared.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SUBSTEPS = 4  # per step: at 4 px per step two discs sink into each other by 2 px at most before they are seen to touch


class Bodies:
    """Discs in flight: state and mechanics of B scenes at once."""

    def __init__(self, position: Floats, velocity: Floats, radius: Floats, *, size: int, gravity: float) -> None:
        self.position = position.copy()  # (B, K, 2)
        self.velocity = velocity.copy()  # (B, K, 2)
        self.bounces = np.zeros(radius.shape, dtype=np.int64)  # (B, K), since the start
        self.mass = radius * radius  # (B, K)
        present = radius > 0
        self.gravity = gravity * present  # (B, K), px / step^2
        self.low = radius[..., None]  # (B, K, 1) where a centre meets the left and top wall
        self.high = np.where(present, size - radius, 0)[..., None]
        self.first, self.second = np.triu_indices(radius.shape[1], 1)  # (P,) each
        both = present[:, self.first] & present[:, self.second]
        # (B, P) distance at which a pair touches
        self.reach = np.where(both, radius[:, self.first] + radius[:, self.second], 0)

    def steer(self, push: Floats, *, limit: float) -> None:
        """Add `push` (B, 2) to the velocity of body 0, but never make it faster than `limit`."""
        before = self.velocity[:, 0]
        after = before + push
        # A collision may have made it faster already, and that is not for steering to undo.
        allowed = np.maximum(length(before), limit)
        self.velocity[:, 0] = after * (allowed / np.maximum(length(after), allowed))[:, None]

    def advance(self) -> None:
        """Take one physics step."""
        duration = 1 / SUBSTEPS
        for _ in range(SUBSTEPS):
            self.position += duration * self.velocity
            self.position[..., 1] += (0.5 * duration * duration) * self.gravity
            self.velocity[..., 1] += duration * self.gravity
            self._collide()
            self._reflect()

    def _collide(self) -> None:
        offset = self.position[:, self.second] - self.position[:, self.first]  # (B, P, 2)
        overlapping = length(offset) < self.reach
        for pair in np.flatnonzero(overlapping.any(axis=0)):
            rows = np.flatnonzero(overlapping[:, pair])
            self._bounce_pair(rows, pair=int(pair))

    def _bounce_pair(self, rows: NDArray[np.intp], *, pair: int) -> None:
        one, two = (rows, self.first[pair]), (rows, self.second[pair])
        offset = self.position[two] - self.position[one]  # (rows, 2)
        distance = np.maximum(length(offset), 1e-9)
        normal = offset / distance[:, None]
        share_one = self.mass[one] / (self.mass[one] + self.mass[two])
        # An earlier pair of the same substep may have moved them apart already.
        depth = np.maximum(self.reach[rows, pair] - distance, 0)
        self.position[one] -= ((1 - share_one) * depth)[:, None] * normal
        self.position[two] += (share_one * depth)[:, None] * normal
        relative = self.velocity[one] - self.velocity[two]
        closing = relative[:, 0] * normal[:, 0] + relative[:, 1] * normal[:, 1]
        hit = (closing > 0) & (depth > 0)
        change = 2 * np.where(hit, closing, 0)
        self.velocity[one] -= ((1 - share_one) * change)[:, None] * normal
        self.velocity[two] += (share_one * change)[:, None] * normal
        self.bounces[one] += hit
        self.bounces[two] += hit

    def _reflect(self) -> None:
        for side, wall in ((-1, self.low), (1, self.high)):
            depth = side * (self.position - wall)  # (B, K, 2), how far beyond the wall
            if not (depth > 0).any():
                continue
            outward = side * self.velocity
            pull = np.zeros_like(depth)  # acceleration towards the wall
            pull[..., 1] = side * self.gravity
            # The speed at the wall, the time since, and a flight back of that time: energy is kept exactly.
            # A body that another pushed into the wall while it was leaving starts from the wall.
            at_wall = np.sqrt(np.maximum(outward * outward - 2 * pull * depth, 0))
            hit = (depth > 0) & (outward > 0)
            since = np.where(hit, 2 * depth / np.where(hit, outward + at_wall, 1), 0)
            back = at_wall * since - 0.5 * pull * since * since
            self.position = np.where(depth > 0, wall - side * back, self.position)
            self.velocity = np.where(depth > 0, -side * (at_wall - pull * since), self.velocity)
            self.bounces += hit[..., 0].astype(np.int64) + hit[..., 1]


def length(vectors: Floats) -> Floats:
    """Return the lengths of two-dimensional vectors (..., 2)."""
    return np.sqrt(vectors[..., 0] * vectors[..., 0] + vectors[..., 1] * vectors[..., 1])
