"""A study as it is kept: what was asked, what came out, in tables, curves and films that a page can draw.

Results files are these records in JSON. Whoever measures writes them, whoever draws reads them, and neither knows the
other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from magi.checkpoint import write_whole

KIND, VERSION = "magi study", 1  # what a results file says that it is

Verdict = Literal["held", "did not hold", "undecided", "measured"]
"""Of a claim of the paper; `measured` where there is none to judge."""


@dataclass(frozen=True)
class Table:
    """Numbers with their uncertainty, as text."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"rows[{index}] has {len(row)} cells, and there are {len(self.columns)} columns")


@dataclass(frozen=True)
class Series:
    """One line of a plot."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    """A band, if there is one; the caption of the plot tells what it is: an interval over clips, a range over seeds."""

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"a band needs low and high, and {self.name!r} has one of them")
        for name in ("y", "low", "high"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.x):
                raise ValueError(f"{name} of {self.name!r} has {len(values)} numbers, and x has {len(self.x)}")


@dataclass(frozen=True)
class Curves:
    """One plot."""

    caption: str
    x: str
    y: str
    series: Sequence[Series]
    log: Literal["", "x", "y", "xy"] = ""

    def __post_init__(self) -> None:
        for line in self.series:
            for axis in self.log:
                lost = [value for value in getattr(line, axis) if value <= 0]
                if lost:
                    raise ValueError(f"{axis} of {line.name!r} holds {lost[0]:g}, which a logarithmic axis cannot show")


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


def write_study(path: Path, study: Study) -> None:
    """Write a study as JSON, whole or not at all, and only what `read_study` reads back.

    Raises:
        ValueError: naming the file and the field that holds what is no text or finite number where one belongs.
    """
    record = {"kind": KIND, "version": VERSION, **asdict(study)}
    decode_study(record, path)
    write_whole(path, json.dumps(record, indent=1) + "\n")


def read_study(path: Path) -> Study:
    """Read what `write_study` wrote.

    Raises:
        ValueError: in one line, the file, the field, what is there and what belongs there.
    """
    return decode_study(read_json(path), path)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it is none, naming the file and the place.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON, or only a part of it: {error}") from None


def is_study(record: object) -> bool:
    """Whether the content of a JSON file claims to be a study."""
    return isinstance(record, Mapping) and record.get("kind") == KIND


def decode_study(record: object, path: Path) -> Study:
    """A study from the content of its file; `path` is for the words of errors, which are those of `read_study`."""
    if not isinstance(record, Mapping) or not is_study(record):
        raise ValueError(f'{path} is no study: expected an object with "kind": "{KIND}"')
    if record.get("version") != VERSION:
        raise ValueError(f"{path} is a study of version {record.get('version')!r}; this program reads {VERSION}")
    content = {name: value for name, value in record.items() if name not in ("kind", "version")}
    try:
        study: Study = _decode(Study, content, "")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return study


def _decode(kind: Any, value: Any, where: str) -> Any:
    """What a field of type `kind` may hold, from plain data; `where` is its name, as in ``curves[0].series[1].y``."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):  # only ever "or nothing"
        return None if value is None else _decode(inner[0], value, where)
    if origin is Literal:
        if not isinstance(value, str) or value not in inner:
            raise ValueError(f"{where} must be {' or '.join(map(repr, inner))}, got {_short(value)}")
        return value
    if origin is Sequence:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} must be a list, got {_short(value)}")
        return tuple(_decode(inner[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be an object, got {_short(value)}")
        _check_plain(value, where)
        return dict(value)
    if is_dataclass(kind):
        return _decode_record(kind, value, where)
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{where} must be a finite number, got {_short(value)}")
        return value
    assert kind is str, f"a study has no fields of type {kind}"
    if not isinstance(value, str):
        raise ValueError(f"{where} must be text, got {_short(value)}")
    return value


def _decode_record(kind: Any, value: Any, where: str) -> Any:
    """A record from an object with exactly its fields; those with a default may be absent."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be an object, got {_short(value)}")
    hints = get_type_hints(kind)
    within = f"{where}." if where else ""
    unknown = sorted(map(str, value.keys() - hints.keys()))
    if unknown:
        raise ValueError(f"{within}{unknown[0]} is unknown; expected {', '.join(hints)}")
    needed = {one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING}
    absent = sorted(needed - value.keys())
    if absent:
        raise ValueError(f"{within}{absent[0]} is absent")
    decoded = {name: _decode(hints[name], inner, f"{within}{name}") for name, inner in value.items()}
    try:
        return kind(**decoded)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _check_plain(value: Any, where: str) -> None:
    """Refuse what JSON cannot hold or would change."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise ValueError(f"{where} has the name {_short(name)}, and names must be text")
            _check_plain(inner, f"{where}.{name}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check_plain(inner, f"{where}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be finite, got {value}; write it as text if it is meant")
    elif value is not None and not isinstance(value, str | bool | int | float):
        raise ValueError(f"{where} must be text, a number or a list of them, got {_short(value)}")


def _short(value: object) -> str:
    """A value as far as it fits into a line."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
