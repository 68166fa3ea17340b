"""A player who keeps moving: explores, turns where the way is blocked, opens doors, shoots now and then.

What it does is a function of its random numbers and of what it sees. Knows buttons and distances; nothing of the
engine.

``K`` buttons, ``H`` x ``W`` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BUTTONS = (
    "MOVE_FORWARD", "MOVE_BACKWARD", "MOVE_LEFT", "MOVE_RIGHT", "TURN_LEFT", "TURN_RIGHT", "ATTACK", "USE",
)  # fmt: skip
"""What an action holds down or not, by the engine's names."""

Action = NDArray[np.uint8]  # (K,) 0 or 1


@dataclass(frozen=True)
class View:
    """What there is at the moment of a frame."""

    picture: NDArray[np.uint8]  # (H, W, 3) RGB, as the engine renders it
    depth: NDArray[np.uint8]  # (H, W), larger is farther; the engine's own scale
    position: tuple[float, float, float]  # x, y and height, in the level's units
    angle: float  # degrees, against the clock, 0 is along x
    health: float


class Player(Protocol):
    """Whoever holds the buttons."""

    def act(self, view: View) -> Action:
        """Return the buttons (K,) held from this frame to the next."""
        ...


def pressing(*names: str) -> Action:
    """The action that holds these buttons."""
    unknown = sorted(set(names) - set(BUTTONS))
    if unknown:
        raise ValueError(f"unknown buttons {', '.join(unknown)}; there are {', '.join(BUTTONS)}")
    return np.array([name in names for name in BUTTONS], dtype=np.uint8)


# What it sets out to do, how often, and for how many tics of 1/35 s: (buttons, share, shortest, longest).
PLANS: tuple[tuple[tuple[str, ...], float, int, int], ...] = (
    (("MOVE_FORWARD",), 0.40, 16, 60),
    (("MOVE_FORWARD", "TURN_LEFT"), 0.12, 8, 24),
    (("MOVE_FORWARD", "TURN_RIGHT"), 0.12, 8, 24),
    (("TURN_LEFT",), 0.08, 8, 24),
    (("TURN_RIGHT",), 0.08, 8, 24),
    (("MOVE_LEFT",), 0.05, 8, 24),
    (("MOVE_RIGHT",), 0.05, 8, 24),
    (("MOVE_FORWARD", "MOVE_LEFT"), 0.04, 8, 24),
    (("MOVE_FORWARD", "MOVE_RIGHT"), 0.04, 8, 24),
    (("MOVE_BACKWARD",), 0.02, 8, 20),
)
MOVES = ("MOVE_FORWARD", "MOVE_BACKWARD", "MOVE_LEFT", "MOVE_RIGHT")
ATTACK_SHARE = 0.12  # of plans that begin with shooting
ATTACK_TICS = (4, 16)
NEAR, CLEAR = 12, 24  # depth ahead, of about 7 units, below which it turns, and up to which it then goes on turning
BLOCKED = 1.0  # units in a tic that are no motion; walking makes about 8
TURNABOUT_TICS = (12, 40)  # how long it turns where it is stuck; 12 are about 30 degrees, 40 are 130


class Explorer:
    """The player of recorded episodes."""

    def __init__(self, random: np.random.Generator, *, tics: int) -> None:
        """Make one who decides by `random` and sees a frame every `tics` tics."""
        self._random = random
        self._tics = tics
        self._held: tuple[str, ...] = ()
        self._left = 0  # frames until the next plan
        self._shots = 0  # frames of shooting left
        self._turning: str | None = None  # away from a wall, until the way is clear
        self._before: tuple[float, float] | None = None  # where it was when it began to walk into this frame

    def act(self, view: View) -> Action:
        """Return the buttons (K,) held from this frame to the next."""
        stuck = self._is_stuck(view)
        left, ahead, right = clearance(view.depth)
        buttons: tuple[str, ...]
        if stuck and self._turning is None:
            buttons = self._turn_about("USE")  # what it is stuck at may be a door
        elif self._turning is not None and ahead < CLEAR:
            buttons = (self._turning,)
        elif ahead < NEAR and "MOVE_FORWARD" in self._held:
            self._turning = "TURN_LEFT" if left > right else "TURN_RIGHT"
            buttons = (self._turning,)
        else:
            self._turning = None
            if self._left == 0:
                self._plan()
            self._left -= 1
            buttons = self._held
        if self._shots:
            self._shots -= 1
            buttons = (*buttons, "ATTACK")
        self._before = view.position[:2] if set(buttons) & set(MOVES) else None
        return pressing(*buttons)

    def _is_stuck(self, view: View) -> bool:
        if self._before is None:
            return False
        moved = np.hypot(view.position[0] - self._before[0], view.position[1] - self._before[1])
        return bool(moved < BLOCKED * self._tics)

    def _plan(self) -> None:
        names, shares, shortest, longest = zip(*PLANS, strict=True)
        chosen = int(self._random.choice(len(PLANS), p=shares))
        self._held = names[chosen]
        self._left = self._frames(shortest[chosen], longest[chosen])
        if self._random.random() < ATTACK_SHARE:
            self._shots = self._frames(*ATTACK_TICS)

    def _turn_about(self, button: str) -> tuple[str, ...]:
        side = "TURN_LEFT" if self._random.random() < 0.5 else "TURN_RIGHT"
        self._held, self._left = (side,), self._frames(*TURNABOUT_TICS)
        return (button,)

    def _frames(self, shortest: int, longest: int) -> int:
        return -(-int(self._random.integers(shortest, longest + 1)) // self._tics)


def clearance(depth: NDArray[np.uint8]) -> tuple[int, int, int]:
    """How far it is to the left, ahead and to the right, by a depth picture (H, W), at the height of the knees.

    Of each third the nearest tenth counts: a pillar is in the way, a lamp in the distance is not.
    """
    height, width = depth.shape
    band = depth[height // 2 : height * 5 // 8]
    parts = (band[:, width * start // 8 : width * stop // 8].ravel() for start, stop in ((0, 3), (3, 5), (5, 8)))
    left, ahead, right = (int(np.partition(part, part.size // 10)[part.size // 10]) for part in parts)
    return left, ahead, right
