"""A study as it is kept: what was asked, what came out, in tables, curves and films that a page can draw.

Results files are these records in JSON. Whoever measures writes them, whoever draws reads them, and neither knows the
other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["held", "did not hold", "undecided", "measured"]
"""Of a claim of the paper; `measured` where there is none to judge."""


@dataclass(frozen=True)
class Table:
    """Numbers with their uncertainty, as text."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Series:
    """One line of a plot."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    """The band of 95 %, if there is one."""


@dataclass(frozen=True)
class Curves:
    """One plot."""

    caption: str
    x: str
    y: str
    series: Sequence[Series]
    log: Literal["", "x", "y", "xy"] = ""


@dataclass(frozen=True)
class Film:
    """A video beside the results file."""

    caption: str
    file: str
    """Its path, relative to the results file."""


@dataclass(frozen=True)
class Study:
    """One question and its answer."""

    name: str
    title: str
    question: str
    claim: str
    """What the paper says and where; empty if nothing."""
    verdict: Verdict
    answer: str
    """One or two sentences, with the numbers and their uncertainty."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """Every choice that moves the numbers, by name."""
    tables: Sequence[Table] = ()
    curves: Sequence[Curves] = ()
    films: Sequence[Film] = ()
    notes: Sequence[str] = ()
    command: str = ""
    machine: str = ""
    date: str = ""
