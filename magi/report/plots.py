"""The curves of a study as SVG: lines with bands, told apart without colour, and the key to them below.

Which line looks how is decided once for all plots of a study, so that a name means the same in each. Drawn by
Matplotlib; colours come from the page.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from magi.report.figures import INKS, inline
from magi.report.page import Html, figure, join, markup
from magi.report.studies import Curves

COLOURS = 6
SERIES: dict[str, str] = {f"series-{number}": f"#0a0b{number:02x}" for number in range(1, COLOURS + 1)}
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (7, 2, 1.5, 2), (2.5, 1), (9, 3))  # in line widths
MARKERS = ("o", "s", "^", "D", "v", "x")
FEW = 24  # points up to which each gets a mark
MARKS = 8  # on a line of more points


@dataclass(frozen=True)
class Look:
    """How one line is drawn: the first six differ in each of the three, the first 36 in dashes or marker."""

    colour: str
    dashes: tuple[float, ...]
    marker: str


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name, by the order in which they come first."""
    order = list(dict.fromkeys(names))
    return {
        name: Look(
            f"series-{index % COLOURS + 1}",
            DASHES[index % COLOURS],
            MARKERS[(index + index // COLOURS) % COLOURS],
        )
        for index, name in enumerate(order)
    }


def plot(curves: Curves, look: Mapping[str, Look]) -> Html:
    """One plot with its caption and its key; `look` has every name of a line in it."""
    keys = join(Html(f"<li>{_key(look[line.name])}<span>{markup(line.name)}</span></li>") for line in curves.series)
    named = Html(f'<ul class="keys">{keys}</ul>') if curves.series else Html("")
    return figure(Html(drawing(curves, look) + named), curves.caption, kind="chart")


def drawing(curves: Curves, look: Mapping[str, Look]) -> Html:
    """The plot alone. Text is taken as it is: a dollar sign begins no formula."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {  # the stubs list every name there is
        "svg.fonttype": "none", "svg.hashsalt": "magi", "font.size": 10, "axes.linewidth": 0.6,
        "text.parse_math": False, "axes.formatter.useoffset": False,
    }  # fmt: skip
    with rc_context(settings):
        drawn = Figure(figsize=(4.1, 2.8), layout="constrained")
        axes = drawn.subplots()
        axes.set_xscale("log" if "x" in curves.log else "linear")
        axes.set_yscale("log" if "y" in curves.log else "linear")
        for line in curves.series:
            _draw(axes, line.x, line.y, look[line.name])
            if line.low is not None and line.high is not None:
                ink = SERIES[look[line.name].colour]
                axes.fill_between(line.x, line.low, line.high, color=ink, alpha=0.16, linewidth=0)
        _furnish(axes, curves)
        written = io.StringIO()
        drawn.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    label = f"{curves.caption}: {curves.y} against {curves.x}"
    return inline(written.getvalue(), label=label, inks={**INKS, **SERIES})


def _draw(axes: Any, x: Sequence[float], y: Sequence[float], look: Look) -> None:
    ink = SERIES[look.colour]
    axes.plot(
        x, y, color=ink, linewidth=1.6, linestyle=(0, look.dashes) if look.dashes else "-",
        marker=look.marker, markersize=4, markevery=1 if len(x) <= FEW else max(1, len(x) // MARKS), clip_on=False,
    )  # fmt: skip


def _furnish(axes: Any, curves: Curves) -> None:
    """Axes, grid and words around the lines."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if name in curves.log:
            values = [value for line in curves.series for value in getattr(line, name)]
            wide = bool(values) and max(values) / min(values) >= 100
            axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
            axis.set_minor_formatter(NullFormatter())
        else:
            whole = all(float(value).is_integer() for line in curves.series for value in getattr(line, name))
            axis.set_major_locator(MaxNLocator(nbins=5, integer=whole, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _place: tick(value)))
    axes.set_xlabel(curves.x, color=INKS["muted"])
    axes.set_title(curves.y, color=INKS["ink"], fontsize=11, loc="left", pad=8)
    axes.grid(axis="y", color=INKS["line"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelcolor=INKS["muted"])
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(INKS["line"])


def tick(value: float) -> str:
    """A number at an axis: 0.3, 1,500 or 2e-06."""
    return f"{value:,.10g}" if value == 0 or 1e-4 <= abs(value) < 1e7 else f"{value:.3g}"


_MARKS = {
    "o": '<circle cx="20" cy="6" r="3"/>',
    "s": '<rect x="17" y="3" width="6" height="6"/>',
    "^": '<path d="M20 2 L23.5 9 L16.5 9 Z"/>',
    "D": '<path d="M20 2 L24 6 L20 10 L16 6 Z"/>',
    "v": '<path d="M20 10 L23.5 3 L16.5 3 Z"/>',
    "x": '<path d="M17 3 L23 9 M17 9 L23 3"/>',
}


def _key(look: Look) -> Html:
    """A piece of the line as it is in the plot."""
    dashes = f' stroke-dasharray="{" ".join(f"{1.8 * length:g}" for length in look.dashes)}"' if look.dashes else ""
    ink = f"var(--{look.colour})"
    return Html(
        f'<svg viewBox="0 0 40 12" aria-hidden="true"><g stroke="{ink}" fill="{ink}">'
        f'<path d="M0 6 H40" stroke-width="1.8"{dashes}/>{_MARKS[look.marker]}</g></svg>'
    )
