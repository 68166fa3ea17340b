"""Settings that are one of a few words: refused where they are stated, in Python as on the command line.

A misspelt word would otherwise select, in silence, whatever the code does last.
"""

from __future__ import annotations

from dataclasses import fields
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def check_choices(config: DataclassInstance) -> None:
    """Compare every field whose type is a ``Literal``, or one or None, with its choices.

    Raises:
        ValueError: a field holds none of them; with its name, the value and the choices.
    """
    hints = get_type_hints(type(config))
    for field in fields(config):
        choices, value = _choices(hints[field.name]), getattr(config, field.name)
        if choices and value not in choices:
            expected = ", ".join(map(repr, choices))
            raise ValueError(f"{field.name} must be one of {expected}; got {value!r}")


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values a type allows, empty where it is no matter of choice."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        parts = [(None,) if part is type(None) else _choices(part) for part in get_args(hint)]
        return tuple(choice for part in parts for choice in part) if all(parts) else ()
    return ()
