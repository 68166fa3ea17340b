"""Files as they should not be: bytes damaged anywhere, documents with other values. Knows bytes and JSON."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from numpy.random import Generator

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 2**20, 10**9, 2**63 - 1, 2**64, -(2**63), 10**40, 0.5, -0.0, 1e308, float("nan"),
    float("inf"), "", "x", "../../x", "\x00", "ä" * 300, "F32", "I4", [], {}, [[]], [0, 2**50], [-1], {"x": 1}, ["x"],
    [2**32, 2**32], [None],
)  # fmt: skip
"""What a number, a word, a list or a mapping is replaced by."""


def damaged(content: bytes, random: Generator) -> bytes:
    """Change some bytes, anywhere or in the header; or cut, remove, repeat or empty a stretch."""
    changed = bytearray(content)
    kind = random.integers(6)
    if kind < 2:
        reach = len(changed) if kind else min(len(changed), 2048)
        for place in random.integers(0, reach, 2 ** random.integers(0, 5)):
            changed[place] = random.integers(256)
        return bytes(changed)
    first, second = sorted(int(place) for place in random.integers(0, len(changed), 2))
    second = first + (second - first) // int(2 ** random.integers(0, 8))
    match kind:
        case 2:
            del changed[int(random.integers(1, len(changed))) :]
        case 3:
            del changed[first:second]
        case 4:
            changed[first:first] = changed[first:second]
        case 5:
            changed[first:second] = bytes(second - first)
    return bytes(changed)


def damaged_document(document: Any, random: Generator) -> Any:
    """A copy of plain data in which one value, at any depth, is an odd one, gone, or under another name."""
    copied = json.loads(json.dumps(document))
    places = list(_places(copied))
    if not places:
        return ODD[random.integers(len(ODD))]
    inside, key = places[random.integers(len(places))]
    odd = ODD[random.integers(len(ODD))]
    match random.integers(8):
        case 0:
            del inside[key]
        case 1 if isinstance(inside, dict):
            inside[str(odd)] = inside.pop(key)
        case 2 if isinstance(inside, dict):
            inside["unknown"] = odd
        case _:
            inside[key] = odd
    return copied


def damaged_json(text: bytes, random: Generator) -> bytes:
    """A document in JSON whose bytes or whose values are damaged."""
    if random.integers(4) == 0:
        return damaged(text, random)
    return json.dumps(damaged_document(json.loads(text), random)).encode()


def damaged_safetensors(content: bytes, random: Generator) -> bytes:
    """A file of tensors whose bytes are damaged, or whose header says something else."""
    kind = random.integers(4)
    if kind < 2:
        return damaged(content, random)
    (length,) = struct.unpack("<Q", content[:8])
    header = damaged_json(content[8 : 8 + length], random)
    told = len(header) if kind == 2 else (0, 1, length, 2**20, 2**32, 2**63, 2**64 - 1)[random.integers(7)]
    return struct.pack("<Q", told) + header + content[8 + length :]


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every value of plain data but the whole: what it is in, and its key or index there."""
    inner = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(inner):
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)
