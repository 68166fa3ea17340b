"""What becomes of a benchmark's report: a table for people, beside an earlier one if there is one, and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from magi.bench.compare import Earlier, ratios, told_likeness
from magi.bench.measure import METHOD
from magi.bench.rows import Row
from magi.report.console import table

HEADER = ("", "median", "min - max", "")
WORDS = (0, 2, 3)  # columns of text


def publish(report: Mapping[str, Any], text: str, *, json_path: Path | None) -> None:
    """Print a report's text and save its numbers."""
    print(text)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def described(
    report: Mapping[str, Any],
    rows: Sequence[Row],
    earlier: Earlier | None,
    *,
    header: tuple[str, ...] = HEADER,
    words: Collection[int] = WORDS,
) -> str:
    """The report for people: what it was measured on and how, and a table.

    Beside an earlier run, a column of the ratios follows the first, and a line says what was not alike.
    """
    lines = ["  ".join(f"{name} {value}" for name, value in report["machine"].items()), METHOD]
    if report.get("effort", {}).get("quick"):
        lines.append("quick: these numbers only prove that everything runs")
    cells = [header, *(row.cells for row in rows)]
    if earlier is None:
        return "\n".join([*lines, table(cells, words=words)])
    old = {row.key: row.figures for row in earlier.rows}
    column = ["new / old", *(ratios(row.figures, old.get(row.key, ())) for row in rows)]
    beside = [(line[0], ratio, *line[1:]) for line, ratio in zip(cells, column, strict=True)]
    return "\n".join(
        [*lines, told_likeness(report, earlier), table(beside, words=[word + (word > 0) for word in words])]
    )
