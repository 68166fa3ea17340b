"""The detectors that a protocol asks for, with what is to be said of them beside every number.

Detectors that do not ship are loaded from files that the environment names; each is described, with the file's hash,
and checked against features that are stored for it, if any are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from magi.evaluation.detectors import files
from magi.evaluation.detectors.network import NetworkDetector
from magi.evaluation.detectors.protocol import Detector
from magi.evaluation.detectors.self_check import self_check, stored
from magi.evaluation.protocols import DetectorName

LOADERS: dict[DetectorName, tuple[str, str]] = {
    "world": ("magi.evaluation.detectors.world", "load"),
    "i3d-torchscript": ("magi.evaluation.detectors.torchscript_i3d", "load_torchscript_i3d"),
    "i3d-tfhub": ("magi.evaluation.detectors.torchscript_i3d", "load_torchscript_i3d"),
    "i3d-videogpt": ("magi.evaluation.detectors.i3d", "load_i3d"),
    "videomae": ("magi.evaluation.detectors.videomae", "load_videomae"),
}
"""Module and function by the detector's name in a protocol. TF-hub's network is the one that was traced anew."""
NO_CURVE = (
    f"no curve by frame: it needs a detector of single frames, and {files.INCEPTION.variable} does not name "
    f"{files.INCEPTION.what}"
)


@dataclass(frozen=True)
class Chosen:
    """The detectors of a protocol."""

    detector: Detector
    """Of whole clips."""
    frame_detector: Detector | None
    """Of single frames; None if none is at hand."""

    def lines(self) -> list[str]:
        """What is to be printed: each detector, what became of its self check, and why there is no curve by frame."""
        loaded = [one for one in (self.detector, self.frame_detector) if one is not None]
        told = [line for one in loaded for line in _told(one).values()]
        return told if self.frame_detector is not None else [*told, NO_CURVE]

    def record(self) -> dict[str, Any]:
        """The same for a results file."""
        frames = NO_CURVE if self.frame_detector is None else _told(self.frame_detector)
        return {"clips": _told(self.detector), "frames": frames}


def choose(name: DetectorName, *, device: str = "cpu") -> Chosen:
    """Load the detectors that a protocol names.

    Args:
        name: of the detector of clips.
        device: where they run.

    Raises:
        ValueError: a file is absent, with where it is published; or not to be trusted.
    """
    return Chosen(load_detector(name, device=device), load_frame_detector(name, device=device))


def load_detector(name: DetectorName, *, device: str = "cpu") -> Detector:
    """The detector that a protocol names; weights that do not ship are looked for where the environment says.

    Raises:
        ValueError: its file is absent, with where it is published; or not to be trusted.
    """
    place, function = LOADERS[name]
    module = import_module(place)
    options = {"choices": module.I3DChoices(epsilon="1e-5")} if name == "i3d-videogpt" else {}
    loaded: Detector = getattr(module, function)(device=device, **options)
    return loaded


def load_frame_detector(name: DetectorName, *, device: str = "cpu") -> Detector | None:
    """The detector of single frames that goes with a detector of clips: the world's own, or Inception with the others.

    None where MAGI_INCEPTION names no file.

    Raises:
        ValueError: what it names is absent, or not to be trusted.
    """
    if name == "world":
        world: Detector = import_module("magi.evaluation.detectors.world").load_frames(device=device)
        return world
    if not os.environ.get(files.INCEPTION.variable):
        return None
    loaded: Detector = import_module("magi.evaluation.detectors.inception").load_inception(device=device)
    return loaded


def _told(detector: Detector) -> dict[str, str]:
    """What a detector is and, of a published one, what became of its self check."""
    if not isinstance(detector, NetworkDetector):
        return {"description": f"{detector.name}: ships with the package, fingerprint {detector.fingerprint}"}
    return {
        "description": f"{detector.name}: {detector.description}",
        "self_check": str(self_check(detector, stored(detector))),
    }
