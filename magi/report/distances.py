"""What `magi evaluate --protocol --json` wrote, as a study: the protocol, the distance of every run, and its growth.

Knows the record's names. Nothing is measured again; only the interval over runs is computed from what they found.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from magi.evaluation.uncertainty import over_seeds
from magi.report.studies import Curves, Series, Study, Table

NAMES = ("magi", "model", "protocol", "runs")
"""What such a record has at least."""
COLUMNS = (
    "",
    "distance",
    "95 % over clips",
    "bias of so few clips",
    "kernel distance",
    "real clips",
    "generated clips",
)


def is_distances(record: Mapping[str, Any]) -> bool:
    """Whether the content of a JSON file is a record of `magi evaluate --protocol`."""
    return set(NAMES) <= record.keys()


def distance_study(record: Mapping[str, Any], path: Path) -> Study:
    """A record of `magi evaluate --protocol --json` as a study: a row for each run, their mean, the curve by frame.

    Raises:
        ValueError: naming the file and the field that is not as the command writes it.
    """
    protocol, runs = _object(record["protocol"], "protocol", path), record["runs"]
    if not isinstance(runs, list) or not runs:
        raise ValueError(f"{path}: runs must be a list with at least one run, got {runs!r:.40}")
    for number, run in enumerate(runs):
        _check_run(run, f"runs[{number}]", path)
    names = {str(run["name"]) for run in runs}
    if len(names) > 1:
        raise ValueError(f"{path}: runs must be of one distance, got {', '.join(sorted(names))}")
    (name,) = names
    distances = [float(run["distance"]) for run in runs]
    rows = [_row(f"run {number}", run) for number, run in enumerate(runs)]
    spread = _over_runs(distances)
    if len(runs) > 1:
        rows.append(["mean over runs", f"{statistics.mean(distances):.3f}", spread, "", "", "", ""])
    others = {key: value for key, value in record.items() if key not in ("protocol", "runs")}
    return Study(
        name=path.stem,
        title=f"{record['model']} under protocol {protocol.get('name', '')}",
        question=f"How far are its clips from real ones, as {name} tells?",
        claim="",
        verdict="measured",
        answer=_answer(name, runs, distances, spread),
        protocol={**protocol, **others},
        tables=[Table(name, COLUMNS, rows)],
        curves=_by_frame(runs),
        notes=_notes(runs),
        machine=str(record.get("device", "")),
    )


def _row(label: str, run: Mapping[str, Any]) -> list[str]:
    low, high = run["interval_95"]
    return [
        label, f"{run['distance']:.3f}", f"{low:.3f} to {high:.3f}", f"{run['finite_sample_bias']:.3f}",
        f"{run['kernel_distance']:.4g}", f"{run['real_count']:,}", f"{run['generated_count']:,}",
    ]  # fmt: skip


def _over_runs(distances: Sequence[float]) -> str:
    """Student's interval in words; empty for one run, which tells no spread."""
    interval = over_seeds(distances)
    return "" if interval is None else f"{interval.low:.3f} to {interval.high:.3f} over {len(distances)} runs"


def _answer(name: str, runs: Sequence[Mapping[str, Any]], distances: Sequence[float], spread: str) -> str:
    low, high = runs[0]["interval_95"]
    told = f"{low:.3f} to {high:.3f} over clips" if len(runs) == 1 else spread
    kernel = statistics.mean(float(run["kernel_distance"]) for run in runs)
    return f"{name} {statistics.mean(distances):.3f} ({told}, 95 %); kernel distance {kernel:.4g}."


def _by_frame(runs: Sequence[Mapping[str, Any]]) -> list[Curves]:
    """The distance of single frames by frame, a line for each run; nothing where no detector of frames was at hand."""
    lines = []
    for number, run in enumerate(runs):
        values = run["by_frame"]["distance"]
        if values:
            lines.append(Series(f"run {number}", [float(frame + 1) for frame in range(len(values))], values))
    if not lines:
        return []
    return [Curves("Single frames, given ones included", "frame of the clip", str(runs[0]["by_frame"]["name"]), lines)]


def _notes(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the numbers are of, as the record says it; each sentence once."""
    told = [str(run[key]) for run in runs for key in ("finite_sample_bias_is", "by_frame_is") if run.get(key)]
    if len(runs) > 1:
        told.append(
            "Runs are of one model with other seeds of sampling: their interval is Student's, and tells nothing of "
            "another training."
        )
    return list(dict.fromkeys(told))


def _check_run(run: object, where: str, path: Path) -> None:
    """Refuse what is no run, with the name of the field."""
    content = _object(run, where, path)
    if not isinstance(content.get("name"), str):
        raise ValueError(f"{path}: {where}.name must be text, got {content.get('name')!r:.40}")
    for name in ("distance", "finite_sample_bias", "kernel_distance", "real_count", "generated_count"):
        if not _is_finite(content.get(name)):
            raise ValueError(f"{path}: {where}.{name} must be a finite number, got {content.get(name)!r:.40}")
    interval = content.get("interval_95")
    if not isinstance(interval, list) or len(interval) != 2 or not all(map(_is_finite, interval)):
        raise ValueError(f"{path}: {where}.interval_95 must be two finite numbers, got {interval!r:.40}")
    values = _object(content.get("by_frame"), f"{where}.by_frame", path).get("distance")
    if not isinstance(values, list) or not all(map(_is_finite, values)):
        raise ValueError(f"{path}: {where}.by_frame.distance must be a list of finite numbers, got {values!r:.40}")


def _object(value: object, where: str, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: {where} must be an object, got {value!r:.40}")
    return value


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
