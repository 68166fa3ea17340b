"""Figures as SVG text that takes its colours from the page: curves, and the attention mask of Complete Teacher Forcing.

    python -m magi.report.figures           # writes docs/figures/ctf_mask.svg

Curves are drawn by Matplotlib; the mask, which is nothing but squares, by hand.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from magi.evaluation.by_clip import Who
from magi.model.forcing import ctf_mask
from magi.report.page import Html

# Matplotlib takes only real colours, so a role of the style sheet travels through it as one that nobody would choose.
INKS: dict[str, str] = {
    "ink": "#010203", "muted": "#020304", "line": "#030405",
    "model": "#040506", "held": "#050607", "straight": "#060708", "ceiling": "#070809",
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    role: Who
    x: Sequence[float]
    y: Sequence[float]


def chart(
    curves: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[float] | None = None,
    bottom: float | None = None,
    top: float | None = None,
) -> Html:
    """Curves over common axes as inline SVG, without a legend: charts with the same roles share one (`page.legend`)."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "magi", "font.size": 9, "axes.linewidth": 0.6}):
        figure = Figure(figsize=(3.7, 2.5), layout="constrained")
        axes = figure.subplots()
        for curve in sorted(curves, key=lambda curve: curve.role == "model"):  # the model on top
            line, width = ":" if curve.role == "ceiling" else "-", 2.2 if curve.role == "model" else 1.5
            marker = "o" if len(curve.x) == 1 else None  # a line of one point would be invisible
            axes.plot(curve.x, curve.y, line, color=INKS[curve.role], linewidth=width, marker=marker, clip_on=False)
        axes.set_ylim(bottom=bottom, top=top)
        if x_ticks is None:
            axes.locator_params("x", nbins=5)
        else:
            axes.set_xticks(x_ticks)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel(x_label, color=INKS["muted"])
        axes.set_title(y_label, color=INKS["ink"], fontsize=10, loc="left", pad=8)
        axes.grid(axis="y", color=INKS["line"], linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelcolor=INKS["muted"])
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(INKS["line"])
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return inline(written.getvalue(), label=f"{y_label}, {x_label}", inks=INKS)


def inline(svg: str, *, label: str, inks: Mapping[str, str]) -> Html:
    """Matplotlib's file as an element of a page: no prologue, no namespaces, colours of the style sheet.

    Args:
        svg: the file.
        label: what it shows, for those who cannot see it.
        inks: by name in the style sheet, the colours that stand for it.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r' xmlns(:\w+)?="[^"]*"', "", body)
    said = f'role="img" aria-label="{html.escape(label)}"'
    body = re.sub(r'^<svg[^>]*?(viewBox="[^"]*")[^>]*>', lambda found: f"<svg {found[1]} {said}>", body, count=1)
    for name, ink in inks.items():
        body = body.replace(ink, f"var(--{name})")
    return Html(body)


CELL, SQUARE = 30, 27  # px from one square of the mask to the next, and its side
PARTED = 10  # px between the complete frames and the masked ones
LEFT, TOP = 92, 66  # px for the names of rows and columns
MASK_STYLE = """
  .mask { --complete: #2563a8; --masked: #c2570c; --empty: #00000010; --words: #646b75; }
  @media (prefers-color-scheme: dark) {
    .mask { --complete: #74aef0; --masked: #ff9a4a; --empty: #ffffff14; --words: #9aa1ab; }
  }
  .mask text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--words); }
  .mask text.name { font-style: italic; }
"""


def ctf_mask_figure(frames: int = 4) -> Html:
    """Who sees whom in time while training (paper Fig. 3), drawn from the mask that the model uses.

    Rows look at columns: a complete frame is blue, a masked one orange. The last complete frame, at which nobody looks,
    is not computed and not drawn.
    """
    mask, observed = ctf_mask(frames), frames - 1
    starts = [index * CELL + (PARTED if index >= observed else 0) for index in range(len(mask))]
    shapes = []
    for row, y in enumerate(starts):
        for column, x in enumerate(starts):
            seen = "var(--complete)" if column < observed else "var(--masked)"
            fill = seen if mask[row, column] else "var(--empty)"
            place = f'x="{LEFT + x}" y="{TOP + y}" width="{SQUARE}" height="{SQUARE}"'
            shapes.append(f'<rect {place} rx="4" fill="{fill}"/>')
    for index, start in enumerate(starts):
        letter, number = ("x", index + 1) if index < observed else ("x\u0302", index - observed + 1)  # x, x with a hat
        name = f'{letter}<tspan font-size="9" dy="3">{number}</tspan>'
        middle = start + SQUARE / 2
        shapes.append(_words(name, LEFT + middle, TOP - 10, kind="name"))
        shapes.append(_words(name, LEFT - 10, TOP + middle + 3, kind="name", anchor="end"))
    for name, group in (("complete frames", starts[:observed]), ("masked frames", starts[observed:])):
        middle = (group[0] + group[-1] + SQUARE) / 2
        shapes.append(_words(name, LEFT + middle, TOP - 34))
        shapes.append(_words(name, LEFT - 40, TOP + middle, turned=True))
    end = starts[-1] + SQUARE
    shapes.append(_words("each row sees the coloured columns", LEFT + end / 2, 12))
    box = f'viewBox="0 0 {LEFT + end + 8} {TOP + end + 8}"'
    label = "temporal attention mask of Complete Teacher Forcing"
    drawing = "\n".join(shapes)
    return Html(
        f'<svg class="mask" {box} role="img" aria-label="{label}">\n<style>{MASK_STYLE}</style>\n{drawing}\n</svg>'
    )


def _words(words: str, x: float, y: float, *, kind: str = "", anchor: str = "middle", turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:g} {y:g})"' if turned else ""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}"{turn}>{words}</text>'


def standalone(figure: Html) -> str:
    """An inline figure as a file of its own, which unlike a page has to say that it is SVG."""
    return figure.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def main() -> None:
    """Write the figures of the documentation."""
    path = Path("docs/figures/ctf_mask.svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(standalone(ctf_mask_figure()), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
