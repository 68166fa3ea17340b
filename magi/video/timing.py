"""When frames are shown: time stamps, the nominal rate, and frames at a fixed interval. Knows no file.

A video of variable frame rate is treated as if resampled to its nominal rate, each tick showing the frame nearest in
time. So "interval k" means k nominal frame periods everywhere, and in a video of constant rate tick i is frame i.

``T`` frames, ``N`` ticks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DEFAULT_FPS = 25.0  # of frame folders, and of files that name no rate


def believable_times(stamps: Sequence[float | None], fps: float) -> NDArray[np.float64]:
    """Return the times (T,) from 0 that these time stamps stand for, or those of a constant rate if they make no sense.

    In AVI the stamps of reordered frames (B-frames) come out as 1, 4, 3, 5, 2: the order of frames is right, not they.
    """
    if not believable(stamps):
        return np.arange(len(stamps)) / fps
    times = np.asarray(stamps, dtype=np.float64)
    return times - times[0]


def believable(stamps: Sequence[float | None]) -> bool:
    """Whether there are at least two stamps, none is missing, and they increase without absurd gaps."""
    if any(stamp is None for stamp in stamps) or len(stamps) < 2:
        return False
    gaps = np.diff(np.asarray(stamps, dtype=np.float64))
    # A broken stamp hours away would otherwise stand for millions of ticks.
    return bool((gaps > 0).all() and gaps.sum() <= 100 * len(gaps) * np.median(gaps))


def nominal_period(times: NDArray[np.float64]) -> float:
    """Return the frame period in seconds: the mean of the gaps that are within half of their median.

    The median alone would drift: at 30 frames a second webm rounds its gaps to 33 or 34 ms, GIF to 30 or 40.
    """
    if len(times) < 2:
        return 1 / DEFAULT_FPS
    gaps = np.diff(times)
    median = np.quantile(gaps, 0.5, method="lower")  # one of the gaps, so that some gap is near it
    return float(gaps[np.abs(gaps - median) <= median / 2].mean())


def ticks(times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each tick of the nominal rate the index (N,) of the frame nearest in time."""
    period = nominal_period(times)
    grid = np.arange(round(times[-1] / period) + 1) * period
    midpoints = (times[:-1] + times[1:]) / 2
    return np.searchsorted(midpoints, grid)


def clip_indices(times: NDArray[np.float64], *, start: int, interval: int, count: int) -> NDArray[np.int64]:
    """Return the indices (count,) of the frames at the ticks start, start + interval, ...

    Raises:
        ValueError: the video has too few ticks.
    """
    shown = ticks(times)
    last = start + (count - 1) * interval
    if start < 0 or interval < 1 or count < 1 or last >= len(shown):
        raise ValueError(f"{count} frames at interval {interval} from frame {start} do not fit into {len(shown)}")
    return shown[start : last + 1 : interval]
