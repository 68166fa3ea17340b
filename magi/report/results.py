"""Finding results in files and making studies of them: of a reproduction, of `magi evaluate --json`, of a training run.

Knows files; how studies look is `study_page`'s business. Nothing is measured again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magi.evaluation.world import HORIZONS
from magi.report.distances import distance_study, is_distances
from magi.report.studies import Curves, Series, Study, Table, decode_study, is_study, read_json

METRICS = "metrics.jsonl"
EXPECTED = f"a study, a record of magi evaluate --json, a folder with some of these, or a training run with {METRICS}"
UNITS = {
    "PSNR": "PSNR, dB",
    "position error": "position error, px",
    "count correct": "frames with the right bodies, share",
}
ASIDE = ("samples", "step", "lr", "grad_norm", "samples_per_second")  # of a log: not what a run is judged by
POINTS = 200  # of a curve, above which a point is the mean of several entries


@dataclass(frozen=True)
class Kept:
    """A study and the file it comes from."""

    study: Study
    path: Path


@dataclass(frozen=True)
class Results:
    """What one argument of `magi report` holds."""

    name: str
    studies: Sequence[Kept]
    left_out: Sequence[str] = ()
    """JSON files in its folder that are no results."""


def read_results(path: Path) -> Results:
    """What there is at a path: a file of results, a folder of them at any depth, or a training run.

    Files of a folder come in the order of their names, in which numbers count as numbers. JSON files in it that are
    something else are left out and named; a broken one is an error, and so is a file named itself that is no result.

    Raises:
        ValueError: in one line, the file and what is wrong with it.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist; give {EXPECTED}")
    if path.is_file():
        log = path.name == METRICS
        study = training_study(path) if log else study_of(read_json(path), path)
        if study is None:
            raise ValueError(f"{path} is JSON and no result to report; give {EXPECTED}")
        return Results(str(path), [Kept(study, path)])
    if (path / METRICS).is_file():
        return Results(str(path), [Kept(training_study(path / METRICS), path / METRICS)])
    kept, left_out = [], []
    for file in sorted(path.rglob("*.json"), key=_natural):
        if any(part.startswith(".") for part in file.relative_to(path).parts):
            continue
        study = study_of(read_json(file), file)
        if study is None:
            left_out.append(file.relative_to(path).as_posix())
        else:
            kept.append(Kept(study, file))
    if not kept:
        others = f" among its {len(left_out)} JSON files" if left_out else ""
        raise ValueError(f"{path} has no results{others}; give {EXPECTED}")
    return Results(str(path), kept, left_out)


def study_of(record: object, path: Path) -> Study | None:
    """The content of a JSON file as a study; None if it is neither one nor a record of `magi evaluate`.

    Raises:
        ValueError: it says that it is one of these, and is not; naming the file and the field.
    """
    if is_study(record):
        return decode_study(record, path)
    if isinstance(record, Mapping) and {"magi", "model", "data", "scores"} <= record.keys():
        return evaluation_study(record, path)
    if isinstance(record, Mapping) and is_distances(record):
        return distance_study(record, path)
    return None


# what `magi evaluate` wrote


def evaluation_study(record: Mapping[str, Any], path: Path) -> Study:
    """A record of `magi evaluate --json` as a study: each metric by frame, of the model and what stands beside it.

    Raises:
        ValueError: naming the file and the score that is no list of numbers as long as the others.
    """
    scores = _checked_scores(record["scores"], "scores", path)
    frames = len(next(iter(scores.values())))
    shown = [frame for frame in HORIZONS if frame < frames] + [frames]
    rows = [
        [name, *(_told(values[frame - 1]) for frame in shown), _told(_mean(values))] for name, values in scores.items()
    ]
    interval = f", interval {record['interval']}" if "interval" in record else ""
    lost = sum(not math.isfinite(value) for values in scores.values() for value in values)
    notes = [f"{lost} values are not finite; the curves have gaps there."] if lost else []
    return Study(
        name=path.stem,
        title=f"{record['model']} on {record['data']}{interval}",
        question="How good are the continuations, frame by frame?",
        claim="",
        verdict="measured",
        answer=_ends(scores, frames),
        protocol={name: value for name, value in record.items() if name not in ("scores", "windows")},
        tables=[
            Table("By generated frame", ["", *(f"+{frame}" for frame in shown), "mean"], rows),
            *_of_windows(record, path),
        ],
        curves=_by_metric(scores),
        notes=notes,
        machine=str(record.get("device", "")),
    )


def _of_windows(record: Mapping[str, Any], path: Path) -> list[Table]:
    """The scores of a long video's windows, if any were graded."""
    if "windows" not in record:
        return []
    windows = record["windows"]
    size = windows.get("frames") if isinstance(windows, Mapping) else None
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"{path}: windows must be an object with frames, a whole number above 0, got {windows!r:.40}")
    scores = _checked_scores(windows.get("scores"), "windows.scores", path)
    count = len(next(iter(scores.values())))
    columns = ["", *(f"+{size * window + 1} to +{size * (window + 1)}" for window in range(count))]
    rows = [[name, *map(_told, values)] for name, values in scores.items()]
    return [Table(f"In windows of {size} generated frames", columns, rows)]


def _checked_scores(scores: object, where: str, path: Path) -> dict[str, list[float]]:
    if not isinstance(scores, Mapping) or not scores:
        raise ValueError(f"{path}: {where} must be an object with lists by name, got {scores!r:.40}")
    length = None
    for name, values in scores.items():
        if not isinstance(values, list) or not values or not all(v is None or _is_number(v) for v in values):
            raise ValueError(f"{path}: {where}[{name!r}] must be a list of numbers, null where there is none")
        length = length or len(values)
        if len(values) != length:
            raise ValueError(f"{path}: {where}[{name!r}] has {len(values)} numbers, and the first has {length}")
    return {name: [math.nan if value is None else value for value in values] for name, values in scores.items()}


def _mean(values: Sequence[float]) -> float:
    """Over the frames that have a value; NaN if none has."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _told(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _ends(scores: Mapping[str, Sequence[float]], frames: int) -> str:
    """The model's first and last numbers, metric by metric, beside the last given frame held still."""
    parts = []
    for name, values in scores.items():
        metric, _, who = name.partition(", ")
        if who in ("model", "model, single sample"):
            still = scores.get(f"{metric}, copy last")
            beside = f" (last frame held still: {still[0]:.3g}, {still[-1]:.3g})" if still else ""
            parts.append(f"{metric} {values[0]:.3g} at frame +1, {values[-1]:.3g} at frame +{frames}{beside}")
    return f"{'; '.join(parts)}." if parts else f"{len(scores)} scores of {frames} frames."


def _by_metric(scores: Mapping[str, Sequence[float]]) -> list[Curves]:
    series: dict[str, list[Series]] = {}
    for name, values in scores.items():
        metric, _, who = name.partition(", ")
        points = [(float(frame), value) for frame, value in enumerate(values, start=1) if math.isfinite(value)]
        x, y = [frame for frame, _ in points], [value for _, value in points]
        series.setdefault(metric, []).append(Series(who or metric, x, y))
    return [Curves("", "generated frame", UNITS.get(metric, metric), lines) for metric, lines in series.items()]


# what a training wrote


def training_study(path: Path) -> Study:
    """The log of a training run as a study: what was logged against samples seen, with the run's settings.

    Raises:
        ValueError: naming the file and the line that is no entry; only the last may be torn, by a kill.
    """
    entries, torn = _entries(path)
    columns: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        for name, value in entry.items():
            if name not in ASIDE and _is_number(value) and math.isfinite(value):
                columns.setdefault(name, []).append((float(entry["samples"]), float(value)))
    if not columns:
        raise ValueError(f"{path} has no entries yet; report the run when it has")
    groups: dict[str, list[Series]] = {}
    for name, points in columns.items():
        x, y = zip(*_thinned(points), strict=True)
        groups.setdefault(name.removeprefix("fixed "), []).append(Series(name, x, y))
    first = next(iter(columns))
    rows = [[name, f"{points[0][1]:.4g}", f"{points[-1][1]:.4g}", str(len(points))] for name, points in columns.items()]
    notes = ["The last line of the log was torn and left out: the run was stopped, or goes on."] if torn else []
    if any(len(points) > POINTS for points in columns.values()):
        notes.append(f"Of more than {POINTS} entries a point of a curve is the mean of several.")
    name, samples = path.resolve().parent.name, max(int(entry["samples"]) for entry in entries)
    return Study(
        name=name,
        title=f"Training of {name}",
        question="Did it learn?",
        claim="",
        verdict="measured",
        answer=f"{first} {columns[first][0][1]:.4g} at first, {columns[first][-1][1]:.4g} after {samples:,} samples.",
        protocol=_settings(path.with_name("config.yaml")),
        tables=[Table("As logged", ["", "first", "last", "entries"], rows)],
        curves=[Curves("", "samples seen", name, lines) for name, lines in groups.items()],
        notes=notes,
    )


def _entries(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The log's entries, and whether its last line was not whole."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    lines = text.splitlines()
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not text.endswith("\n"):
                return entries, True
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from None
        if not isinstance(entry, dict) or not _is_number(entry.get("samples")):
            raise ValueError(f"{path}, line {number} must be an object with a number of samples, got {line[:40]!r}")
        entries.append(entry)
    return entries, False


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points, each the mean of as many as it takes, at the last of their positions."""
    width = math.ceil(len(points) / POINTS)
    chunks = [points[first : first + width] for first in range(0, len(points), width)]
    return [(chunk[-1][0], sum(value for _, value in chunk) / len(chunk)) for chunk in chunks]


def _settings(path: Path) -> dict[str, Any]:
    """The run's configuration, if it lies beside the log."""
    if not path.is_file():
        return {}
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    return settings if isinstance(settings, dict) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _natural(path: Path) -> list[list[tuple[int, str]]]:
    """An order in which 10 comes after 9, folder by folder."""
    return [
        [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", part)]
        for part in path.parts
    ]
