"""What a tokenizer's training is told with: curves while it learned, and clips beside what is left of them.

Draws what it is handed. Shapes: N clips, T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from einops import rearrange
from torch import Tensor

from magi import __version__
from magi.report import page as html
from magi.report.figures import Curve, chart
from magi.report.films import png
from magi.report.page import Html, figure, section
from magi.report.panels import BACKGROUND, to_frames
from magi.video import Frames

SHOWN = 9  # frames of a clip that fit on a line
GAP = 2  # px between pictures
WIDEST = 960  # px of the page, up to which small pictures are enlarged
Points = Sequence[tuple[int, float]]  # (clips seen, value)


@dataclass(frozen=True)
class Reconstructions:
    """A trained tokenizer's record."""

    title: str
    lead: str  # what it is and what it was trained on
    facts: Sequence[tuple[str, str]]  # value, meaning
    curves: Mapping[str, Points]  # by what is measured
    by_frame: Tensor  # (T,) mean PSNR in dB of each frame of a clip
    truth: Tensor  # (N, T, 3, H, W) uint8
    shown: Tensor  # (N, T, 3, H, W) uint8, after encoding and decoding


def tokenizer_page(record: Reconstructions) -> Html:
    """The whole page."""
    learning = [
        figure(
            chart([Curve("model", [clips for clips, _ in points], [value for _, value in points])],
                  x_label="clips seen", y_label=name), kind="chart",
        )
        for name, points in record.curves.items() if points
    ]  # fmt: skip
    frames = chart(
        [Curve("model", range(1, len(record.by_frame) + 1), record.by_frame.tolist())],
        x_label="frame of the clip", y_label="PSNR at the end, dB",
    )  # fmt: skip
    words = (
        "Of each pair of lines the upper is the clip, the lower what is decoded from its latents. These clips were not "
        "trained on; of a folder of videos they are other clips of the same videos."
    )
    pairs = [picture(truth, shown) for truth, shown in zip(record.truth, record.shown, strict=True)]
    return html.page(
        record.title,
        html.opening(record.title, record.lead, record.facts),
        section("While it learned", html.gallery([*learning, figure(frames, kind="chart")], narrowest=300)),
        section("Clips and what is left of them", words, *pairs),
        footer=f"Made by `magi tokenizer train`, version {__version__}. Everything is in this one file.",
    )


def picture(truth: Tensor, shown: Tensor) -> Html:
    """Two clips (T, 3, H, W) uint8, one above the other, at most `SHOWN` frames spread over their length."""
    count = min(SHOWN, len(truth))
    chosen = np.linspace(0, len(truth) - 1, count).round().astype(int)
    both = np.stack([to_frames(truth)[chosen], to_frames(shown)[chosen]])
    whole = with_gaps(both)
    height, width = whole.shape[:2]
    scale = max(1, WIDEST // width)
    names = ", ".join(str(frame + 1) for frame in chosen)
    return figure(
        html.image(png(whole), label="a clip above its reconstruction", size=(width * scale, height * scale)),
        f"frames {names}",
    )


def with_gaps(pictures: Frames) -> Frames:
    """Rows and columns of pictures (rows, columns, H, W, 3) as one picture (H', W', 3)."""
    around = ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0))
    padded = np.stack([
        np.pad(pictures[..., channel], around[:4], constant_values=BACKGROUND[channel]) for channel in range(3)
    ], axis=-1)  # fmt: skip
    return rearrange(padded, "rows columns h w c -> (rows h) (columns w) c")[:-GAP, :-GAP]
