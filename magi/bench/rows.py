"""The lines of a benchmark's table: what people read, and the figures behind it, for another run to be set beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A line; its figures are compared with those of the line of the same key."""

    cells: tuple[str, ...]
    key: str = ""
    figures: tuple[float, ...] = ()


def measured(title: str, summary: Mapping[str, float], note: str = "", *, key: str = "") -> Row:
    """A line of one measured quantity: median, range, and a note; the title is the key unless another is given."""
    cells = (title, f"{summary['median']:,.4g}", f"{summary['min']:,.4g} - {summary['max']:,.4g}", note)
    return Row(cells, key or title, (summary["median"],))
