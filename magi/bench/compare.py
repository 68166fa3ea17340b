"""An earlier run of the same benchmark beside a new one: ratios of all shared figures, and what was not alike.

Knows reports as they were saved; not what they measure. A ratio is new over old: of times more is slower, of rates more
is faster.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magi.bench.rows import Row
from magi.checkpoint import compare_configs

PASSING = ("date", "load_before")  # of a machine, what is never the same twice
Rows = Callable[[Mapping[str, Any]], Iterable[Row]]


@dataclass(frozen=True)
class Earlier:
    """A report from a file, and its lines."""

    path: Path
    report: Mapping[str, Any]
    rows: Sequence[Row]


def read_earlier(path: Path | None, *, section: str, rows: Rows) -> Earlier | None:
    """Read what `--json` of the same benchmark wrote; None where there is no path.

    Args:
        path: of the file.
        section: that every report of this benchmark has.
        rows: makes its lines.

    Raises:
        ValueError: the file is something else.
        OSError: it cannot be read.
    """
    if path is None:
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--compare {path}: not JSON ({error}); give a file that --json wrote") from None
    if not isinstance(report, dict) or section not in report:
        raise ValueError(f"--compare {path}: has no {section!r}; give a file that --json of this benchmark wrote")
    try:
        return Earlier(path, report, list(rows(report)))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"--compare {path}: not laid out as this benchmark's results ({error!r}); measure it again"
        ) from None


def ratios(new: Sequence[float], old: Sequence[float]) -> str:
    """New over old, figure by figure; nothing where there are not as many of both."""
    if len(new) != len(old):
        return ""
    return ", ".join(f"{a / b:.3g}" if b else ("1" if a == b else "-") for a, b in zip(new, old, strict=True))


def differences(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """What of machine, model, settings and effort is not the same, as `name old, now new`."""
    new = json.loads(json.dumps(new))  # as it will be read again: lists for tuples
    found = []
    for section in ("machine", "model", "settings"):
        before, after = ({k: v for k, v in r.get(section, {}).items() if k not in PASSING} for r in (old, new))
        found += compare_configs(before, after)
    quick = [report.get("effort", {}).get("quick", False) for report in (old, new)]
    return found + ([f"quick: {quick[0]} -> {quick[1]}"] if quick[0] != quick[1] else [])


def told_likeness(new: Mapping[str, Any], earlier: Earlier) -> str:
    """A line that says how much the ratios mean."""
    unlike = differences(new, earlier.report)
    if not unlike:
        return f"new / old: beside {earlier.path}, of the same machine, threads, torch and model"
    listed = "; ".join(unlike)
    return f"new / old: beside {earlier.path}; ratios of absolute times say little, for not alike are {listed}"
