"""Settings files: YAML to the flags that would say the same, and settings to YAML. Knows no setting by name.

A file goes through the same parser as the command line, so that types, choices and errors are the same; that flags
overrule files is the order of the words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from magi import __version__


def read_flags(path: Path, like: Any) -> list[str]:
    """Return the content of a settings file as flags, `train: {batch_size: 8}` as `--train.batch-size 8`.

    Args:
        path: YAML, nested as the settings are; any part of them.
        like: a dataclass instance that has all settings there are.

    Raises:
        ValueError: the file is missing or no YAML, or holds a name that is no setting.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such settings file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise ValueError(f"{path} holds a {kind}; expected settings by name, as in train: {{batch_size: 8}}")
    known = flatten(asdict(like))
    flags: list[str] = []
    for name, value in flatten(content).items():
        name = name.replace("-", "_")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise ValueError(f"{path}: there is no setting {name}{f'; did you mean {near[0]}?' if near else ''}")
        words = value if isinstance(value, list) else [value]
        flags += [f"--{name.replace('_', '-')}", *map(str, words)]
    return flags


def write_settings(path: Path, settings: Any, *, note: str) -> None:
    """Write a dataclass instance as YAML, every setting in it, under a comment that says how to use the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = json.loads(json.dumps(asdict(settings)))  # tuples become lists
    path.write_text(f"# magi {__version__}. {note}\n{yaml.safe_dump(plain, sort_keys=False)}", encoding="utf-8")


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name to value."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        inner = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return flat
