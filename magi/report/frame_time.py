"""Where a frame's time goes, as a picture: `python -m magi.report.frame_time REPORT.json PICTURE.svg`.

The report is one of `magi bench sampling MODEL --json REPORT.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = {"transformer": "#4878a8", "head": "#e08a3c", "rest": "#b8b8b8"}


def draw(report: Mapping[str, Any], *, batch: int = 1) -> Figure:
    """A bar per way to sample, the slowest on top: milliseconds of a frame in transformer, head and the rest.

    Raises:
        ValueError: the report has no frames of that batch size.
    """
    from matplotlib.figure import Figure  # takes a second, which only a picture is worth

    rows = [row for row in report.get("frame", ()) if row["batch"] == batch]
    if not rows:
        raise ValueError(f"the report has no frames of batch {batch}; magi bench sampling MODEL --json makes one")
    rows.sort(key=lambda row: row["total"]["median"])
    figure = Figure(figsize=(8, 0.6 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = [
        f"{row['mask_steps']} x {row['head_steps']} {row['solver']}{', compiled' if row.get('compiled_head') else ''}"
        for row in rows
    ]
    left = [0.0] * len(rows)
    for part, color in PARTS.items():
        widths = [row[part]["median"] for row in rows]
        axes.barh(names, widths, left=left, color=color, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for y, (row, end) in enumerate(zip(rows, left, strict=True)):
        axes.text(end, y, f" {1e3 / row['total']['median']:.0f} frames/s", va="center", fontsize=8)
    axes.set_xlim(0, 1.15 * max(left))
    axes.set_xlabel("ms per frame, one video")
    axes.set_title(f"{report['model']['name']}: mask steps x denoising steps", fontsize=10)
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main(source: str, target: str) -> None:
    """Draw a report into a file, whose suffix says what kind."""
    figure = draw(json.loads(Path(source).read_text(encoding="utf-8")))
    figure.savefig(target, metadata={"Date": None} if target.endswith(".svg") else None)


if __name__ == "__main__":
    main(*sys.argv[1:])
