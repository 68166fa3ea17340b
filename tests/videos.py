"""Videos for the tests, written as other programs write them. ``T`` frames, ``H`` x ``W`` pixels."""

from __future__ import annotations

import numpy as np

from magi.selftest.clips import encode, moving
from magi.video import Frames

__all__ = ["encode", "moving", "stamped", "stamps"]


def stamped(num_frames: int, height: int = 32, width: int = 48) -> Frames:
    """Frames (T, H, W, 3) whose left half tells their index by its grey; noise in the right half gives them weight."""
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    frames[:, :, : width // 2] = 8 + 4 * np.arange(num_frames)[:, None, None, None]
    return frames


def stamps(frames: Frames) -> list[int]:
    """Read the indices off again."""
    return [round((float(frame[4:-4, 4 : frame.shape[1] // 2 - 4].mean()) - 8) / 4) for frame in frames]
