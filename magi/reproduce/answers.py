"""How numbers become words, curves and films of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from magi.evaluation.uncertainty import Interval
from magi.report.films import animated_webp
from magi.report.panels import Panel, side_by_side, to_frames
from magi.report.studies import Film, Series, Verdict
from magi.reproduce.workshop import Workshop

FPS = 6
ROWS = 3  # clips in a film


def number(values: Sequence[float], interval: Interval | None) -> str:
    """The mean of values with its interval, as text: ``0.81 (0.74 to 0.88)``."""
    mean = sum(values) / len(values)
    digits = 3 if abs(mean) < 1 else 2 if abs(mean) < 10 else 1
    text = f"{mean:.{digits}f}"
    return text if interval is None else f"{text} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"


def judge(interval: Interval | None, limit: float) -> Verdict:
    """Of a claim that something is at most `limit`: by the whole interval, on the one side or the other."""
    if interval is None:
        return "undecided"
    if interval.high <= limit:
        return "held"
    return "did not hold" if interval.low > limit else "undecided"


def by_frame(values: Tensor) -> tuple[list[float], list[float]]:
    """Numbers (F,) by frame, counted from 1, as x and y of a curve."""
    return [float(frame) for frame in range(1, len(values) + 1)], values.tolist()


def film(workshop: Workshop, name: str, columns: Mapping[str, Tensor], *, given: int, caption: str) -> Film:
    """Write clips side by side as `RESULTS/films/NAME.webp`, a clip per row.

    Args:
        workshop: says where results go.
        name: of the file.
        columns: by name, (>= ROWS, T, 3, S, S) uint8; the one called ``truth`` was not made by a model.
        given: frames at the beginning that models were given.
        caption: what a reader sees.
    """
    rows = []
    for row in range(min(ROWS, *(len(clips) for clips in columns.values()))):
        panels = [
            Panel(title, to_frames(clips[row]), given=given, made=title != "truth") for title, clips in columns.items()
        ]
        rows.append(side_by_side(panels))
    path = workshop.results / "films" / f"{name}.webp"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(animated_webp(np.concatenate(rows, axis=1), fps=FPS))
    return Film(caption, path.relative_to(workshop.results).as_posix())


def ranged(name: str, curves: Sequence[Tensor]) -> Series:
    """Curves (F,) of several seeds as one with their range; a single one has none."""
    mean, low, high = mean_over(curves)
    x, y = by_frame(mean)
    return Series(name, x, y, low, high) if len(curves) > 1 else Series(name, x, y)


def mean_over(curves: Sequence[Tensor]) -> tuple[Tensor, list[float], list[float]]:
    """Mean, smallest and largest of curves (F,) of several seeds."""
    stacked = torch.stack(list(curves))
    return stacked.mean(0), stacked.amin(0).tolist(), stacked.amax(0).tolist()
