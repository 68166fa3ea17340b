"""The moving picture at the top of the README: the first clips of the frozen test, none of them selected.

    python -m magi.experiments.hero         # writes docs/figures/world64.gif with the shipped model

Two clips beside each other, of each what happened and what the model made of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from magi.evaluation.run import continuations
from magi.evaluation.world import CONTEXT, world_test
from magi.report.panels import continued, happened, side_by_side
from magi.sampling.release import Release, load
from magi.video import Frames, write_gif

MADE, CLIPS = 16, 4


def picture(release: Release, *, clips: int = CLIPS, made: int = MADE) -> Frames:
    """What happened and what the model made of it, a clip per row of two: (T, H, W, 3) uint8."""
    truth = world_test(1, clips=clips).video[:, : CONTEXT + made]
    videos = continuations(release, truth, context=CONTEXT, interval=1, seeds=range(clips))
    pairs = [
        side_by_side([happened(clip, given=CONTEXT), continued("MAGI", clip[:CONTEXT], video)])
        for clip, video in zip(truth, videos, strict=True)
    ]
    rows = [np.concatenate(pairs[row : row + 2], axis=2) for row in range(0, clips, 2)]  # two clips beside each other
    return np.concatenate(rows, axis=1)


def main() -> None:
    """Write the picture."""
    path = Path("docs/figures/world64.gif")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gif(path, picture(load("world64")), fps=6)
    print(path)


if __name__ == "__main__":
    main()
