"""Whether a detector still makes the features it made before: of a fixed clip, against a stored vector.

A fingerprint tells that file and choices are the same. This tells that what came between them and the features is: the
library, the card, our own code. Vectors are stored by fingerprint. The store that ships is empty, because no published
weights were at hand when it was made; whoever has a vector from the original program adds it with `remember`.

Shapes: T frames, D features.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magi.evaluation.detectors.protocol import Detector

SHIPPED = Path(__file__).with_name("self_check.json")
SEED, FRAMES, SIZE, TILE = 20_250_123, 16, 64, 8
TOLERANCE = 1e-3
"""Of the difference's length, relative to the vector's; the TorchScript I3D and TensorFlow's differ by 2.6e-4 in length
(universome/fvd-comparison)."""


@dataclass(frozen=True)
class SelfCheck:
    """What became of the comparison."""

    name: str
    difference: float | None
    """Length of the difference, relative to the stored vector's; None if none is stored."""
    tolerance: float
    worst: int | None = None
    """The feature that differs most."""
    values: tuple[float, float] | None = None
    """It as found, and as stored."""

    @property
    def passed(self) -> bool | None:
        """None if there was nothing to compare with."""
        return None if self.difference is None else self.difference <= self.tolerance

    def __str__(self) -> str:
        if self.difference is None or self.values is None:
            return f"{self.name}: not self-checked, no features are stored for its fingerprint"
        word = "passed" if self.passed else "FAILED"
        return (
            f"{self.name}: self-check {word}, features of the probe differ by {self.difference:.2e} of their length "
            f"(at most {self.tolerance:.0e}); most at {self.worst}: {self.values[0]:.6g}, stored {self.values[1]:.6g}"
        )


def probe(*, frames: int = FRAMES) -> Tensor:
    """The clip: coloured tiles that drift, under a little noise; (1, T, 3, 64, 64) uint8.

    Raw words of a bit generator, whose stream numpy keeps fixed (NEP 19), and whole numbers only: the same everywhere.
    """
    generator = np.random.PCG64(SEED)
    tiles = _bytes(generator, 3 * (SIZE // TILE) ** 2).reshape(3, SIZE // TILE, SIZE // TILE)
    picture = tiles.repeat(TILE, axis=1).repeat(TILE, axis=2) // 8 * 7
    clip = np.stack([np.roll(picture, (frame, 2 * frame), axis=(1, 2)) for frame in range(frames)])
    noise = _bytes(generator, clip.size).reshape(clip.shape) % 32
    return torch.from_numpy(clip + noise)[None]  # at most 31 * 7 + 31 = 248


def _bytes(generator: np.random.PCG64, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The lowest byte of each word, whatever the machine's byte order."""
    return (generator.random_raw(count) & 255).astype(np.uint8)


def self_check(detector: Detector, expected: Tensor | None, *, tolerance: float = TOLERANCE) -> SelfCheck:
    """Compare a detector's features of the probe with what they should be.

    Args:
        detector: to be checked.
        expected: (D,) from `stored`; None compares nothing.
        tolerance: of the difference's length relative to the vector's.

    Raises:
        ValueError: `expected` is no vector of the detector's length.
    """
    if expected is None:
        return SelfCheck(detector.name, None, tolerance)
    if tuple(expected.shape) != (detector.dim,):
        raise ValueError(f"{detector.name} makes {detector.dim} features, the stored ones are {tuple(expected.shape)}")
    found, wanted = _features(detector).double(), expected.double()
    gap = (found - wanted).abs()
    difference = float(gap.norm() / wanted.norm().clamp(min=1e-12))
    worst = int(gap.argmax())
    return SelfCheck(detector.name, difference, tolerance, worst, (float(found[worst]), float(wanted[worst])))


def _features(detector: Detector) -> Tensor:
    return detector.features(probe(frames=detector.frames or FRAMES))[0]


def remember(detector: Detector, path: Path) -> None:
    """Write a detector's features of the probe to a store, beside what is there: (D,) under its fingerprint.

    Args:
        detector: one that is known to be right.
        path: a JSON file; made if it is not there.
    """
    entries = _read(path) if path.is_file() else {}
    entries[detector.fingerprint] = {
        "name": detector.name,
        "frames": detector.frames or FRAMES,
        "features": [float(f"{value:.8g}") for value in _features(detector).tolist()],
    }
    path.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def stored(detector: Detector, path: Path = SHIPPED) -> Tensor | None:
    """The features (D,) that a store has for a detector's fingerprint; None if it has none.

    Raises:
        ValueError: the file is no such store.
    """
    entry = _read(path).get(detector.fingerprint)
    return None if entry is None else torch.tensor(entry["features"])


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(entries, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("features"), list) for entry in entries.values()
    ):
        raise ValueError(f"{path} is no store of features: expected fingerprints, each with a list of features")
    return entries
