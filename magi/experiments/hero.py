"""The moving picture at the top of the README: the first clips of the frozen test, none of them selected.

    python -m magi.experiments.hero         # writes docs/figures/world64.gif with the shipped model

Two clips beside each other, of each what happened and what the model made of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from magi.evaluation.world import CONTEXT, world_test
from magi.report.panels import Panel, side_by_side, to_frames
from magi.sampling.release import Release, load
from magi.sampling.video import generate
from magi.video import Frames, write_gif

MADE, CLIPS = 16, 4


def continuations(release: Release, *, clips: int = CLIPS, made: int = MADE) -> Frames:
    """What happened and what the model made of it, a clip per row of two: (T, H, W, 3) uint8."""
    truth = world_test(1, clips=clips).video[:, : CONTEXT + made]
    frames = generate(release, truth[:, :CONTEXT], num_frames=made, seeds=range(clips), interval=1)
    video = torch.cat([truth[:, :CONTEXT], torch.stack(list(frames), dim=1).cpu()], dim=1)
    pairs = [
        side_by_side(
            [
                Panel("what happened", to_frames(truth[clip]), given=CONTEXT),
                Panel("MAGI", to_frames(video[clip]), given=CONTEXT, made=True),
            ]
        )
        for clip in range(clips)
    ]
    rows = [np.concatenate(pairs[row : row + 2], axis=2) for row in range(0, clips, 2)]  # two clips beside each other
    return np.concatenate(rows, axis=1)


def main() -> None:
    """Write the picture."""
    path = Path("docs/figures/world64.gif")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gif(path, continuations(load("world64")), fps=6)
    print(path)


if __name__ == "__main__":
    main()
